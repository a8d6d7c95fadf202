"""k nearest neighbours by Euclidean distance on the unscaled features: FAISS where it is, torch
elsewhere, both on a GPU as well.

A tie of votes goes to the class with the nearest neighbour among the tied.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gan_core.probes.base import Features, Labels, as_tensor, block_rows, check_and_encode

ABOUT = "k nearest neighbours, Euclidean, majority vote"
VERSION = 1
TITLE = "k nearest neighbours"
SETTING = "k"
GRID = [1.0, 5.0, 25.0]
WHOLE = True  # only whole numbers
LEAST = 1.0
# FAISS keeps a float32 copy of the features; above this torch converts them block by block.
FAISS_BYTES = 2**31


class Neighbours:
    """The training rows, searchable. Args: backend: 'faiss', 'torch', or '' for what there is."""

    def __init__(self, features: Features, device: str, backend: str = "") -> None:
        fits = features.shape[0] * features.shape[1] * 4 <= FAISS_BYTES
        self.backend = backend or (
            "faiss" if fits and importlib.util.find_spec("faiss") else "torch"
        )
        self.features, self.device = features, device
        if self.backend == "faiss":
            import faiss

            index: Any = faiss.IndexFlatL2(features.shape[1])
            if device.startswith("cuda") and getattr(faiss, "get_num_gpus", lambda: 0)():
                self._resources = faiss.StandardGpuResources()  # must outlive the index
                index = faiss.index_cpu_to_gpu(
                    self._resources, int(device.partition(":")[2] or 0), index
                )
            index.add(np.ascontiguousarray(features, np.float32))
            self._index = index

    def nearest(self, features: Features, count: int) -> npt.NDArray[np.int64]:
        """Positions of the `count` nearest training rows, nearest first: int64 [rows, count]."""
        out = np.empty((len(features), count), np.int64)
        rows = min(block_rows(features.shape[1]), 4096)
        for start in range(0, len(features), rows):
            block = features[start : start + rows]
            if self.backend == "faiss":
                out[start : start + rows] = self._index.search(
                    np.ascontiguousarray(block, np.float32), count
                )[1]
            else:
                out[start : start + rows] = self._by_torch(block, count)
        return out

    def _by_torch(self, block: Features, count: int) -> npt.NDArray[np.int64]:
        """By squared distances |y|^2 - 2 x.y (|x|^2 is the same for all) to a block of training
        rows at a time.
        """
        import torch

        queries = as_tensor(block).to(self.device).float()
        best = queries.new_empty((len(queries), 0))
        positions = torch.empty((len(queries), 0), dtype=torch.int64, device=queries.device)
        rows = block_rows(self.features.shape[1])
        for start in range(0, len(self.features), rows):
            known = as_tensor(self.features[start : start + rows]).to(self.device).float()
            distances = known.square().sum(1) - 2 * queries @ known.T
            numbers = torch.arange(start, start + len(known), device=queries.device)
            best = torch.cat([best, distances], 1)
            positions = torch.cat([positions, numbers.expand(len(queries), -1)], 1)
            best, order = best.topk(min(count, best.shape[1]), dim=1, largest=False, sorted=True)
            positions = positions.gather(1, order)
        return positions.cpu().numpy()


@dataclass
class KNearest:
    """Votes of the `value` nearest training rows."""

    value: float
    classes: Labels
    index: Labels
    neighbours: Neighbours
    certificate: dict[str, float] = field(default_factory=dict)

    def predict(self, features: Features) -> Labels:
        """Classes of features [rows, dims]: int64 [rows]."""
        return self.predict_together([self], features)[0]

    @staticmethod
    def predict_together(models: Sequence[KNearest], features: Features) -> list[Labels]:
        """Answers of models over one set of training rows or several: one search for each set."""
        found: dict[int, npt.NDArray[np.int64]] = {}
        answers = []
        for model in models:
            same = [other for other in models if other.neighbours is model.neighbours]
            if id(model.neighbours) not in found:
                count = min(int(max(other.value for other in same)), len(model.index))
                found[id(model.neighbours)] = model.neighbours.nearest(features, count)
            answers.append(model.vote(found[id(model.neighbours)]))
        return answers

    def vote(self, nearest: npt.NDArray[np.int64]) -> Labels:
        """Majority among the first k columns, ties by the nearest."""
        votes = self.index[nearest[:, : int(self.value)]]
        rows, places = np.arange(len(votes)), votes.shape[1]
        counts = np.zeros((len(votes), len(self.classes)))
        for place in range(places):
            np.add.at(counts, (rows, votes[:, place]), 1.0)
        first = np.full(counts.shape, places)  # place of a class's nearest row
        for place in reversed(range(places)):
            first[rows, votes[:, place]] = place
        answer: Labels = self.classes[np.argmax(counts - 0.5 * first / (places + 1), axis=1)]
        return answer


def fit(
    features: Features,
    labels: Labels,
    values: Sequence[float] = tuple(GRID),
    *,
    seed: int = 0,
    device: str = "cpu",
    backend: str = "",
) -> list[KNearest]:
    """One model for each k in `values`, over one index. A k above the number of rows is that
    number.

    Raises: DataError as `linear_svm.fit`.
    """
    classes, index = check_and_encode(features, labels)
    neighbours = Neighbours(features, device, backend)
    return [KNearest(float(value), classes, index, neighbours) for value in values]
