"""The layers against written-out arithmetic, and the feature counts that the papers state."""

from __future__ import annotations

import pytest
import torch

from gan_core import registry
from gan_core.errors import UnknownName
from gan_core.features.modes import select_layers
from gan_core.networks.layers import BatchNorm, batch_statistics, calibrate_batchnorm, initialise


@pytest.mark.parametrize(
    ("name", "count"), [("dcgan32", 28_672), ("dcgan32_svhn", 7_168), ("dcgan64", 30_720)]
)
def test_feature_counts_are_the_papers(name: str, count: int) -> None:
    selection = select_layers(registry.load("networks", name).discriminator())
    assert sum(size.dims for size in selection.sizes) == count


def test_the_authors_networks_have_no_biases_and_norms_where_they_do() -> None:
    module = registry.load("networks", "dcgan32")
    generator, discriminator = module.generator(), module.discriminator()
    names = [
        n
        for net in (generator, discriminator)
        for n, _ in net.named_parameters()
        if n.endswith("operation.bias")
    ]
    assert names == []
    assert list(discriminator.norms()) == ["conv2", "conv3", "conv4", "conv5", "conv6"]
    assert list(generator.norms()) == [
        "project",
        "deconv1",
        "deconv2",
        "deconv3",
        "deconv4",
        "deconv5",
    ]
    assert generator.norms()["project"].channels == 512 * 16  # per unit, before the reshape
    assert {norm.eps for norm in generator.norms().values()} == {1e-8}


def test_initialisation_is_the_authors() -> None:
    network = registry.load("networks", "dcgan32").discriminator()
    initialise(network, torch.Generator().manual_seed(0))
    weight = network.layer("conv4").operation.weight.detach()
    assert abs(float(weight.mean())) < 1e-4 and abs(float(weight.std()) - 0.02) < 1e-4
    gain = torch.cat([norm.weight for norm in network.norms().values()]).detach()
    assert abs(float(gain.mean()) - 1) < 3e-3 and abs(float(gain.std()) - 0.02) < 2e-3
    assert all(float(norm.bias.detach().abs().max()) == 0 for norm in network.norms().values())


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3, 2)])
def test_batch_norm_is_the_formula(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
    norm = BatchNorm(5)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5), norm.bias.uniform_(-1, 1)
    out = norm(x)
    for c in range(5):
        values = x[:, c].double()
        expected = (values - values.mean()) / (
            values.var(correction=0) + 1e-8
        ).sqrt() * norm.weight[c] + norm.bias[c]
        assert torch.allclose(out[:, c].double(), expected, atol=1e-5)


def test_measured_statistics_are_the_mean_over_batches_that_earlier_layers_normalise() -> None:
    """The authors' script written out: layer 3 is seen with layer 2 normalised by its batch's
    statistics; batches count equally.
    """
    network = registry.load("networks", "dcgan32_svhn").discriminator(0.125)
    initialise(network, torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(1)
    batches = [torch.randn(n, 3, 32, 32, generator=random) for n in (8, 8, 3)]
    assert calibrate_batchnorm(network, batches) == 3

    means, variances = [], []
    for x in batches:
        h2 = network.layer("conv2").operation(network.run_to(x, "conv1"))
        n2 = (h2 - h2.mean((0, 2, 3), keepdim=True)) / (
            h2.var((0, 2, 3), correction=0, keepdim=True) + 1e-8
        ).sqrt()
        norm = network.norms()["conv2"]
        n2 = n2 * norm.weight[:, None, None] + norm.bias[:, None, None]
        h3 = network.layer("conv3").operation(torch.where(n2 > 0, n2, 0.2 * n2))
        means.append(h3.mean((0, 2, 3)))
        variances.append(h3.var((0, 2, 3), correction=0))
    norm = network.norms()["conv3"]
    assert torch.allclose(norm.running_mean, torch.stack(means).mean(0), atol=1e-5)
    assert torch.allclose(norm.running_var, torch.stack(variances).mean(0), rtol=1e-4, atol=1e-6)


def test_stored_statistics_make_a_image_depend_on_its_latent_alone() -> None:
    network = registry.load("networks", "dcgan32_svhn").generator(0.125)
    initialise(network, torch.Generator().manual_seed(0))
    z = torch.rand(16, 100, generator=torch.Generator().manual_seed(1)) * 2 - 1
    calibrate_batchnorm(network, [z])
    network.eval()
    assert torch.allclose(network(z)[:2], network(z[:2]), atol=1e-6)
    with batch_statistics(network):
        assert not torch.allclose(network(z)[:2], network(z[:2]), atol=1e-3)
    assert not network.norms()["project"].training


def test_an_unknown_layer_is_named_with_the_nearest() -> None:
    network = registry.load("networks", "dcgan32_svhn").discriminator(0.125)
    with pytest.raises(UnknownName, match="conv1"):
        network.activations(torch.zeros(2, 3, 32, 32), ["conf1"])
