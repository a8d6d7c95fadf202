"""What a training consists of, built from its settings: networks, method, optimisers, average; and
its state as tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gan_core import registry
from gan_core.config import TrainConfig
from gan_core.devices import memory_format
from gan_core.errors import RequestError
from gan_core.methods.base import Method
from gan_core.networks.base import LayeredNetwork, initialise, measure_statistics
from gan_core.networks.snapshot import Prior, build_networks, sample_latents
from gan_core.randomness import derive_seed, numpy_stream, torch_stream
from gan_core.training.adam import Adam
from gan_core.training.checkpoint import Position
from gan_core.training.data import ImageSet
from gan_core.training.divergence import Watch
from gan_core.training.ema import Average
from gan_core.training.logging import Figures
from gan_core.vision.tensors import to_float

GRID = 64  # images in a sample grid
STATISTICS_BATCHES = (
    16  # batches of latents over which a snapshot's generator gets its batch-norm statistics
)
REAL = 2048  # training images over which its discriminator gets them


@dataclass(frozen=True)
class Real:
    """Some training images, drawn once: uint8 [n, S, S, 3] in main memory, with labels [n] int64
    where training uses them.
    """

    pixels: Tensor
    labels: Tensor | None = None


@dataclass
class Parts:
    """Everything that training moves.

    Attributes:
        networks: by role, on the device, in training mode.
        optimisers: by the name that the method's updates carry.
        average: the averaged generator (mode modern), or None.
        grid_latents: [64, dim], the same in every grid.
        products: names of the snapshots and grids made so far.
        watch: what looks for divergence; findings: what it has found, {kimg, sign, sentence}.
        real: some training images, for what is measured beside training.
    """

    networks: dict[str, LayeredNetwork]
    method: Method
    optimisers: dict[str, Adam]
    average: Average | None
    prior: Prior
    grid_latents: Tensor
    spec: dict[str, Any]
    position: Position = field(default_factory=Position)
    figures: Figures = field(default_factory=Figures)
    products: list[str] = field(default_factory=list)
    method_uses_labels: bool = False
    watch: Watch = field(default_factory=lambda: Watch(1.0))
    findings: list[dict[str, Any]] = field(default_factory=list)
    real: Real = field(default_factory=lambda: Real(torch.zeros(0, 1, 1, 3, dtype=torch.uint8)))

    def parameters(self, name: str) -> list[torch.nn.Parameter]:
        """The weights that an optimiser moves."""
        return self.optimisers[name].parameters

    def generators(self) -> dict[str, LayeredNetwork]:
        """The generator, and the averaged one where it is kept."""
        found = {"generator": self.networks["generator"]}
        return {**found, "average": self.average.network} if self.average else found

    def tensors(self) -> dict[str, Tensor]:
        """The whole state as named tensors."""
        out: dict[str, Tensor] = {}
        for role, network in self.networks.items():
            out |= {f"network.{role}.{name}": value for name, value in network.state_dict().items()}
        if self.average:
            out |= {
                f"average.{name}": value
                for name, value in self.average.network.state_dict().items()
            }
        for name, optimiser in self.optimisers.items():
            out |= optimiser.tensors(name)
        return out | {f"figures.{name}": value for name, value in self.figures.sums.items()}

    def extra(self) -> dict[str, Any]:
        """What of the state is no tensor."""
        return {
            "figure_counts": dict(self.figures.counts),
            "products": list(self.products),
            "watch": self.watch.memory(),
            "findings": list(self.findings),
        }

    def restore(
        self, position: Position, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]
    ) -> None:
        """Puts back what `tensors` and `extra` gave."""
        for role, network in self.networks.items():
            network.load_state_dict(_under(tensors, f"network.{role}."))
        if self.average:
            self.average.network.load_state_dict(_under(tensors, "average."))
        for name, optimiser in self.optimisers.items():
            optimiser.restore(name, tensors)
        device = next(self.networks["generator"].parameters()).device
        self.figures.sums = {
            name: value.to(device) for name, value in _under(tensors, "figures.").items()
        }
        self.figures.counts, self.products = dict(extra["figure_counts"]), list(extra["products"])
        self.watch.remember(extra["watch"])
        self.findings = list(extra["findings"])
        self.position = position

    def set_rate(self, learning_rate: float) -> None:
        """Sets every optimiser's learning rate."""
        for optimiser in self.optimisers.values():
            optimiser.learning_rate = learning_rate


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)
    }


def prior_of(module: ModuleType, spec: Mapping[str, Any]) -> Prior:
    """The prior that a network file declares."""
    return Prior(module.PRIOR, int(spec["latent_dim"]), int(getattr(module, "CLASSES", 0)))


def network_spec(settings: TrainConfig, module: ModuleType) -> dict[str, Any]:
    """The description of the networks that a snapshot carries."""
    return {
        "name": settings.network.name,
        "width": settings.network.width,
        "latent_dim": settings.network.latent_dim or module.LATENT_DIM,
        "image_size": module.IMAGE_SIZE,
        "outputs": 1,
    }


def build(settings: TrainConfig, *, seed: int, device: str, image_size: int) -> Parts:
    """Fresh parts with the authors' initialisation.

    Raises: RequestError: the network is for images of another size.
    """
    module = registry.load("networks", settings.network.name)
    method_module = registry.load("methods", settings.method)
    if image_size != module.IMAGE_SIZE:
        fitting = [name for name in registry.names("networks") if f"{image_size}" in name]
        raise RequestError(
            f"The network {settings.network.name} takes images of {module.IMAGE_SIZE} px, and the "
            f"crops have {image_size} px.",
            expected=(
                f"crops of {module.IMAGE_SIZE} px, or a network for {image_size} px "
                f"({', '.join(fitting) or 'there is none'})"
            ),
            remedy=f"--set crop.size={module.IMAGE_SIZE}, or --set train.network.name=...",
        )
    spec = network_spec(settings, module)
    if hasattr(method_module, "outputs"):
        spec["outputs"] = int(method_module.outputs(settings))
    networks = build_networks(spec, tuple(method_module.ROLES))
    for role, network in networks.items():
        initialise(network, torch_stream(seed, "initialise", role))
        if settings.spectral_norm and role == "discriminator":
            add_spectral_norm(network, seed)
        network.to(device, memory_format=memory_format())  # type: ignore[call-overload]
        network.train()
    for norm in (norm for network in networks.values() for norm in network.norms().values()):
        norm.track = False  # measured when a snapshot is written
    method: Method = method_module.Method(settings, networks)
    optimisers: dict[str, Adam] = {
        name: Adam(
            [p for role in roles for p in networks[role].parameters()],
            learning_rate=settings.learning_rate,
            beta1=settings.beta1,
            beta2=settings.beta2,
            weight_decay=settings.weight_decay,
        )
        for name, roles in method.optimised.items()
    }
    prior = prior_of(module, spec)
    averaged = settings.mode == "modern" and settings.ema_kimg > 0
    return Parts(
        networks=networks,
        method=method,
        optimisers=optimisers,
        average=Average(networks["generator"], settings.ema_kimg * 1000) if averaged else None,
        prior=prior,
        grid_latents=sample_latents(prior, GRID, torch_stream(seed, "grid")),
        spec=spec,
        method_uses_labels=bool(method_module.USES_LABELS),
    )


def add_spectral_norm(network: LayeredNetwork, seed: int) -> None:
    """Divides every layer's weights by their largest singular value (Miyato et al. 2018), found by
    one power iteration a pass, in float32.

    A batch norm after the layer divides by the result's own scale and so undoes the division: in
    the networks here it binds the first layer and the head, which have none.
    """
    from torch.nn.utils.parametrizations import _SpectralNorm
    from torch.nn.utils.parametrize import register_parametrization

    class SpectralNorm(_SpectralNorm):
        def forward(self, weight: Tensor) -> Tensor:
            # autocast on a GPU would iterate in bf16, and then refuse the dtypes it made
            with torch.autocast(weight.device.type, enabled=False):
                out: Tensor = super().forward(weight)
            return out

    with torch.random.fork_rng(
        devices=[]
    ):  # torch draws the iteration's start from the global stream
        torch.manual_seed(derive_seed(seed, "spectral norm"))
        for module in list(network.modules()):
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                register_parametrization(module, "weight", SpectralNorm(module.weight))


def plain(network: LayeredNetwork, spec: Mapping[str, Any]) -> LayeredNetwork:
    """A discriminator of `spec` with the weights of `network`, spectral norm multiplied in; in
    training mode, on the same device.

    Nothing of `network` changes: its norms are read in evaluation mode, where they do not iterate.
    """
    state = {
        name: value
        for name, value in network.state_dict().items()
        if "parametrizations" not in name
    }
    for name, module in network.named_modules():
        if hasattr(module, "parametrizations"):
            normed = module.parametrizations["weight"]
            training, _ = normed.training, normed.eval()
            state[f"{name}.weight"] = module.weight.detach()
            normed.train(training)
    made = build_networks(spec, ("discriminator",))["discriminator"]
    made.load_state_dict(state)
    return made.to(next(network.parameters()).device)


def some_real(images: ImageSet, labels: npt.NDArray[np.int64] | None, seed: int) -> Real:
    """At most 2,048 training images of their own stream. Args: labels: int64 [n] of the whole set,
    or None.
    """
    rows = np.sort(numpy_stream(seed, "statistics", "real").permutation(len(images))[:REAL])
    return Real(
        torch.from_numpy(images.pixels(rows)),
        None if labels is None else torch.from_numpy(labels[rows]),
    )


def settle_readers(parts: Parts, *, batch: int) -> dict[str, LayeredNetwork]:
    """Copies of the networks that take images, with spectral norm multiplied in and batch-norm
    statistics of real images.

    In training the discriminator takes the statistics of each batch, of real images or of generated
    ones. The stored ones are those of real training images, unchanged ones, so that a score says
    how an image looks among these.
    """
    import copy

    settled = {}
    for role, network in parts.networks.items():
        if role == "generator":
            continue
        copied = plain(network, parts.spec) if role == "discriminator" else copy.deepcopy(network)
        settled[role] = copied
        real, device = parts.real, next(copied.parameters()).device
        if len(copied.input_shape) != 3 or len(real.pixels) < 2:
            continue
        count = max(batch, 2)
        places = [
            slice(i, i + count) for i in range(0, max(len(real.pixels) - count, 0) + 1, count)
        ]  # whole batches
        labels = iter(
            [None if real.labels is None else real.labels[place].to(device) for place in places]
        )
        pictures = (to_float(real.pixels[place].to(device)) for place in places)
        measure_statistics(
            copied,
            pictures,
            run=lambda x, to=copied, known=labels: to(x, next(known)),  # type: ignore[misc]
        )
    return settled


def settle_generators(parts: Parts, *, seed: int, batch: int) -> dict[str, LayeredNetwork]:
    """Copies of the generators whose stored batch-norm statistics are measured over latents of
    their own stream.

    With them an image depends on its latent alone. The authors sample with each batch's statistics
    instead; both can be had from a snapshot (`snapshots.generate`).
    """
    import copy

    count = max(batch, 2)
    settled = {}
    for role, network in parts.generators().items():
        copied = copy.deepcopy(network)
        stream = torch_stream(seed, "statistics")
        device = next(copied.parameters()).device
        labels = (
            torch.arange(count, device=device) % parts.prior.classes
            if parts.prior.classes
            else None
        )
        latents = [
            sample_latents(parts.prior, count, stream).to(device) for _ in range(STATISTICS_BATCHES)
        ]
        measure_statistics(copied, latents, run=partial(copied, labels=labels))
        settled[role] = copied
    return settled
