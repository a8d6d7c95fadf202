"""Distances between generated and real images on any extractor's features.

The formulas are those of FID (Heusel et al. 2017), KID (Binkowski et al. 2018), and improved
precision and recall (Kynkaanniemi et al. 2019), as torch-fidelity 0.4 computes them; a test
compares the two. Only with Inception features may the first two be called FID and KID.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
SUBSETS, SUBSET_SIZE, SEED = 100, 1000, 2020  # of the kernel distance: torch-fidelity's defaults
NEIGHBOUR = 3  # of precision and recall


def frechet(mean: Floats, covariance: Floats, other_mean: Floats, other: Floats) -> float:
    """Squared Frechet distance of two normal distributions (Dowson and Landau 1982)."""
    product = np.linalg.eigvals(covariance @ other).real.clip(min=0)
    return float(
        ((mean - other_mean) ** 2).sum()
        + np.trace(covariance)
        + np.trace(other)
        - 2 * np.sqrt(product).sum()
    )


def frechet_distance(generated: Floats, real: Floats) -> float:
    """Frechet distance of the means and covariances of features [n, dims] and [m, dims].

    Biased upwards where n or m is not far above dims: compare at equal numbers of images only.
    """
    return frechet(
        generated.mean(0), np.cov(generated, rowvar=False), real.mean(0), np.cov(real, rowvar=False)
    )


@dataclass(frozen=True)
class Products:
    """Inner products of features, which kernels and distances need.

    Attributes: generated [n, n], real [m, m], mixed [n, m]; dims: values of a feature.
    """

    generated: Floats
    real: Floats
    mixed: Floats
    dims: int

    @classmethod
    def of(cls, generated: Floats, real: Floats) -> Products:
        """Of features float64 [n, dims] and [m, dims]."""
        x, y = generated, real
        return cls(x @ x.T, y @ y.T, x @ y.T, x.shape[1])


def kernel_distance(
    products: Products, subsets: int = SUBSETS, size: int = SUBSET_SIZE
) -> tuple[float, float]:
    """Unbiased squared maximum mean discrepancy with the kernel (x.y / dims + 1)^3, as its mean and
    standard deviation over random subsets. May be slightly negative for equal distributions.

    Args: size: images of a subset; all of them where there are fewer.
    """
    n, m = products.mixed.shape
    size = min(size, n, m)
    kernels = [(dots / products.dims + 1) ** 3 for dots in _all(products)]
    random = np.random.RandomState(SEED)
    found = []
    for _ in range(subsets):
        a, b = random.choice(n, size, replace=False), random.choice(m, size, replace=False)
        xx, yy, xy = (
            kernel[np.ix_(rows, columns)]
            for kernel, rows, columns in zip(kernels, (a, b, a), (a, b, b), strict=True)
        )
        within = xx.sum() - np.trace(xx) + yy.sum() - np.trace(yy)
        found.append(within / (size * (size - 1)) - 2 * xy.sum() / size**2)
    return float(np.mean(found)), float(np.std(found))


def precision_recall(products: Products, neighbour: int = NEIGHBOUR) -> tuple[float, float]:
    """The share of generated images within reach of a real one, and of real within reach of a
    generated one. An image's reach is the distance of its third nearest of its own kind.
    """
    xx, yy, xy = _all(products)
    of_x, of_y = np.diag(xx), np.diag(yy)
    within_x = of_x[:, None] + of_x - 2 * xx
    within_y = of_y[:, None] + of_y - 2 * yy
    across = of_x[:, None] + of_y - 2 * xy
    reach_x, reach_y = (
        np.partition(within, neighbour, axis=1)[:, neighbour] for within in (within_x, within_y)
    )
    precision = (across <= reach_y).any(1).mean()
    recall = (across <= reach_x[:, None]).any(0).mean()
    return float(precision), float(recall)


def _all(products: Products) -> tuple[Floats, Floats, Floats]:
    return products.generated, products.real, products.mixed
