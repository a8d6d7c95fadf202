"""An external network through the command: its features and scores, what makes it run again, no
labels, the README's example.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from gan_core.features.external.network import ExternalNetwork, features
from gan_core.features.external.weights import build_module, load_weights
from gan_core.features.extract import restore_statistics
from gan_core.features.parquet import read_features, read_lineage
from gan_core.files import sha256_file

ROOT = Path(__file__).resolve().parents[2]
MODULE = """
from torch import nn
from blocks import block

class Net(nn.Module):
    def __init__(self, maps):
        super().__init__()
        last = nn.Conv2d(8, 1, 4), nn.Sigmoid()
        self.main = nn.Sequential(*block(3, maps), *block(maps, 8), *last)

    def forward(self, x):
        return self.main(x)
"""
BLOCKS = """
from torch import nn

def block(before, after):
    return nn.Conv2d(before, after, 4, 2, 1), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)
"""
NETWORK = ("--network", "my_net:Net", "--network-args", "maps=4", "--weights", "net.safetensors")
LITTLE = (
    "--set",
    "crop.size=16",
    "--set",
    "evaluate.labels_per_class=[all]",
    "--set",
    "evaluate.draws=1",
    "--set",
    "evaluate.probes=[{name: ridge}]",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with the two files of an external network, its weights, and digits in
    class folders and without.
    """
    (tmp_path / "my_net.py").write_text(MODULE)
    (tmp_path / "blocks.py").write_text(BLOCKS)
    digits = load_digits()
    for number in range(120):
        level = cv2.resize((digits.images[number] * 15.9375).astype(np.uint8), (16, 16))
        for place in (tmp_path / "digits" / str(digits.target[number] % 2), tmp_path / "heap"):
            place.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(place / f"{number}.png"), level)
    weigh(tmp_path, 0)
    return tmp_path


def weigh(folder: Path, seed: int) -> None:
    module = build_module("my_net:Net", {"maps": 4}, root=folder, seed=seed)
    save_file(module.state_dict(), folder / "net.safetensors")
    for name in ("my_net", "blocks"):
        sys.modules.pop(name, None)
    sys.path.remove(str(folder))


def to_do(plan: dict[str, Any]) -> set[str]:
    return {
        row["node"]
        for row in plan["plan"]
        if row["state"] != "cached" and row["node"].startswith("extract")
    }


def test_from_images_to_scores_and_what_runs_again(
    folder: Path, answer: Callable[..., Any]
) -> None:
    home = folder / "home"
    data = ("--data", str(folder / "digits"))
    result = answer(home, "evaluate", *NETWORK, *data, *LITTLE, "--json")
    assert result["features"][0]["length"] == "64 (main_0) + 128 (main_3) = 192"
    assert {row["features"] for row in result["scores"]} == {
        "network",
        "random",
        "pixels",
        "chance",
    }
    stages = {node["node"].split(":")[0] for node in result["nodes"]}
    assert not stages & {"train", "hash", "dedup", "inspect"}, "no GAN is trained"

    artifact = Path(result["features"][0]["folder"])
    lineage = read_lineage(artifact)["network"]
    assert lineage["weights"] == sha256_file(folder / "net.safetensors")
    assert sorted(lineage["sources"]) == ["blocks.py", "my_net.py"]

    matrix, rows = read_features(artifact)
    pixels = np.stack(
        [cv2.imread(str(folder / "digits" / address)) for address in rows["address"].to_pylist()]
    )
    module = load_weights(
        build_module("my_net:Net", {"maps": 4}, root=folder), folder / "net.safetensors"
    )
    # The command measures batch-norm statistics over the training rows alone: put them in by hand.
    restore_statistics(ExternalNetwork(module), load_file(artifact / "statistics.safetensors"))
    same, _ = features(module, pixels, device="cpu")
    np.testing.assert_allclose(
        matrix.astype(np.float32), same.astype(np.float32), rtol=2e-3, atol=2e-3
    )

    command = ("evaluate", *NETWORK, *data, *LITTLE, "--json")
    assert answer(home, *command)["computed"] == []
    weigh(folder, 1)
    assert to_do(answer(home, *command, "--dry-run")) == {"extract:images:network"}
    (folder / "blocks.py").write_text(BLOCKS.replace("0.2", "0.1"))
    plan = answer(home, *command, "--dry-run")
    assert to_do(plan) == {"extract:images:network", "extract:images:random"}
    assert plan["features"]["dims"] == 192


def test_without_labels_features_come_and_scores_say_why_not(
    folder: Path, answer: Callable[..., Any]
) -> None:
    result = answer(
        folder / "home", "run", *NETWORK, "--data", str(folder / "heap"), *LITTLE, "--json"
    )
    assert result["features"][0]["dims"] == 192
    assert "nothing to evaluate" in result["summary"]["sentence"]
    assert "No GAN was trained" in Path(result["report"]).read_text()


def test_mistakes_are_named_before_any_work(folder: Path, discern: Callable[..., Any]) -> None:
    data = ("--data", str(folder / "digits"), "--dry-run")
    wrong = torch.nn.Conv2d(3, 5, 4).state_dict()
    save_file(wrong, folder / "other.safetensors")
    for options, message in (
        (("--network", "my_net:Net"), "--network-args maps=..."),
        (
            (
                "--network",
                "my_net:Net",
                "--network-args",
                "maps=4",
                "--weights",
                "other.safetensors",
            ),
            "do not fit Net",
        ),
    ):
        result = discern("extract", *options, *data, cwd=folder)
        assert result.code in (1, 2) and message in result.err and "Traceback" not in result.err, (
            result.err
        )


def tutorial(folder: Path, updates: int) -> tuple[str, ...]:
    """The options that name the tutorial's discriminator after so many updates on digits."""
    script = ROOT / "examples" / "train_tutorial_dcgan.py"
    command = [sys.executable, str(script), str(folder), str(updates)]
    subprocess.run(command, check=True, capture_output=True, timeout=1500)
    names = ("--network", "tutorial_dcgan:Discriminator", "--network-args", "ngpu=1")
    return (*names, "--weights", str(folder / "netD.pth"))


def test_the_readmes_second_example_in_short(tmp_path: Path, discern: Callable[..., Any]) -> None:
    """One update instead of thirty: the script's files are what the command plans with, and what
    features are taken of.
    """
    network = tutorial(tmp_path, 1)
    data = ("--data", str(tmp_path / "digits"))
    result = discern("run", *network, *data, "--dry-run", "--json", cwd=ROOT / "examples")
    assert result.code == 0, result.err
    assert result.json["features"]["dims"] == 15_360
    module = build_module("tutorial_dcgan:Discriminator", {"ngpu": 1}, root=ROOT / "examples")
    sys.path.remove(str(ROOT / "examples"))
    names = sorted((tmp_path / "digits").rglob("*.png"))
    assert len(names) == 1797
    pixels = np.stack([cv2.imread(str(name)) for name in names[::300]])
    matrix, sizes = features(load_weights(module, tmp_path / "netD.pth"), pixels, device="cpu")
    assert [(size.name, size.dims) for size in sizes] == [
        ("main_0", 1024),
        ("main_2", 2048),
        ("main_5", 4096),
        ("main_8", 8192),
    ]
    assert matrix.shape == (6, 15_360) and matrix.std(axis=0).max() > 0


@pytest.mark.slow
def test_the_readmes_second_example(tmp_path: Path, answer: Callable[..., Any]) -> None:
    """The tutorial's DCGAN trained on digits for a minute, then evaluated: 15,360 values that beat
    chance by far.
    """
    network = tutorial(tmp_path, 10)
    protocol = (
        "--set",
        "evaluate.labels_per_class=[10]",
        "--set",
        "evaluate.draws=1",
        "--set",
        "evaluate.baselines=[pixels]",
    )
    path = f"{ROOT}:{ROOT / 'examples'}"
    data = ("--data", str(tmp_path / "digits"))
    result = answer(
        tmp_path / "home", "evaluate", *network, *data, *protocol, "--json", PYTHONPATH=path
    )
    assert result["features"][0]["dims"] == 15_360
    score = {row["features"]: row["mean"] for row in result["scores"]}
    assert score["network"] > 0.6 > score["chance"]
