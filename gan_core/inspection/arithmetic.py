"""Vector arithmetic on latents: mean(A) - mean(B) + mean(C), its neighbours, and the same sum in
pixels as the control.

DCGAN paper, section 6.3.2 and figure 7: the arithmetic is unstable on single samples and works on
means of three exemplars for each concept; the result is shown with 8 others made by adding uniform
noise of +-0.25 to it; the same arithmetic on pixels only overlays the images. The paper's authors
chose exemplars by eye. `alike` chooses them without eyes: samples that look alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gan_core.randomness import torch_stream

if TYPE_CHECKING:
    from torch import Tensor

    from gan_core.networks.snapshot import Snapshot

EXEMPLARS = 3
NEIGHBOURS = 8
NOISE = 0.25


@dataclass(frozen=True)
class Arithmetic:
    """What came of the sum.

    Attributes:
        exemplars: uint8 [3, exemplars, S, S, 3]: the images of A, B, C.
        means: uint8 [3, S, S, 3]: generated from each concept's mean latent.
        result: uint8 [9, S, S, 3]: the sum in the middle (number 4), its neighbours around it.
        pixel_means: uint8 [3, S, S, 3]: mean images of A, B, C.
        pixel_result: uint8 [S, S, 3]: the sum taken in pixels, clipped to the range.
        numbers: JSON values.
    """

    exemplars: npt.NDArray[np.uint8]
    means: npt.NDArray[np.uint8]
    result: npt.NDArray[np.uint8]
    pixel_means: npt.NDArray[np.uint8]
    pixel_result: npt.NDArray[np.uint8]
    numbers: dict[str, Any]


def combine(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    *,
    noise: float = NOISE,
    neighbours: int = NEIGHBOURS,
    seed: int = 0,
) -> Tensor:
    """Latents [neighbours + 1, dim]: the sum of means first, then the sum with uniform noise in
    +-`noise` added.

    Args: a, b, c: latents of each concept's exemplars, [n, dim].
    """
    import torch

    middle = a.mean(0) - b.mean(0) + c.mean(0)
    random = torch_stream(seed, "inspect", "arithmetic")
    around = (torch.rand(neighbours, len(middle), generator=random) * 2 - 1) * noise
    return torch.cat([middle[None], middle + around.to(middle)])


def alike(
    pictures: npt.NDArray[np.uint8], groups: int = 3, members: int = EXEMPLARS
) -> npt.NDArray[np.int64]:
    """Groups of samples that look alike and unlike the other groups: int64 [groups, members], rows
    of `images`.

    The tightest group of nearest neighbours (in mean absolute difference of pixels) comes first;
    each next one is the one whose seed lies furthest from those chosen, among the tighter half. No
    sample is in two groups.

    Raises:
        ValueError: fewer samples than groups x members.
    """
    count = len(pictures)
    if count < groups * members:
        raise ValueError(f"{count} samples cannot give {groups} groups of {members}")
    flat = pictures.reshape(count, -1).astype(np.float32)
    distance = np.stack([np.abs(flat - row).mean(axis=1) for row in flat])
    free = np.ones(count, np.bool_)
    chosen: list[npt.NDArray[np.int64]] = []
    for _ in range(groups):
        allowed = np.flatnonzero(free)
        near = np.sort(distance[np.ix_(allowed, allowed)], axis=1)[:, :members].mean(axis=1)
        tight = allowed[near <= np.median(near)]
        if chosen:
            apart = distance[np.ix_(tight, np.array([group[0] for group in chosen]))].min(axis=1)
            seed = int(tight[apart.argmax()])
        else:
            seed = int(allowed[near.argmin()])
        order = allowed[np.argsort(distance[seed, allowed], kind="stable")][:members]
        free[order] = False
        chosen.append(order.astype(np.int64))
    return np.stack(chosen)


def draw_arithmetic(
    snapshot: Snapshot, a: Tensor, b: Tensor, c: Tensor, *, seed: int = 0
) -> Arithmetic:
    """A - B + C. Args: a, b, c: latents of the exemplars, [n, dim] each, of one n.

    Numbers: `verdict` is the discriminator's mean probability of being real, of the exemplars, of
    the sum with its neighbours, and of the sum in pixels; `clipped` the share of the pixel sum's
    values that fell out of range; `neighbours` how much the nine results differ (mean absolute
    difference over pairs, share of the range).
    """
    import torch

    from gan_core.inspection.samples import as_images, diversity
    from gan_core.networks.snapshot import generate

    own = torch.stack([a, b, c]).cpu()
    latents = combine(*own, seed=seed)
    images = generate(snapshot, own.flatten(0, 1))
    images = images.reshape(*own.shape[:2], *images.shape[1:])
    results = generate(snapshot, latents)
    order = [1, 2, 3, 4, 0, 5, 6, 7, 8]  # the sum itself stands in the middle
    pixel_means = images.mean(dim=1)
    pixel_sum = pixel_means[0] - pixel_means[1] + pixel_means[2]
    pictures = as_images(results)[order]
    numbers = {
        "exemplars": int(own.shape[1]),
        "noise": NOISE,
        "verdict": {
            "exemplars": verdict(snapshot, images.flatten(0, 1)),
            "result": verdict(snapshot, results),
            "pixels": verdict(snapshot, pixel_sum.clamp(-1, 1)[None]),
        },
        "clipped": round(float((pixel_sum.abs() > 1).float().mean()), 6),
        "neighbours": round(diversity(pictures), 6),
    }
    shown = as_images(images.flatten(0, 1))
    return Arithmetic(
        exemplars=shown.reshape(3, -1, *shown.shape[1:]),
        means=as_images(generate(snapshot, own.mean(dim=1))),
        result=pictures,
        pixel_means=as_images(pixel_means),
        pixel_result=as_images(pixel_sum.clamp(-1, 1)[None])[0],
        numbers=numbers,
    )


def verdict(snapshot: Snapshot, images: Tensor) -> float:
    """The discriminator's mean probability that images [n, C, S, S] are real (first output, stored
    batch-norm statistics).
    """
    import torch

    device = next(snapshot.discriminator.parameters()).device
    with torch.no_grad():
        logits = snapshot.discriminator(images.to(device))
    return round(float(logits.float().flatten(1)[:, 0].sigmoid().mean()), 6)


def lay_out(found: Arithmetic, ground: int = 255) -> npt.NDArray[np.uint8]:
    """The figure as rows of images, uint8 [3, 9, S, S, 3]; row by row A, B, C: exemplars, generated
    from the mean latent, a row of the nine results, the mean image; the sum in pixels stands in the
    middle of the last column."""
    blank = np.full_like(found.pixel_result, ground)
    rows = []
    for row in range(3):
        last = found.pixel_result if row == 1 else blank
        block = found.result[3 * row : 3 * row + 3]
        rows.append(
            np.stack(
                [*found.exemplars[row][:3], found.means[row], *block, found.pixel_means[row], last]
            )
        )
    return np.stack(rows)
