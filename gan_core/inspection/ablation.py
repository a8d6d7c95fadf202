"""What becomes of the classes of generated images when units of a layer are set to 0 or to a value
(Bau et al. 2019).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gan_core.inspection.segmenters import Segmenter
from gan_core.inspection.units import Units
from gan_core.randomness import torch_stream

SEEN = 10  # places that a class must have had before, for a rate of insertion over it
PLACES = 2000  # insertions of each class
STRONG = 0.99  # quantile of activations that is inserted as well as the mean
STEPS, RATE, PENALTY = 100, 0.05, 0.1  # of optimised coefficients (ours; Adam, 2-norm)
Floats = npt.NDArray[np.float64]


class Ablation(Units):
    """Units of a layer set to 0 or to a value, and what becomes of the classes.

    Args: latents: of their own, shared with nothing else.
    """

    def __init__(
        self, generator: nn.Module, layer: str, segment: Segmenter, latents: Tensor
    ) -> None:
        super().__init__(generator, layer, latents)
        self.segment = segment
        self.before = segment(self.images)
        self.sizes = self._sizes(self.before)

    def _sizes(self, labels: Tensor) -> Floats:
        return np.bincount(labels.flatten().numpy(), minlength=len(self.segment.classes)).astype(
            np.float64
        )

    def remove(self, units: Sequence[int]) -> tuple[Floats, Floats]:
        """Share of each class's pixels that vanish, and share of the other pixels that change."""
        after = self.segment(self.without(units))
        gone = 1 - self._sizes(after) / np.maximum(self.sizes, 1)
        moved = (after != self.before).flatten().numpy()
        flat = self.before.flatten().numpy()
        by_class = np.bincount(flat[moved], minlength=len(self.sizes)).astype(np.float64)
        others = self.sizes.sum() - self.sizes
        return gone, (by_class.sum() - by_class) / np.maximum(others, 1)

    def effects(self, most: int = 128) -> Floats:
        """Share of each class's pixels lost when one unit is ablated: [units, classes]."""
        rows = torch.arange(min(most, len(self.latents)))
        size = np.maximum(self._sizes(self.before[rows]), 1)
        return np.stack(
            [
                1 - self._sizes(self.segment(self.without([unit], rows))) / size
                for unit in range(self.activations.shape[1])
            ]
        )

    def coefficients(self, number: int, start: Floats, seed: int) -> Floats:
        """How far each unit draws a class, 0 to 1 [units]: optimised so that scaling the units by
        one minus it removes the class, and inserting the class's activation by it at a random place
        draws it, with few units (Bau et al. 2019, section 4.2).

        Args: start: a first guess [units], not negative.
        """
        random = torch_stream(seed, "dissection", "coefficients", str(number))
        alpha = torch.tensor(start / max(float(start.max()), 1e-9), dtype=torch.float32)
        alpha.requires_grad_()
        optimiser = torch.optim.Adam([alpha], lr=RATE)
        before = max(float(self.sizes[number] / self.sizes.sum()), 1e-6)
        value = self._inside(number)
        side = self.activations.shape[2]
        for _ in range(STEPS):
            rows = torch.randint(len(self.latents), (32,), generator=random)
            places = torch.randint(side, (2, 32), generator=random)
            x = self.activations[rows].float()
            spot = torch.zeros(32, 1, side, side)
            spot[torch.arange(32), 0, places[0], places[1]] = 1
            mixed = alpha[:, None, None]
            without = self._presence(x * (1 - mixed), rows, number)
            insert = x + spot * mixed * (value.mean(0)[:, None, None] - x)
            with_it = self._presence(insert, rows, number)
            loss = (without - with_it) / before + PENALTY * alpha.norm()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                alpha.clamp_(0, 1)
        return np.asarray(alpha.detach().numpy(), np.float64)

    def _presence(self, x: Tensor, rows: Tensor, number: int) -> Tensor:
        images = self.image(x.to(self.activations.dtype).to(self.device), rows)
        return self.segment.soft(images)[:, number].mean()

    def _cells(self, number: int) -> Tensor:
        """Which places of the layer show a class: bool [n, h, w]."""
        scale = self.before.shape[1] // self.activations.shape[2]
        return F.max_pool2d((self.before == number).float()[:, None], scale)[:, 0] > 0

    def _inside(self, number: int) -> Tensor:
        """Activations at the places of a class: float [places, units]; one place of zeros where it
        has none.
        """
        found = self.activations.permute(0, 2, 3, 1)[self._cells(number)].float()
        return found if len(found) else torch.zeros(1, self.activations.shape[1])

    def matched(self, units: list[int]) -> list[int]:
        """As many other units, the nearest in mean activation and in outgoing norm."""
        means = self.activations.float().mean((0, 2, 3)).numpy()
        norms = self.norms().numpy()
        place = np.stack([means / (means.std() + 1e-12), norms / (norms.std() + 1e-12)], 1)
        free = [u for u in range(len(means)) if u not in set(units)]
        found: list[int] = []
        for unit in units[: len(free)]:
            left = [u for u in free if u not in found]
            found.append(min(left, key=lambda u: float(((place[u] - place[unit]) ** 2).sum())))
        return found

    def insert(self, number: int, units: list[int], random: np.random.Generator) -> dict[str, Any]:
        """How often a class appears where its units are switched on at one place without it, by
        row and by the class that was there before.
        """
        cells = self._cells(number)
        absent = np.argwhere(~cells.numpy())
        if not bool(cells.any()) or not len(absent):
            return {"rate": 0.0, "by_row": [], "by_class": {}}
        places = absent[random.integers(0, len(absent), PLACES)]
        inside = self._inside(number)[:, units]
        found = self._insert_at(number, units, inside.mean(0), places)
        strong = torch.quantile(inside[:100_000], STRONG, dim=0)
        return {**found, "strong": self._insert_at(number, units, strong, places)}

    def _insert_at(
        self, number: int, units: list[int], value: Tensor, places: npt.NDArray[np.int64]
    ) -> dict[str, Any]:
        side = self.activations.shape[2]
        scale = self.before.shape[1] // side

        def switch_on(x: Tensor, positions: Tensor) -> Tensor:
            for n, position in enumerate(positions.tolist()):
                _, down, across = places[position]
                x[n, units, down, across] = value.to(x)
            return x

        rows = torch.from_numpy(places[:, 0])
        after = self.segment(self.changed(switch_on, rows))
        was, hit = np.zeros(len(places), np.int64), np.zeros(len(places), bool)
        for n, (row, down, across) in enumerate(places):
            top, left = down * scale, across * scale
            block = slice(top, top + scale), slice(left, left + scale)
            hit[n] = bool((after[n][block] == number).any())
            was[n] = int(self.before[row][block].flatten().mode().values)
        by_class = {
            name: round(float(hit[was == n].mean()), 4)
            for n, name in enumerate(self.segment.classes)
            if (was == n).sum() >= SEEN
        }
        by_row = [
            round(float(hit[places[:, 1] == row].mean()), 4)
            if (places[:, 1] == row).any()
            else None
            for row in range(side)
        ]
        return {"rate": round(float(hit.mean()), 4), "by_row": by_row, "by_class": by_class}
