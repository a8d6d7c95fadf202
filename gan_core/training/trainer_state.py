"""What a training consists of, built from its settings: networks, method, optimisers, averages; and
its state as tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import register_parametrization

from gan_core import registry
from gan_core.config import TrainConfig
from gan_core.devices import memory_format
from gan_core.errors import RequestError
from gan_core.methods.base import Base
from gan_core.methods.optimisers import Optimiser
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import calibrate_batchnorm
from gan_core.networks.make import Make
from gan_core.networks.snapshot import (
    EMA,
    Prior,
    feature_network,
    load_method,
    rebuild_networks,
    sample_latents,
)
from gan_core.randomness import derive_seed, numpy_stream, torch_stream
from gan_core.training.checkpoint import Position
from gan_core.training.data import ImageSet
from gan_core.training.divergence import Monitor
from gan_core.training.ema import Average
from gan_core.training.logging import Figures
from gan_core.training.start import start_from
from gan_core.vision.tensors import to_float

GRID = 64  # images in a sample grid
CALIBRATION_BATCHES = 16  # batches of latents over which a snapshot's generator is calibrated
REAL = 2048  # training images over which networks that take images are calibrated


@dataclass(frozen=True)
class Real:
    """Some training images, drawn once: uint8 [n, S, S, 3] in main memory, with labels [n] int64
    where training uses them.
    """

    pixels: Tensor
    labels: Tensor | None = None


@dataclass
class TrainerState:
    """Everything that training moves.

    Attributes:
        networks: by role, on the device, in training mode.
        optimisers: by the name that the method's updates carry.
        averages: averaged networks, by role.
        grid_latents: [64, dim], the same in every grid.
        products: names of the snapshots and grids made so far.
        monitor: what monitors divergence; findings: what it has found, {kimg, sign, sentence}.
        real: some training images, for what is measured during training.
        random_layers: whether dropout draws from torch's global stream.
    """

    networks: dict[str, LayeredNetwork]
    method: Base
    optimisers: dict[str, Optimiser]
    averages: dict[str, Average]
    prior: Prior
    grid_latents: Tensor
    spec: dict[str, Any]
    settings: TrainConfig
    features: tuple[str, ...] = ("discriminator",)
    position: Position = field(default_factory=Position)
    figures: Figures = field(default_factory=Figures)
    products: list[str] = field(default_factory=list)
    method_uses_labels: bool = False
    random_layers: bool = False
    monitor: Monitor = field(default_factory=lambda: Monitor(1.0))
    findings: list[dict[str, Any]] = field(default_factory=list)
    real: Real = field(default_factory=lambda: Real(torch.zeros(0, 1, 1, 3, dtype=torch.uint8)))

    @property
    def device(self) -> torch.device:
        return next(iter(self.optimisers.values())).parameters[0].device

    def parameters(self, name: str) -> list[nn.Parameter]:
        """The weights that an optimiser moves."""
        return self.optimisers[name].parameters

    def best_generator(self) -> LayeredNetwork | None:
        """The averaged generator where there is one, else the last one; None without any."""
        average = self.averages.get("generator")
        return average.network if average else self.networks.get("generator")

    def set_rates(self) -> None:
        """Sets every optimiser's rate for the place in training."""
        s, kimg = self.settings, self.position.images / 1000
        factor = s.schedule.factor(kimg, s.kimg) * 0.5**self.position.attempt
        for optimiser in self.optimisers.values():
            optimiser.set_rate(factor, kimg)

    def tensors(self) -> dict[str, Tensor]:
        """The whole state as named tensors."""
        out: dict[str, Tensor] = {}
        for role, network in self.networks.items():
            out |= {f"network.{role}.{name}": value for name, value in network.state_dict().items()}
        for role, average in self.averages.items():
            state = average.network.state_dict()
            out |= {f"average.{role}.{name}": value for name, value in state.items()}
        for name, optimiser in self.optimisers.items():
            out |= optimiser.tensors(name)
        out |= {f"method.{name}": value for name, value in self.method.state().items()}
        return out | {f"figures.{name}": value for name, value in self.figures.sums.items()}

    def extra(self) -> dict[str, Any]:
        """What of the state is no tensor."""
        return {
            "figure_counts": dict(self.figures.counts),
            "products": list(self.products),
            "monitor": self.monitor.state(),
            "findings": list(self.findings),
        }

    def restore(
        self, position: Position, tensors: Mapping[str, Tensor], extra: Mapping[str, Any]
    ) -> None:
        """Puts back what `tensors` and `extra` gave."""
        for role, network in self.networks.items():
            network.load_state_dict(_under(tensors, f"network.{role}."))
        for role, average in self.averages.items():
            average.network.load_state_dict(_under(tensors, f"average.{role}."))
        for name, optimiser in self.optimisers.items():
            optimiser.restore(name, tensors)
        device = self.device
        self.method.load_state(
            {name: value.to(device) for name, value in _under(tensors, "method.").items()}
        )
        self.figures.sums = {
            name: value.to(device) for name, value in _under(tensors, "figures.").items()
        }
        self.figures.counts, self.products = dict(extra["figure_counts"]), list(extra["products"])
        self.monitor.load_state(extra["monitor"])
        self.findings = list(extra["findings"])
        self.position = position


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)
    }


def network_spec(settings: TrainConfig, classes: int = 0) -> dict[str, Any]:
    """The description of the networks that a snapshot carries. Args: classes: counted from the
    training labels, 0 without.
    """
    network = settings.network
    module = registry.load("networks", network.name)
    return {
        "name": network.name,
        "width": network.width,
        "latent_dim": network.latent_dim or module.LATENT_DIM,
        "image_size": module.IMAGE_SIZE,
        "classes": classes,
        "options": dict(network.options),
        "method": settings.method,
    }


def build(
    settings: TrainConfig,
    *,
    seed: int,
    device: str,
    image_size: int,
    classes: int = 0,
    start: Path | None = None,
) -> TrainerState:
    """Fresh state with the network file's initialisation, or the weights of a snapshot.

    Args:
        classes: number of classes in the training set, 0 without labels.
        start: file of the snapshot of another training.
    Raises: RequestError: the network is for images of another size, or lacks a role; the snapshot's
        weights do not fit.
    """
    spec = network_spec(settings, classes)
    if image_size != spec["image_size"]:
        refuse_size(settings.network.name, spec["image_size"], image_size)
    module = registry.load("methods", settings.method)
    method: Base = load_method(settings.method, settings.options)
    make = Make(spec)
    networks = method.networks(make)
    for role, network in networks.items():
        make.initialise(network, torch_stream(seed, "initialise", role))
    if start is not None:
        start_from(start, networks, settings.network.name, getattr(module, "STARTS_FROM", ()))
    for network in networks.values():
        if network.spectral_norm:
            add_spectral_norm(network, seed)
        network.to(device, memory_format=memory_format())  # type: ignore[call-overload]
        network.train()
        for norm in network.norms().values():
            norm.track = False  # calibrated when a snapshot is written
    optimisers = {
        name: Optimiser([networks[role] for role in rule.roles], rule, settings)
        for name, rule in method.optimised.items()
    }
    method.bind(networks, optimisers)
    generator = networks.get("generator")
    prior = Prior(make.prior, make.latent_dim, generator.classes if generator else 0)
    half_life = settings.ema_kimg * 1000
    return TrainerState(
        networks=networks,
        method=method,
        optimisers=optimisers,
        averages={role: Average(networks[role], half_life) for role in method.averaged}
        if half_life
        else {},
        prior=prior,
        grid_latents=sample_latents(prior, GRID, torch_stream(seed, "grid")),
        spec=spec,
        settings=settings,
        features=tuple(getattr(module, "FEATURES", ("discriminator",))),
        method_uses_labels=bool(module.USES_LABELS),
        random_layers=any(
            isinstance(m, nn.modules.dropout._DropoutNd)
            for n in networks.values()
            for m in n.modules()
        ),
    )


def refuse_size(name: str, expected: int, given: int) -> None:
    """Raises RequestError for crops of another size than a network takes."""
    names = registry.names("networks")
    fitting = [n for n in names if given == registry.load("networks", n).IMAGE_SIZE]
    raise RequestError(
        f"The network {name} takes images of {expected} px, and the crops have {given} px.",
        expected=f"crops of {expected} px, or a network for {given} px "
        f"({', '.join(fitting) or 'there is none'})",
        remedy=f"--set crop.size={expected}, or --set train.network.name=...",
    )


class SpectralNorm(_SpectralNorm):
    """Weights over their largest singular value, found by one power iteration a pass, in float32:
    autocast on a GPU would iterate in bf16, and then refuse the dtypes it made.
    """

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast("cuda" if weight.is_cuda else "cpu", enabled=False):
            out: Tensor = super().forward(weight)
        return out


def add_spectral_norm(network: LayeredNetwork, seed: int) -> None:
    """Divides every layer's weights by their largest singular value (Miyato et al. 2018).

    A batch norm after the layer divides by the result's own scale and so undoes the division: in
    the DCGAN authors' networks it binds the first layer and the head, which have none.
    """
    with torch.random.fork_rng(devices=[]):  # torch draws the start from the global stream
        torch.manual_seed(derive_seed(seed, "spectral norm"))
        for module in list(network.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear | nn.ConvTranspose2d):
                dim = 1 if isinstance(module, nn.ConvTranspose2d) else 0
                register_parametrization(module, "weight", SpectralNorm(module.weight, dim=dim))


def plain_state(network: nn.Module) -> dict[str, Tensor]:
    """A network's weights with spectral norm multiplied in. Nothing of `network` changes: its norms
    are read in evaluation mode, where they do not iterate.
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
    return state


def plain_copies(state: TrainerState) -> tuple[Base, dict[str, LayeredNetwork]]:
    """Copies of all networks that a snapshot holds in evaluation mode, averaged ones as
    '<role>_ema', and a method of their own bound to them: what is measured on them changes no
    training.
    """
    method: Base = load_method(state.settings.method, state.settings.options)
    copies = rebuild_networks(state.spec, method, state.averages)
    for role, network in copies.items():
        base = role.removesuffix(EMA)
        source = state.averages[base].network if role.endswith(EMA) else state.networks[base]
        network.load_state_dict(plain_state(source))
        network.to(state.device).eval().requires_grad_(False)
    method.bind({r: net for r, net in copies.items() if not r.endswith(EMA)}, {})
    return method, copies


def plain_features(state: TrainerState) -> tuple[Base, LayeredNetwork]:
    """The method on copies of its networks, and of these the network of images that gives its
    features.
    """
    method, copies = plain_copies(state)
    role = state.features[0]
    return method, feature_network(method, role, copies[role])


def sample_real(images: ImageSet, labels: npt.NDArray[np.int64] | None, seed: int) -> Real:
    """At most 2,048 training images of their own stream. Args: labels: int64 [n] of the whole set,
    or None.
    """
    rows = np.sort(numpy_stream(seed, "statistics", "real").permutation(len(images))[:REAL])
    return Real(
        torch.from_numpy(images.pixels(rows)),
        None if labels is None else torch.from_numpy(labels[rows]),
    )


def calibrated(state: TrainerState, *, seed: int, batch: int) -> dict[str, LayeredNetwork]:
    """Copies of the networks for a snapshot, with their batch-norm statistics measured.

    In training batch norms take the statistics of each batch. The stored ones of a generator are
    those over latents of their own stream, so that an image depends on its latent alone (the
    authors sample with each batch's statistics instead; `snapshot.generate` does both). Those of
    networks that take images are over real training images, so that a score says how an image looks
    among these. The method says what else a role is given (`Base.calibration`).
    """
    method, copies = plain_copies(state)
    count = max(batch, 2)
    for role, network in copies.items():
        if not network.norms():
            continue
        base = role.removesuffix(EMA)
        inputs = _latent_batches(state, seed, count)
        if base != "generator":
            inputs = _real_batches(state, seed, count)

        def run(given: Any, network: Any = network, base: str = base) -> Any:
            return network(*method.calibration(base, *given))

        calibrate_batchnorm(network, inputs, run=run)
    return copies


Samples = tuple[Tensor, Tensor, Tensor | None]  # images, latents, labels


def _latent_batches(state: TrainerState, seed: int, count: int) -> Iterator[Samples]:
    stream, prior, device = torch_stream(seed, "statistics"), state.prior, state.device
    labels = torch.arange(count, device=device) % prior.classes if prior.classes else None
    images = to_float(state.real.pixels[:count].to(device))
    for _ in range(CALIBRATION_BATCHES):
        yield images, sample_latents(prior, count, stream).to(device), labels


def _real_batches(state: TrainerState, seed: int, count: int) -> Iterator[Samples]:
    """Whole batches of real images; one smaller one where there are fewer."""
    real, device = state.real, state.device
    stream = torch_stream(seed, "statistics", "latents")
    if len(real.pixels) < 2:
        return
    for start in range(0, max(len(real.pixels) - count, 0) + 1, count):
        place = slice(start, start + count)
        images = to_float(real.pixels[place].to(device))
        labels = None if real.labels is None else real.labels[place].to(device)
        yield images, sample_latents(state.prior, len(images), stream).to(device), labels
