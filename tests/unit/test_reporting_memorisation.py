"""What the report says of memorisation: the rate with its interval, and near samples beside the
right training images.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gan_core.config import HashConfig, TrainConfig
from gan_core.dedup.hashing.autoencoder import fit
from gan_core.inspection.memorisation import TrainingCodes, images_of, near_pairs
from gan_core.networks.snapshot import Snapshot
from gan_core.randomness import torch_stream
from gan_core.reporting.inputs import ReportInputs
from gan_core.reporting.memorisation import memorisation, sentence
from gan_core.reporting.run_info import RunFacts
from gan_core.training.trainer_state import build
from gan_core.vision.sheets import encode_png, sheet

FOUND = {
    "samples": 2048,
    "collisions": 0,
    "collision_rate": 0.0,
    "nearest_median": 23.0,
    "real_nearest_median": 24.0,
}


def test_the_rate_comes_with_its_number_of_samples_and_interval() -> None:
    none = sentence({**FOUND, "real_collision_rate": 0.012})
    assert none.startswith(
        "None of 2,048 samples (0.00 %, 95 % interval 0.00 to 0.19 %) have the code of a training "
        "image; 1.20 %"
    )
    one = sentence(
        {**FOUND, "collisions": 1, "collision_rate": 1 / 2048, "real_collision_rate": 0.0}
    )
    assert one.startswith("1 of 2,048 samples (0.05 %, 95 % interval 0.01 to 0.28 %) has the code")


def test_samples_that_are_training_images_are_shown_beside_them(tmp_path: Path) -> None:
    state = build(TrainConfig(network={"width": 0.125}), seed=0, device="cpu", image_size=32)
    snapshot = Snapshot(
        state.networks["generator"].eval(), state.networks["discriminator"].eval(), state.prior
    )
    encoder = fit(
        np.random.default_rng(5).integers(0, 256, (512, 32, 32, 3), np.uint8),
        HashConfig(epochs=1, min_steps=1),
        0,
    )
    mine = images_of(snapshot, 64, torch_stream(0, "memorisation"))
    strangers = np.random.default_rng(1).integers(0, 256, (50, 16), np.uint8)
    places = tuple((f"id{n}", 0) for n in range(52))
    planted = TrainingCodes(
        encoder, np.concatenate([strangers, encoder.encode(mine[[7, 20]])]), places
    )
    rows = {place: 100 + n for n, place in enumerate(places)}
    samples, partners, bits = near_pairs(snapshot, planted, rows, seed=0, samples=64)
    assert (
        {150, 151} <= set(partners)
        and bits == sorted(bits)
        and bits[:2] == [0, 0]
        and len(samples) == len(bits) <= 8
    )
    del rows["id50", 0], rows["id51", 0]
    assert near_pairs(snapshot, planted, rows, seed=0, samples=64)[1:] == ([], []), (
        "what was left out of training is no partner"
    )

    (tmp_path / "near.png").write_bytes(
        encode_png(sheet(np.concatenate([mine[[7, 20]], mine[[7, 20]]]), columns=2))
    )
    said = {
        "stage": "train",
        "summary": {"memorisation": {**FOUND, "real_collision_rate": 0.0, "near_bits": [0, 0]}},
    }
    shown = memorisation(ReportInputs(snapshot=(tmp_path,)), RunFacts(artifacts=[said]), 32)
    assert (
        shown is not None
        and shown["image"].width == 66
        and "0 and 0 bits apart" in shown["caption"]
    )
    assert memorisation(ReportInputs(), RunFacts(), 32) is None
