"""A linear probe while training runs: how well the discriminator's features predict the labels of
held-out training images.

For the curve next to the losses and, with `choose: best_probe`, for choosing the snapshot that
gives the features, which every score then says. It uses labels (validation ones, cut from the
training images), never the test split, and no weight of the GAN depends on it. The probe is ridge
regression onto one-hot labels in its dual form, one exact solve, with one fixed context; the scores
of stage evaluate come from another protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from gan_core.config import TrainConfig
from gan_core.methods.base import Base
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import calibrate_batchnorm
from gan_core.randomness import numpy_stream
from gan_core.training.data import ImageSet
from gan_core.training.logging import crossed
from gan_core.training.trainer_state import TrainerState, plain_features
from gan_core.vision.tensors import to_float

FIT, HELD_OUT = 4000, 1000  # images at most; of a small set a fifth is held out
RIDGE = 1e-2  # times the mean squared length of the features
_BATCH = 128
PROBED = "probe_validation_accuracy"  # its name in a line of statistics
CLUSTERED = "probe_cluster_accuracy"


class Probe:
    """Fixed images and labels, drawn once.

    Args: labels: int64 [n] of the whole set, below 0 where there is none.
    """

    def __init__(
        self, images: ImageSet, labels: npt.NDArray[np.int64], seed: int, device: str = "cpu"
    ) -> None:
        known = np.flatnonzero(labels >= 0)
        rows = known[numpy_stream(seed, "probe").permutation(len(known))]
        held = min(HELD_OUT, len(rows) // 5)
        self._parts = [np.sort(rows[:held]), np.sort(rows[held : held + FIT])]
        self._pixels = [images.pixels(part) for part in self._parts]
        names = np.unique(labels[rows])
        self._labels = [
            torch.from_numpy(np.searchsorted(names, labels[part])) for part in self._parts
        ]
        self._classes, self._device = len(names), device

    @property
    def useful(self) -> bool:
        """Whether there is anything to tell apart."""
        return self._classes > 1 and all(len(part) > 1 for part in self._parts)

    @torch.no_grad()
    def accuracy(self, network: LayeredNetwork) -> float:
        """Share of the held-out images whose label is read off correctly, 0 to 1.

        Args: network: of images, a copy: it is calibrated and set to evaluation mode.
        """
        network.without_labels = True
        batches = [self._images(1, start) for start in range(0, len(self._pixels[1]) - 1, _BATCH)]
        calibrate_batchnorm(network, [batch for batch in batches if len(batch) > 1][:20])
        network.eval()
        held, fitted = (self._features(network, part) for part in (0, 1))
        gram = fitted @ fitted.T
        # above 0, so that equal features leave a matrix that can be solved
        gram.diagonal().add_(max(RIDGE * float(gram.diagonal().mean()), 1e-6))
        targets = F.one_hot(self._labels[1], self._classes).to(gram) - 1 / self._classes
        answers = (held @ fitted.T) @ torch.linalg.solve(gram, targets)
        return float((answers.argmax(1).cpu() == self._labels[0]).float().mean())

    @torch.no_grad()
    def cluster_accuracy(self, method: Base) -> float:
        """Share of the held-out images whose cluster is matched to their label, 0 to 1.

        Clusters are matched to labels, at most one to each, where the other images agree most
        (Hungarian method). Args: method: bound to calibrated networks.
        """
        from scipy.optimize import linear_sum_assignment

        found = []
        for part in (0, 1):
            scores = [
                method.clusters(self._images(part, start))
                for start in range(0, len(self._pixels[part]), _BATCH)
            ]
            found.append(torch.cat([s for s in scores if s is not None]).argmax(1).cpu())
            count = 0 if scores[0] is None else scores[0].shape[1]
        table = np.zeros((count, self._classes), np.int64)
        np.add.at(table, (found[1].numpy(), self._labels[1].numpy()), 1)
        clusters, classes = linear_sum_assignment(table, maximize=True)
        label_of = np.full(count, -1)
        label_of[clusters] = classes
        return float((label_of[found[0].numpy()] == self._labels[0].numpy()).mean())

    def _images(self, part: int, start: int) -> Tensor:
        return to_float(
            torch.from_numpy(self._pixels[part][start : start + _BATCH]).to(self._device)
        )

    def _features(self, network: LayeredNetwork, part: int) -> Tensor:
        names = [info.name for info in network.layers() if info.maps]
        out = []
        for start in range(0, len(self._pixels[part]), _BATCH):
            maps = network.activations(self._images(part, start), names)
            out.append(
                torch.cat([F.adaptive_max_pool2d(m, 4).flatten(1) for m in maps.values()], 1)
            )
        joined = torch.cat(out).float()
        return joined - joined.mean(1, keepdim=True)


def each_log(
    probe: Probe, settings: TrainConfig, keep: Callable[[TrainerState], None] | None = None
) -> Any:
    """What the loop calls after a line of statistics: adds `probe_validation_accuracy` at the first
    line after every `probe_kimg`.

    Where it is fitted is a function of the place in the training alone, so that a resumed training
    fits it at the same places. A training also ends with a fit; where that end is no regular place
    of a longer training, the line is marked `closing`.

    Args: keep: called where the accuracy is the best so far, to keep these weights for `choose:
        best_probe`.
    """

    def fit_probe(state: TrainerState, line: dict[str, Any]) -> None:
        at = state.position
        regular = crossed(at.line, at.images, settings.log_kimg)
        if not regular:
            line["closing"] = True
        elif at.line and not crossed(at.line, at.images, settings.probe_kimg):
            return
        method, network = plain_features(state)
        accuracy = line[PROBED] = probe.accuracy(network)
        if type(method).clusters is not Base.clusters:
            line[CLUSTERED] = probe.cluster_accuracy(method)
        if regular and accuracy > at.best:
            at.best = accuracy
            if keep is not None:
                keep(state)

    return fit_probe


def best_line(stats: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The line of statistics where the probe did best, the first of equals; None where it never
    looked.
    """
    seen = [
        line for line in stats if PROBED in line and (not line.get("closing") or line is stats[-1])
    ]
    return max(seen, key=lambda line: float(line[PROBED]), default=None)


def candidate_name(images: int) -> str:
    """File name of weights kept because the probe did best there so far."""
    return f"candidate-{images:012d}.safetensors"
