"""Networks as chains of named blocks whose activations can be read, and which can be run to a block
and on from a block.

A network file (`gan_core/networks/<name>.py`) offers ABOUT, VERSION, IMAGE_SIZE (side in pixels; 0:
points instead of images), LATENT_DIM, PRIOR ('uniform': U(-1, 1), 'normal': N(0, 1)) and functions
for the roles it has, with defaults: `generator(width=1.0, latent_dim=LATENT_DIM)`,
`discriminator(width=1.0, outputs=1)`, `encoder(width=1.0, outputs=LATENT_DIM)`,
`joint(width=1.0, latent_dim=LATENT_DIM, outputs=1)`. A function with a parameter
`classes` can be made conditional on labels; CONDITIONAL = True says that the networks always are.
Optional: `class Options(Section)`, given to functions with a parameter `options`, and
`initialise(network, random)` in place of the DCGAN authors' initialisation.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from gan_core.errors import UnknownName
from gan_core.networks.layers import (
    BatchNorm,
    Block,
    Condition,
    LayerInfo,
    calibrate_batchnorm,
)


class LayeredNetwork(nn.Module):
    """A chain of named layers.

    Attributes:
        input_shape: shape of one input: (dim,) of a generator, (3, size, size) of a discriminator.
        classes: number of classes a conditional network asks for, 0 otherwise.
        spectral_norm: whether the trainer divides every convolution's and linear map's weights by
            their largest singular value; snapshots hold the divided weights.
    """

    spectral_norm: bool = False

    def __init__(self, layers: Sequence[Block], input_shape: tuple[int, ...]) -> None:
        super().__init__()
        names = [layer.info.name for layer in layers]
        if len(set(names)) != len(names):
            raise ValueError(f"layer names repeat: {names}")
        self.chain = nn.ModuleDict({layer.info.name: layer for layer in layers})
        self.input_shape = input_shape
        self.classes = max((layer.classes for layer in layers), default=0)
        self.assumed: list[str] = []  # nothing: images must have the network's own size

    @property
    def without_labels(self) -> bool:
        """Whether a conditional network takes missing labels for "each class is equally likely"
        instead of refusing.
        """
        return any(layer.without_labels for layer in self._chain())

    @without_labels.setter
    def without_labels(self, wanted: bool) -> None:
        for layer in self._chain():
            layer.without_labels = wanted

    def layers(self) -> list[LayerInfo]:
        """What each layer puts out, in order."""
        return [layer.info for layer in self._chain()]

    def _chain(self) -> list[Block]:
        return [layer for layer in self.chain.values() if isinstance(layer, Block)]

    def layer(self, name: str) -> Block:
        """The layer `name`; UnknownName when there is none."""
        if name not in self.chain:
            raise UnknownName("layer", name, self.chain.keys())
        layer = self.chain[name]
        assert isinstance(layer, Block)
        return layer

    def condition(self, x: Tensor, labels: Tensor | None, latents: Tensor | None) -> Condition:
        """What every block is given for input `x`: a generator's latents are its input."""
        return Condition(labels, x if latents is None and len(self.input_shape) == 1 else latents)

    def forward(
        self, x: Tensor, labels: Tensor | None = None, latents: Tensor | None = None
    ) -> Tensor:
        """Runs all blocks: a generator gives [N, C, H, W] in its output's range, a discriminator
        scores (logits) [N, outputs].

        Args: labels: [N] int64 for conditional networks. latents: [N, dim] for joint ones.
        """
        condition = self.condition(x, labels, latents)
        for layer in self._chain():
            x = layer(x, condition)
        return x

    def activations(
        self,
        x: Tensor,
        names: Iterable[str] | None = None,
        labels: Tensor | None = None,
        latents: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Activations after the nonlinearity, [N, C, H, W] (or [N, units]); runs no further than
        the last one asked for.

        Args: names: layers wanted; None: all. Returns: in the order of the network.
        """
        wanted = list(self.chain) if names is None else list(names)
        for name in wanted:
            self.layer(name)
        found: dict[str, Tensor] = {}
        condition = self.condition(x, labels, latents)
        for layer in self._chain():
            if len(found) == len(set(wanted)):
                break
            x = layer(x, condition)
            if layer.info.name in wanted:
                found[layer.info.name] = x
        return found

    def run_to(
        self, x: Tensor, name: str, labels: Tensor | None = None, latents: Tensor | None = None
    ) -> Tensor:
        """The activation of layer `name` for input `x`."""
        return self.activations(x, [name], labels, latents)[name]

    def run_from(
        self,
        activation: Tensor,
        name: str,
        labels: Tensor | None = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """The network's output when layer `name` has put out `activation`: runs the layers after
        it. Generators with hierarchical latents need the latents.
        """
        self.layer(name)
        after, condition = False, Condition(labels, latents)
        for layer in self._chain():
            if after:
                activation = layer(activation, condition)
            after = after or layer.info.name == name
        return activation

    def columns(self, layers: Sequence[str]) -> list[str]:
        """Names of layers as names of columns: 'main.2' is 'main_2'."""
        return [name.replace(".", "_") for name in layers]

    def calibrate(self, batches: Iterable[Tensor]) -> int:
        """Sets the batch-norm statistics from inputs (`calibrate_batchnorm`) and goes into
        evaluation mode. Returns: the number of batches.
        """
        count = calibrate_batchnorm(self, batches)
        self.eval()
        return count

    def norms(self) -> dict[str, BatchNorm]:
        """All batch norms, those inside blocks too, in order: by the layer's name where it is the
        layer's own norm, else by '<layer>.<name within it>'.
        """
        found = {}
        for layer in self._chain():
            for name, module in layer.named_modules():
                if isinstance(module, BatchNorm):
                    own = layer.info.name
                    found[own if name == "norm" else f"{own}.{name}"] = module
        return found
