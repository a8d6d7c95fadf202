"""Tiny image sets in the formats of their publishers, as torchvision keeps them. Each function
fills a folder; the content is random, of a fixed seed.
"""

from __future__ import annotations

import gzip
import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ATTRIBUTES = ("Eyeglasses", "Male", "Smiling")


def pixels(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def make_cifar100(place: Path) -> None:
    folder = place / "cifar-100-python"
    folder.mkdir(parents=True)
    for seed, (name, count) in enumerate((("train", 12), ("test", 6))):
        content = {
            "data": pixels(seed, count, 3072),
            "fine_labels": [number % 5 for number in range(count)],
            "coarse_labels": [number % 2 for number in range(count)],
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    meta = {
        "fine_label_names": ["apple", "baby", "bear", "bed", "bee"],
        "coarse_label_names": ["fruit", "people"],
    }
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))


def make_svhn(place: Path) -> None:
    from scipy.io import savemat

    place.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate((("train", 12), ("test", 6), ("extra", 4))):
        labels = (np.arange(count) % 10 + 1).astype(np.uint8)[:, None]
        savemat(place / f"{name}_32x32.mat", {"X": pixels(seed, 32, 32, 3, count), "y": labels})


def make_stl10(place: Path) -> None:
    folder = place / "stl10_binary"
    folder.mkdir(parents=True)
    for seed, (name, count) in enumerate((("train", 7), ("test", 4), ("unlabeled", 5))):
        (folder / f"{name}_X.bin").write_bytes(pixels(seed, count, 3, 96, 96).tobytes())
        if name != "unlabeled":
            labels = (np.arange(count) % 10 + 1).astype(np.uint8)
            (folder / f"{name}_y.bin").write_bytes(labels.tobytes())
    names = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]
    (folder / "class_names.txt").write_text("\n".join(names) + "\n")
    (folder / "fold_indices.txt").write_text("0 1 2\n")


def idx(array: Any) -> bytes:
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.tobytes()


def make_mnist(place: Path, name: str = "MNIST", *, packed: bool = False) -> None:
    folder = place / name / "raw"
    folder.mkdir(parents=True)
    for seed, (part, count) in enumerate((("train", 12), ("t10k", 6))):
        labels = (np.arange(count) % 10).astype(np.uint8)
        for file, array in (
            (f"{part}-images-idx3-ubyte", pixels(seed, count, 28, 28)),
            (f"{part}-labels-idx1-ubyte", labels),
        ):
            data = idx(array)
            if packed:
                (folder / f"{file}.gz").write_bytes(gzip.compress(data))
            else:
                (folder / file).write_bytes(data)


def make_fashion_mnist(place: Path) -> None:
    make_mnist(place, "FashionMNIST")


def make_celeba(place: Path) -> None:
    folder = place / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{number:06d}.jpg" for number in range(1, 13)]
    for number, name in enumerate(names):
        buffer = io.BytesIO()
        Image.fromarray(pixels(number, 218, 178, 3)).save(buffer, "JPEG")
        (folder / "img_align_celeba" / name).write_bytes(buffer.getvalue())
    split = "".join(f"{name} {number % 3}\n" for number, name in enumerate(names))
    (folder / "list_eval_partition.txt").write_text(split)
    people = "".join(f"{name} {number // 2 + 1}\n" for number, name in enumerate(names))
    (folder / "identity_CelebA.txt").write_text(people)
    signs = np.where(pixels(99, len(names), len(ATTRIBUTES)) % 2, "1", "-1")
    rows = "".join(f"{name} {' '.join(row)}\n" for name, row in zip(names, signs, strict=True))
    (folder / "list_attr_celeba.txt").write_text(f"{len(names)}\n{' '.join(ATTRIBUTES)}\n{rows}")
    for table in ("list_bbox_celeba.txt", "list_landmarks_align_celeba.txt"):
        head = "x_1 y_1 width height" if "bbox" in table else "a b c d"
        body = "".join(f"{name} 1 2 3 4\n" for name in names)
        (folder / table).write_text(f"{len(names)}\n{head}\n{body}")


def make_hf(place: Path) -> None:
    """What `datasets` writes; by the library itself, where it is installed."""
    import datasets

    def rows(seed: int, count: int) -> Any:
        images = [Image.fromarray(image) for image in pixels(seed, count, 9, 7, 3)]
        columns = {"image": images, "label": [number % 2 for number in range(count)]}
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
        )
        return datasets.Dataset.from_dict(columns, features=features)

    both = datasets.DatasetDict({"train": rows(0, 12), "test": rows(1, 6)})
    both.save_to_disk(str(place), num_shards={"train": 2, "test": 1})
