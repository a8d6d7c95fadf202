"""The published sets give the images, labels and splits that torchvision and `datasets` read."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gan_core import registry
from gan_core.config import SourceConfig
from gan_core.datasets.base import Entry
from gan_core.errors import RequestError, UnknownName
from gan_core.vision.decode import decode
from gan_core.vision.image_files import UnreadableImage
from tests import published_sets as sets


def read(name: str, place: Path, **options: Any) -> dict[str, list[tuple[Entry, Any]]]:
    """Split to entries with their images, in order."""
    module = registry.load("datasets", name)
    source = module.open_source(SourceConfig(name="x", dataset=name, options=options), place)
    entries = [entry for stamp in source.stamps() for entry in source.entries(stamp)]
    blobs = source.read_many([(entry.address, entry.member) for entry in entries])
    found: dict[str, list[tuple[Entry, Any]]] = {}
    for entry, blob in zip(entries, blobs, strict=True):
        found.setdefault(entry.split, []).append((entry, decode(blob.read())))
    return found


def compare(found: list[tuple[Entry, Any]], reference: Any) -> None:
    """Images and labels of a split, against a data set of torchvision."""
    assert len(found) == len(reference) > 0
    for (entry, image), (other, label) in zip(found, reference, strict=True):
        assert np.array_equal(image, np.asarray(other.convert("RGB")))
        assert entry.label == int(label)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision compares checksums of the whole sets; these are tiny."""
    from torchvision import datasets
    from torchvision.datasets import svhn

    for kind in (datasets.CIFAR100, datasets.STL10, datasets.CelebA):
        monkeypatch.setattr(kind, "_check_integrity", lambda self: True)
    monkeypatch.setattr(svhn, "check_integrity", lambda *given: True)
    monkeypatch.setattr(datasets.CIFAR100, "_load_meta", lambda self: None)


Make = Callable[[Path], None]


@pytest.mark.usefixtures("unchecked")
def test_cifar100(tmp_path: Path) -> None:
    from torchvision.datasets import CIFAR100

    sets.make_cifar100(tmp_path)
    found = read("cifar100", tmp_path)
    for split in ("train", "test"):
        compare(found[split], CIFAR100(str(tmp_path), train=split == "train"))
    assert [entry.label_name for entry, _ in found["test"]][:3] == ["apple", "baby", "bear"]
    coarse = read("cifar100", tmp_path / "cifar-100-python", coarse=True)
    assert {entry.label_name for entry, _ in coarse["train"]} == {"fruit", "people"}


@pytest.mark.usefixtures("unchecked")
def test_svhn(tmp_path: Path) -> None:
    from torchvision.datasets import SVHN

    sets.make_svhn(tmp_path)
    found = read("svhn", tmp_path)
    for split in ("train", "test"):
        compare(found[split], SVHN(str(tmp_path), split=split))
    assert found["train"][9][0].label_name == "0"  # the publisher's class 10
    more = read("svhn", tmp_path, extra=True)
    compare(more["train"][:4], SVHN(str(tmp_path), split="extra"))
    assert len(more["train"]) == 16


@pytest.mark.usefixtures("unchecked")
def test_stl10(tmp_path: Path) -> None:
    from torchvision.datasets import STL10

    sets.make_stl10(tmp_path)
    found = read("stl10", tmp_path)
    compare(found["test"], STL10(str(tmp_path), split="test"))
    compare(found["train"][:7], STL10(str(tmp_path), split="train"))
    unlabelled = STL10(str(tmp_path), split="unlabeled")
    for (entry, image), (other, label) in zip(found["train"][7:], unlabelled, strict=True):
        assert entry.label is None and label == -1
        assert np.array_equal(image, np.asarray(other))
    assert found["test"][1][0].label_name == "bird"
    assert len(read("stl10", tmp_path, unlabelled=False)["train"]) == 7


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_and_fashion_mnist(name: str, tmp_path: Path) -> None:
    from torchvision.datasets import MNIST, FashionMNIST

    kind = {"mnist": MNIST, "fashion_mnist": FashionMNIST}[name]
    sets.make_mnist(tmp_path, kind.__name__)
    found = read(name, tmp_path)
    for split in ("train", "test"):
        compare(found[split], kind(str(tmp_path), train=split == "train"))
    assert found["test"][2][0].label_name == {"mnist": "2", "fashion_mnist": "Pullover"}[name]


def test_packed_files_are_the_same_images(tmp_path: Path) -> None:
    sets.make_mnist(tmp_path / "plain")
    sets.make_mnist(tmp_path / "packed", packed=True)
    plain, packed = read("mnist", tmp_path / "plain"), read("mnist", tmp_path / "packed")
    for split in ("train", "test"):
        for (one, image), (other, same) in zip(plain[split], packed[split], strict=True):
            assert np.array_equal(image, same) and one.label == other.label
    # both forms of a file in one folder are one file
    sets.make_mnist(tmp_path / "packed" / "MNIST", "..", packed=False)
    raw = tmp_path / "packed" / "MNIST" / "raw"
    for file in (tmp_path / "plain" / "MNIST" / "raw").iterdir():
        (raw / file.name).write_bytes(file.read_bytes())
    assert len(read("mnist", tmp_path / "packed")["train"]) == 12


@pytest.mark.usefixtures("unchecked")
def test_celeba(tmp_path: Path) -> None:
    from torchvision.datasets import CelebA

    sets.make_celeba(tmp_path)
    found = read("celeba", tmp_path, label="Male")
    column = sorted(sets.ATTRIBUTES).index("Male")
    for ours, theirs in (("train", "train"), ("validation", "valid"), ("test", "test")):
        reference = CelebA(str(tmp_path), split=theirs, target_type=["attr", "identity"])
        assert len(found[ours]) == len(reference) == 4
        for (entry, image), (other, (attributes, person)) in zip(
            found[ours], reference, strict=True
        ):
            assert np.abs(image.astype(int) - np.asarray(other)).max() <= 2  # two JPEG decoders
            assert entry.label == int(attributes[column])
            assert entry.attributes["identity"] == str(int(person))
            assert len(entry.attributes["attributes"]) == int(attributes.sum())
    people = read("celeba", tmp_path / "celeba", label="identity")
    assert {entry.label for entry, _ in people["train"]} <= set(range(1, 7))
    assert read("celeba", tmp_path)["train"][0][0].label is None
    with pytest.raises(UnknownName, match="did you mean 'Male'"):
        read("celeba", tmp_path, label="male")


def test_a_folder_of_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    sets.make_hf(tmp_path / "both")
    found = read("hf", tmp_path / "both")
    reference = datasets.load_from_disk(str(tmp_path / "both"))
    for split in ("train", "test"):
        assert len(found[split]) == len(reference[split])
        for (entry, image), row in zip(found[split], reference[split], strict=True):
            assert np.array_equal(image, np.asarray(row["image"].convert("RGB")))
            assert (entry.label, entry.label_name) == (row["label"], ["cat", "dog"][row["label"]])
    single = read("hf", tmp_path / "both" / "train")
    assert len(single[""]) == 12  # one dataset names no split
    with pytest.raises(RequestError, match="state.json"):
        read("hf", tmp_path)


@pytest.mark.parametrize(
    ("name", "make", "file"),
    [
        ("cifar100", sets.make_cifar100, "cifar-100-python/train"),
        ("svhn", sets.make_svhn, "train_32x32.mat"),
        ("stl10", sets.make_stl10, "stl10_binary/train_X.bin"),
        ("mnist", sets.make_mnist, "MNIST/raw/train-images-idx3-ubyte"),
    ],
)
def test_a_file_cut_short_is_a_row_with_its_reason(
    name: str, make: Make, file: str, tmp_path: Path
) -> None:
    make(tmp_path)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(whole[: len(whole) // 2 + 1])
    module = registry.load("datasets", name)
    source = module.open_source(SourceConfig(name="x", dataset=name), tmp_path)
    entries = {stamp.address: list(source.entries(stamp)) for stamp in source.stamps()}
    (broken,) = entries.pop(file)
    assert broken.problem.startswith(("damaged: ", "truncated: "))
    assert all(not entry.problem for rest in entries.values() for entry in rest)
    with pytest.raises(UnreadableImage):
        next(source.read_many([(file, "0")])).read()


def test_a_gzip_file_cut_short(tmp_path: Path) -> None:
    sets.make_mnist(tmp_path, packed=True)
    file = tmp_path / "MNIST/raw/t10k-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(b"no idx"))
    module = registry.load("datasets", "mnist")
    source = module.open_source(SourceConfig(name="x", dataset="mnist"), tmp_path)
    problems = [entry.problem for stamp in source.stamps() for entry in source.entries(stamp)]
    assert sum(problem.startswith("damaged: ") for problem in problems) == 1


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path) -> None:
    sets.make_cifar100(tmp_path)
    evil = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    (tmp_path / "cifar-100-python" / "train").write_bytes(evil)
    module = registry.load("datasets", "cifar100")
    source = module.open_source(SourceConfig(name="x", dataset="cifar100"), tmp_path)
    problems = [entry.problem for stamp in source.stamps() for entry in source.entries(stamp)]
    assert any("os.system" in problem or "posix.system" in problem for problem in problems)
    assert not (tmp_path / "ran").exists()
