"""Vector arithmetic: sums against plain arithmetic, cells and attributes against their
definition.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gan_core.errors import UnknownName
from gan_core.inspection import arithmetic, attributes
from gan_core.inspection.arithmetic import NOISE, Options, add, combine, furthest, inspect
from gan_core.inspection.base import Context
from gan_core.networks.layers import initialise
from gan_core.networks.snapshot import Prior, Snapshot, build_networks


@pytest.fixture(scope="module")
def context() -> Context:
    networks = build_networks({"name": "dcgan32_svhn", "width": 0.125})
    for number, network in enumerate(networks.values()):
        initialise(network, torch.Generator().manual_seed(number))
        network.eval().requires_grad_(False)
    snapshot = Snapshot(networks, Prior("uniform", 100))
    return Context(snapshot)


def test_the_sum_and_its_neighbours() -> None:
    a, b, c = torch.randn(3, 3, 100, generator=torch.Generator().manual_seed(0))
    found = combine(a, b, c)
    assert found.shape == (9, 100)
    expected = (a[0] + a[1] + a[2] - b[0] - b[1] - b[2] + c[0] + c[1] + c[2]) / 3
    torch.testing.assert_close(found[0], expected)
    noise = found[1:] - expected
    assert noise.abs().max() <= NOISE + 1e-5 and noise.abs().max() > 0.24
    torch.testing.assert_close(found, combine(a, b, c))


def test_sums_of_draws_are_sums_of_means() -> None:
    values = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    exemplars = np.random.default_rng(0).integers(0, 20, (4, 3, 2))
    for draw, row in zip(exemplars, add(values, exemplars), strict=True):
        a, b, c = (sum(values[int(i)] for i in cell) / 2 for cell in draw)
        torch.testing.assert_close(row, a - b + c)


@pytest.mark.parametrize("high", [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_exemplars_lie_inside_their_cell(high: tuple[int, int]) -> None:
    scores = np.random.default_rng(0).normal(size=(400, 2))
    middle = np.median(scores, 0)
    rows = furthest(scores, middle, high)
    assert len(rows) == arithmetic.CERTAIN == len(set(rows.tolist()))
    assert ((scores[rows] > middle) == np.array(high, bool)).all()
    inside = ((scores > middle) == np.array(high, bool)).all(1)
    distance = np.abs(scores - middle).min(1)
    assert distance[rows].mean() > 1.5 * distance[inside].mean()


def test_attributes_follow_what_they_name() -> None:
    rows, columns = np.mgrid[0:32, 0:32]

    def stroke(width: float, slant: float, shift: float = 0) -> torch.Tensor:
        centre = 16 + shift + slant * (rows - 16)
        ink = np.abs(columns - centre) < width
        ink &= np.abs(rows - 16) < 10
        return torch.from_numpy(np.where(ink, 1.0, -1.0)).float()[None, None].repeat(1, 3, 1, 1)

    thin, thick, slanted = stroke(2, 0), stroke(4, 0), stroke(2, 0.3)
    assert float(attributes.width(thick)) > 1.5 * float(attributes.width(thin))
    assert abs(float(attributes.slant(thin))) < 0.02
    assert float(attributes.slant(slanted)) == pytest.approx(0.3, abs=0.03)
    moved = attributes.balance(stroke(2, 0, 4)) - attributes.balance(thin)
    assert float(moved) == pytest.approx(4, abs=0.1)
    assert float(attributes.brightness(thick)) > float(attributes.brightness(thin))
    red = thin.clone()
    red[:, 2] = -1
    assert float(attributes.redness(red)) > float(attributes.redness(thin)) == 0


def test_every_share_has_an_interval_and_the_sum_of_pixels_gets_linear_attributes_right(
    context: Context,
) -> None:
    options = Options(attributes=["brightness", "redness"], samples=400, draws=60)
    found = inspect(context, options)
    shares = found.numbers["shares"]
    assert set(shares) == {
        "means of three",
        "single exemplars",
        "sum of pixels",
        "B and C shuffled",
        "samples",
    }
    assert all(one["low"] <= one["share"] <= one["high"] for one in shares.values())
    assert shares["sum of pixels"]["share"] > 0.9 > shares["samples"]["share"]
    again = inspect(context, options)
    assert again.numbers == found.numbers and len(found.figures) == 3


def test_an_unknown_attribute_is_refused_with_the_nearest(context: Context) -> None:
    with pytest.raises(UnknownName, match="slant"):
        inspect(context, Options(attributes=["slannt", "width"]))
