"""Order of images, averages, statistics and states: each against the obvious version."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gan_core.config import NetworkConfig, TrainConfig
from gan_core.devices import resolve_precision
from gan_core.errors import RequestError, StoreError
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.snapshot import (
    Prior,
    generate,
    load_snapshot,
    read_meta,
    sample_latents,
    snapshot_name,
    write_snapshot,
)
from gan_core.training import checkpoint as state
from gan_core.training.data import ArrayImages, Feed, Order
from gan_core.training.ema import Average
from gan_core.training.logging import Figures, crossed, reached, tile
from gan_core.training.trainer_state import build

TINY = TrainConfig(network=NetworkConfig(width=0.125), batch=8, kimg=0.1)


def test_order_shows_every_image_once_an_epoch_and_resumes_anywhere() -> None:
    order = Order(10, seed=3)
    stream = order.rows(0, 35)
    for epoch in range(3):
        assert sorted(stream[10 * epoch : 10 * epoch + 10].tolist()) == list(range(10))
    assert not np.array_equal(stream[:10], stream[10:20])
    for start, count in ((0, 7), (7, 7), (9, 12), (30, 5)):
        assert np.array_equal(Order(10, seed=3).rows(start, count), stream[start : start + count])
    assert not np.array_equal(Order(10, seed=4).rows(0, 35), stream)


@pytest.mark.parametrize("resident", [True, False])
def test_feed_gives_the_same_images_resident_or_read_ahead_and_shares_them(resident: bool) -> None:
    array = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    labels = np.arange(12) * 10

    def first(place: int, share: tuple[int, int]) -> list[list[int]]:
        feed = Feed(ArrayImages(array), 4, seed=1, share=share, labels=labels, resident=resident)
        batches = feed.batches(place)
        out = []
        for _ in range(5):
            pixels, given = next(batches)
            assert given is not None and given.tolist() == [10 * int(p[0, 0, 0]) for p in pixels]
            out.append(pixels[:, 0, 0, 0].tolist())
        batches.close()
        return out

    whole = first(0, (0, 1))
    assert whole == [Order(12, 1).rows(4 * i, 4).tolist() for i in range(5)]
    assert first(8, (0, 1))[0] == whole[2]
    for rows, even, odd in zip(whole, first(0, (0, 2)), first(0, (1, 2)), strict=True):
        assert (even, odd) == (rows[::2], rows[1::2])


def test_the_average_is_the_recursion_written_out() -> None:
    state = build(TINY, seed=0, device="cpu", image_size=32)
    source = state.networks["generator"]
    average = Average(source, half_life_images=1000.0)
    expected = [p.detach().clone() for p in source.parameters()]
    for step in range(1, 6):
        with torch.no_grad():
            for p in source.parameters():
                p.add_(0.1 * step)
        average.update(images=20_000, step=8)
        decay = 0.5 ** (8 / 1000)
        expected = [
            decay * old + (1 - decay) * p.detach()
            for old, p in zip(expected, source.parameters(), strict=True)
        ]
    for a, b in zip(average.network.parameters(), expected, strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert average.weight(100, 8) == pytest.approx(
        1 - 0.5 ** (8 / 10)
    )  # early: a tenth of the images seen


def test_figures_are_means_over_their_own_updates() -> None:
    figures = Figures()
    for value in (1.0, 2.0, 6.0):
        figures.add({"a": torch.tensor(value)})
    figures.add({"b": torch.tensor(5.0)})
    assert {k: float(v) for k, v in figures.means().items()} == {"a": 3.0, "b": 5.0}


def test_places_in_names_sort_as_they_follow_and_never_meet() -> None:
    places = [0, 0.05, 0.999, 1, 1.001, 1.5, 2, 2.5, 59.96, 60, 60.25, 1000, 123456]
    names = [snapshot_name(place) for place in places]
    assert (
        names == sorted(set(names))
        and names[3] == "snapshot-000001.safetensors"
        and "000060_250" in names[10]
    )
    seen = [
        reached(images, 0.4) for images in range(16, 4100, 16) if crossed(images - 16, images, 0.4)
    ]
    assert [round(place * 1000) for place in seen] == list(range(400, 4100, 400))


@pytest.mark.parametrize(
    ("before", "after", "every", "expected"),
    [
        (0, 64, 0.1, False),
        (64, 128, 0.1, True),
        (1990, 2010, 1.0, True),
        (2000, 2064, 1.0, False),
        (0, 5000, 0, False),
    ],
)
def test_crossed(before: int, after: int, every: float, expected: bool) -> None:
    assert crossed(before, after, every) is expected


def test_precision_is_recorded_as_one_of_two() -> None:
    assert resolve_precision("float32", "cuda") == "float32"
    assert resolve_precision("auto", "cuda") == "bf16"
    assert resolve_precision("auto", "cpu") in ("float32", "bf16")


def test_tile_places_images_in_reading_order() -> None:
    images = torch.linspace(-1, 1, 6)[:, None, None, None].expand(6, 3, 2, 2)
    sheet = tile(images, columns=4, gap=1)
    assert sheet.shape == (7, 13, 3)
    assert sheet[1, 1, 0] == 0 and sheet[5, 4, 0] == 255 and sheet[0, 0, 0] == 255


def test_states_keep_two_ignore_half_written_and_damaged_ones(tmp_path: Path) -> None:
    for images in (100, 200, 300):
        state.save_state(
            tmp_path,
            state.Position(index=images, images=images),
            {"x": torch.full((2,), float(images))},
            {},
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "state-000000000200",
        "state-000000000300",
    ]
    (tmp_path / "state-000000000400.ab.work").mkdir()
    found = state.load_state(tmp_path, 1000)
    assert found is not None and found[0].images == 300 and found[1]["x"].tolist() == [300.0, 300.0]
    damaged = tmp_path / "state-000000000300" / "tensors.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")
    found = state.load_state(tmp_path, 1000)
    assert found is not None and found[0].images == 200
    assert state.load_state(tmp_path, 150) is None


def test_a_shorter_training_does_not_clear_what_a_longer_one_left(tmp_path: Path) -> None:
    for images in (500, 600):
        state.save_state(tmp_path, state.Position(images=images), {}, {})
    for images in (100, 200, 300):
        state.save_state(tmp_path, state.Position(images=images), {}, {})
    assert [p.name[-3:] for p in sorted(tmp_path.iterdir())] == ["200", "300", "500", "600"]


def test_states_written_aside_are_those_of_their_moment_and_what_fails_is_reported(
    tmp_path: Path,
) -> None:
    """As on a GPU, where training goes on while a state is written."""
    saver = state.Saver(tmp_path / "states", in_background=True)
    weights = {"x": torch.zeros(3_000_000), "y": torch.arange(6.0).reshape(2, 3).T}
    position, extra = state.Position(), {"figures": {"loss": [0.0]}}
    for images in range(1, 5):
        position.images = images
        weights["x"].fill_(images)
        position.updates["generator"] = extra["figures"]["loss"][0] = images
        saver.save(position, weights, extra)
        weights["x"].fill_(-1)
        position.updates["generator"] = extra["figures"]["loss"][0] = -1
    saver.wait()
    for images in (3, 4):
        found = state.load_state(tmp_path / "states", images)
        assert found is not None and found[0] == state.Position(
            images=images, updates={"generator": images}
        )
        assert found[1]["x"].eq(images).all() and torch.equal(found[1]["y"], weights["y"])
        assert found[2] == {"figures": {"loss": [images]}}
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    saver = state.Saver(blocked, in_background=True)
    saver.save(position, weights, {})
    with pytest.raises(OSError, match="file"):
        saver.save(position, weights, {})
    saver.save(position, weights, {})
    with pytest.raises(OSError, match="file"):
        saver.wait()
    saver.wait()


def test_stats_read_back_without_torn_lines_the_last_of_each_place_counting(tmp_path: Path) -> None:
    for images, loss in ((100, 1.0), (200, 2.0), (100, 3.0), (300, float("nan"))):
        state.append_stats(tmp_path, {"images": images, "loss": loss})
    with open(tmp_path / "stats.jsonl", "a") as file:
        file.write('{"images": 40')
    assert [(line["images"], line["loss"]) for line in state.read_stats(tmp_path, 300)] == [
        (100, 3.0),
        (200, 2.0),
        (300, None),
    ]


def _snapshot(path: Path) -> dict[str, LayeredNetwork]:
    state = build(TINY, seed=0, device="cpu", image_size=32)
    networks = {**state.networks, "generator_ema": state.averages["generator"].network}
    write_snapshot(
        path,
        networks,
        state.grid_latents,
        {
            "network": state.spec,
            "method": "dcgan",
            "prior": {"distribution": "uniform", "dim": 100, "classes": 0},
        },
    )
    return networks


def test_snapshot_round_trip_equal_bytes_and_a_seeded_sample(tmp_path: Path) -> None:
    networks = _snapshot(tmp_path / "snapshot-000001.safetensors")
    _snapshot(tmp_path / "again.safetensors")
    assert (tmp_path / "snapshot-000001.safetensors").read_bytes() == (
        tmp_path / "again.safetensors"
    ).read_bytes()
    snapshot = load_snapshot(tmp_path / "snapshot-000001.safetensors")
    assert torch.equal(
        snapshot.discriminator.layer("conv1").operation.weight,
        networks["discriminator"].layer("conv1").operation.weight,
    )
    latents = sample_latents(snapshot.prior, 5, torch.Generator().manual_seed(0))
    assert latents.min() >= -1 and latents.max() <= 1
    pictures = generate(snapshot, latents, batch=2)
    assert pictures.shape == (5, 3, 32, 32)
    assert torch.allclose(pictures, generate(snapshot, latents), atol=1e-6)
    with pytest.raises(StoreError, match="no encoder"):
        snapshot.network("encoder")


def test_what_is_no_snapshot_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "a.safetensors").write_bytes(b"nonsense")
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    for name in "ab":
        with pytest.raises(StoreError):
            read_meta(tmp_path / f"{name}.safetensors")


def test_a_snapshot_runs_no_code_but_that_of_a_network_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file names a module of its writer's choice; neither it nor the package around it is
    imported unasked.
    """
    for name in ("planted", "planted/networks"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the module was run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    state = build(TINY, seed=0, device="cpu", image_size=32)
    meta = {
        "network": {**state.spec, "name": "planted.networks"},
        "method": "dcgan",
        "prior": {"distribution": "uniform", "dim": 100, "classes": 0},
    }
    path = write_snapshot(tmp_path / "a.safetensors", state.networks, state.grid_latents, meta)
    for allow in ([], ["dcgan32"], ["planted"]):
        with pytest.raises(
            RequestError, match=r"asks for the network 'planted\.networks'"
        ) as caught:
            load_snapshot(path, allow=allow)
    assert "--network planted.networks" in caught.value.remedy
    with pytest.raises(SystemExit, match="the module was run"):  # asked for by name, it is
        load_snapshot(path, allow=["planted.networks"])


def test_normal_prior_is_normal() -> None:
    z = sample_latents(Prior("normal", 50), 2000, torch.Generator().manual_seed(0))
    assert abs(float(z.std()) - 1) < 0.01 and float(z.abs().max()) > 2


def test_a_network_for_another_size_is_refused_with_the_setting() -> None:
    with pytest.raises(RequestError, match="dcgan32_svhn takes images of 32 px") as caught:
        build(TINY, seed=0, device="cpu", image_size=64)
    assert "dcgan64" in caught.value.expected and "crop.size=32" in caught.value.remedy
