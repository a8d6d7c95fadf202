"""What every network file must hold to: shapes as declared, ranges, gradients, running to and from
a layer.
"""

from __future__ import annotations

import pytest
import torch

from gan_core import registry
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import frozen, initialise, scaled

NAMES = registry.names("networks")
WIDTH = 0.125  # of the authors' maps: the same layers, fast to run


def made(name: str) -> tuple[LayeredNetwork, LayeredNetwork, torch.Tensor, torch.Tensor | None]:
    module = registry.load("networks", name)
    generator, discriminator = module.generator(WIDTH), module.discriminator(WIDTH)
    initialise(generator, torch.Generator().manual_seed(0))
    initialise(discriminator, torch.Generator().manual_seed(1))
    latents = torch.rand(4, module.LATENT_DIM, generator=torch.Generator().manual_seed(2)) * 2 - 1
    labels = torch.arange(4) if getattr(module, "CONDITIONAL", False) else None
    return generator, discriminator, latents, labels


@pytest.mark.parametrize("name", NAMES)
def test_a_network_file_offers_what_the_recipe_needs(name: str) -> None:
    module = registry.load("networks", name)
    assert registry.about("networks", name) == module.ABOUT
    assert module.PRIOR in ("uniform", "normal")
    assert module.IMAGE_SIZE >= 0 and module.LATENT_DIM > 0
    assert module.generator(WIDTH, 7).input_shape == (7,)
    assert module.discriminator(WIDTH, 5).layers()[-1].shape == (5, 1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_images_and_scores_have_the_declared_shapes_and_range(name: str) -> None:
    generator, discriminator, latents, labels = made(name)
    images = generator(latents, labels)
    assert images.shape == (4, *discriminator.input_shape)
    assert images.abs().max() <= 1
    assert discriminator(images, labels).shape == (4, 1)


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_puts_out_what_it_declares(name: str) -> None:
    generator, discriminator, latents, labels = made(name)
    for network, x in ((generator, latents), (discriminator, generator(latents, labels).detach())):
        found = network.activations(x, labels=labels)
        assert list(found) == [info.name for info in network.layers()]
        for info in network.layers():
            shape = tuple(found[info.name].shape[1:])
            assert shape + (1,) * (3 - len(shape)) == info.shape


@pytest.mark.parametrize("name", NAMES)
def test_running_to_a_layer_and_on_from_it_is_running_through(name: str) -> None:
    generator, discriminator, latents, labels = made(name)
    generator.eval(), discriminator.eval()
    images = generator(latents, labels)
    for network, x in ((generator, latents), (discriminator, images)):
        whole = network(x, labels)
        own = x if network is generator else None  # hierarchical latents
        for info in network.layers():
            halfway = network.run_to(x, info.name, labels)
            assert torch.equal(network.run_from(halfway, info.name, labels, own), whole)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_weight_and_none_when_frozen(name: str) -> None:
    generator, discriminator, latents, labels = made(name)
    with frozen(discriminator):
        discriminator(generator(latents, labels), labels).sum().backward()
    assert all(p.grad is None for p in discriminator.parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in generator.parameters())
    discriminator(generator(latents, labels).detach(), labels).sum().backward()
    assert all(
        p.grad is not None and torch.isfinite(p.grad).all() for p in discriminator.parameters()
    )


@pytest.mark.parametrize("name", NAMES)
def test_weights_survive_a_round_trip(name: str) -> None:
    module = registry.load("networks", name)
    first, second = module.discriminator(WIDTH), module.discriminator(WIDTH)
    second.load_state_dict(first.state_dict())
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_width_scales_maps_and_features(name: str) -> None:
    module = registry.load("networks", name)
    narrow, full = module.discriminator(0.5), module.discriminator()
    assert [a.shape[0] for a in narrow.layers()[:-1]] == [
        scaled(b.shape[0], 0.5) for b in full.layers()[:-1]
    ]
