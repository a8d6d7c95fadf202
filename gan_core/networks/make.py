"""Fresh networks of the file that a recipe names: what a method builds its roles from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from gan_core import registry
from gan_core.errors import RequestError
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import initialise, linear


class Make:
    """Makes networks by a description, as a snapshot carries it.

    Args:
        spec: name, width, latent_dim, image_size, classes (counted from the training labels; 0
            without labels), options (the network file's), method (for messages).

    Attributes:
        conditional: whether the networks of this file always ask for labels.
        prior: distribution of the latents, 'uniform' or 'normal'.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self.spec = spec
        self.module = registry.load("networks", str(spec["name"]))
        self.width = float(spec.get("width", 1.0))
        self.latent_dim = int(spec.get("latent_dim") or self.module.LATENT_DIM)
        self.image_size = int(self.module.IMAGE_SIZE)
        self.classes = int(spec.get("classes", 0))
        self.conditional = bool(getattr(self.module, "CONDITIONAL", False))
        self.prior = str(self.module.PRIOR)
        self.options = registry.options("networks", str(spec["name"]), spec.get("options", {}))

    def generator(self, classes: int = 0) -> LayeredNetwork:
        """Latents [N, latent_dim] to images. Args: classes: above 0, conditional on labels."""
        return self._make("generator", latent_dim=self.latent_dim, classes=classes)

    def discriminator(
        self, outputs: int = 1, classes: int = 0, *, spectral_norm: bool = False
    ) -> LayeredNetwork:
        """Images to logits [N, outputs]."""
        made = self._make("discriminator", outputs=outputs, classes=classes)
        made.spectral_norm = made.spectral_norm or spectral_norm
        return made

    def encoder(self, outputs: int | None = None) -> LayeredNetwork:
        """Images to codes [N, outputs]; None: as many as a latent has."""
        return self._make("encoder", outputs=outputs or self.latent_dim, classes=0)

    def joint(self, outputs: int = 1) -> LayeredNetwork:
        """Images and latents, `network(x, latents=z)`, to logits [N, outputs]."""
        return self._make("joint", latent_dim=self.latent_dim, outputs=outputs, classes=0)

    def mlp(
        self, inputs: int, hidden: Sequence[int], outputs: int, *, norm: bool = False
    ) -> LayeredNetwork:
        """Vectors [N, inputs] to [N, outputs]: linear layers with LeakyReLU between them."""
        sizes = [inputs, *hidden]
        layers = [
            linear(f"linear{n}", a, b, norm=norm)
            for n, (a, b) in enumerate(zip(sizes, sizes[1:], strict=False), start=1)
        ]
        return LayeredNetwork([*layers, linear("head", sizes[-1], outputs, slope=None)], (inputs,))

    def initialise(self, network: LayeredNetwork, random: torch.Generator) -> None:
        """Draws a network's weights: as its file says, else as the DCGAN authors do."""
        getattr(self.module, "initialise", initialise)(network, random)

    def _make(self, role: str, *, classes: int, **given: Any) -> LayeredNetwork:
        function: Any = getattr(self.module, role, None)
        conditional = classes > 0 and not self.conditional
        if function is None or (conditional and "classes" not in _parameters(function)):
            self._refuse(f"class-conditional {role}" if conditional else role, role, conditional)
        if classes or self.conditional:
            given["classes"] = classes or self.classes
        if "options" in _parameters(function):
            given["options"] = self.options
        made: LayeredNetwork = function(width=self.width, **given)
        return made

    def _refuse(self, what: str, role: str, conditional: bool) -> None:
        fitting = []
        for name in registry.names("networks"):
            module = registry.load("networks", name)
            function = getattr(module, role, None)
            fits = function is not None and (not conditional or "classes" in _parameters(function))
            if fits and self.image_size == module.IMAGE_SIZE:
                fitting.append(name)
        raise RequestError(
            f"The method {self.spec.get('method', '')} needs a {what}, and the network "
            f"{self.spec['name']} has none.".replace("  ", " "),
            expected=f"a network for {self.image_size} px that has one: "
            f"{', '.join(fitting) or 'there is none'}",
            remedy="--set train.network.name=..., or another --set train.method=...",
        )


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(function).parameters
