"""Snapshots: the networks of one training at one moment, for users. One safetensors file each;
nothing in it can run code: a network or method from outside the project is imported only where the
caller names its module (`allow`).

Tensors are named by role (`generator.`, `discriminator.`, `encoder.`, ...; `generator_ema.` is the
averaged generator) followed by the name within the network, and `grid_latents`. The file's metadata
holds under 'discern' a JSON object: format, network (name, width, latent_dim, image_size, classes,
options), prior (distribution, dim, classes), method, options (the method's), kimg and what training
recorded. Example:

    snapshot = load_snapshot(path)
    latents = sample_latents(snapshot.prior, 64, torch.Generator().manual_seed(0))
    images = generate(snapshot, latents)          # float32 [64, 3, S, S] in [-1, 1]
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_core import registry
from gan_core.errors import RequestError, StoreError
from gan_core.files import atomic_write_bytes, canonical_json, kimg_label
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.layers import BatchNorm, Block, LayerInfo, batch_statistics
from gan_core.networks.make import Make

FORMAT = 2
EMA = "_ema"  # ends the role of an averaged network
DISTRIBUTIONS = ("uniform", "normal")


@dataclass(frozen=True)
class Prior:
    """What latents are drawn from.

    Attributes:
        distribution: 'uniform' is U(-1, 1), 'normal' is N(0, 1), each value on its own.
        dim: values per latent.
        classes: number of classes of a conditional generator, 0 for none.
    """

    distribution: str = "uniform"
    dim: int = 100
    classes: int = 0


@dataclass
class Snapshot:
    """Networks in evaluation mode by role (averaged ones as '<role>_ema'), bound to their
    method.
    """

    networks: dict[str, LayeredNetwork]
    prior: Prior
    grid_latents: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    meta: dict[str, Any] = field(default_factory=dict)
    method: Any = None
    features: tuple[str, ...] = ("discriminator",)

    @property
    def generator(self) -> LayeredNetwork:
        """The generator as training left it."""
        return self.network("generator")

    @property
    def discriminator(self) -> LayeredNetwork:
        return self.network("discriminator")

    @property
    def average(self) -> LayeredNetwork | None:
        """The averaged generator, None where none was kept."""
        return self.networks.get("generator" + EMA)

    def best_generator(self) -> LayeredNetwork:
        """The averaged generator where there is one, else the last one."""
        return self.average or self.generator

    def network(self, role: str) -> LayeredNetwork:
        """The network of a role; StoreError when the snapshot has none."""
        if role not in self.networks:
            raise StoreError(
                f"This snapshot has no {role}.", expected=f"one of {', '.join(self.networks)}"
            )
        return self.networks[role]

    def feature_network(self, role: str | None = None) -> LayeredNetwork:
        """The network of images whose activations are a role's features. Args: role: None: the
        method's own choice.
        """
        role = role or self.features[0]
        network = self.network(role)
        return network if self.method is None else feature_network(self.method, role, network)

    def realness(self, images: Tensor, labels: Tensor | None = None) -> Tensor | None:
        """How real images look to the method, [n] logits; None where it has no such score."""
        if self.method is None:
            own: Tensor = self.discriminator(images, labels)
            return own[:, 0]
        scores: Tensor | None = self.method.realness(images, labels)
        return scores


class ImageOnlyNetwork(LayeredNetwork):
    """A role's network as a function of images alone: its further inputs are made by the method.

    A generator's maps count as feature maps here: it is run at E(x).
    """

    def __init__(
        self, method: Any, role: str, network: LayeredNetwork, shape: tuple[int, ...]
    ) -> None:
        super().__init__([], shape)
        self.network, self.role, self.classes = network, role, network.classes
        self.others = torch.nn.ModuleDict(
            {other: net for other, net in method.nets.items() if net is not network}
        )
        self._inputs = method.feature_inputs

    @property
    def without_labels(self) -> bool:
        return self.network.without_labels

    @without_labels.setter
    def without_labels(self, wanted: bool) -> None:
        self.network.without_labels = wanted

    def layer(self, name: str) -> Block:
        """The layer `name`; UnknownName when there is none."""
        return self.network.layer(name)

    def layers(self) -> list[LayerInfo]:
        """What each layer puts out, in order."""
        spatial = self.role == "generator"
        return [
            replace(info, kind="conv") if spatial and info.kind in ("deconv", "project") else info
            for info in self.network.layers()
        ]

    def forward(
        self, x: Tensor, labels: Tensor | None = None, latents: Tensor | None = None
    ) -> Tensor:
        out: Tensor = self.network(*self._inputs(self.role, x))
        return out

    def activations(
        self,
        x: Tensor,
        names: Iterable[str] | None = None,
        labels: Tensor | None = None,
        latents: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """As in `LayeredNetwork`, for images `x`."""
        x, labels, latents = self._inputs(self.role, x)
        return self.network.activations(x, names, labels, latents)

    def norms(self) -> dict[str, BatchNorm]:
        """All batch norms that images pass, the role's own first."""
        found = dict(self.network.norms())
        for role, other in self.others.items():
            assert isinstance(other, LayeredNetwork)
            found |= {f"{role}/{name}": norm for name, norm in other.norms().items()}
        return found


def feature_network(method: Any, role: str, network: LayeredNetwork) -> LayeredNetwork:
    """The network itself where it takes images alone, else an `ImageOnlyNetwork` of it."""
    shapes = [net.input_shape for net in method.nets.values() if len(net.input_shape) == 3]
    base = role.removesuffix(EMA)
    image_only = len(network.input_shape) == 3 and base != "generator"
    if image_only:
        probe = torch.zeros(2, *network.input_shape, device=next(network.parameters()).device)
        with torch.no_grad():
            x, _, latents = method.feature_inputs(base, probe)
        if x is probe and latents is None:
            return network
    return ImageOnlyNetwork(method, base, network, shapes[0])


def sample_latents(prior: Prior, n: int, generator: torch.Generator) -> Tensor:
    """Latents [n, dim] float32 on the generator's device."""
    shape = (n, prior.dim)
    if prior.distribution == "uniform":
        return torch.rand(shape, generator=generator, device=generator.device) * 2 - 1
    if prior.distribution == "normal":
        return torch.randn(shape, generator=generator, device=generator.device)
    raise ValueError(
        f"unknown prior distribution {prior.distribution!r}: expected one of {DISTRIBUTIONS}"
    )


def grid_labels(prior: Prior, n: int) -> Tensor | None:
    """Labels [n] int64 for a grid of a conditional generator, the classes in turn; None for an
    unconditional one.
    """
    return torch.arange(n) % prior.classes if prior.classes else None


@torch.no_grad()
def generate(
    snapshot: Snapshot,
    latents: Tensor,
    *,
    labels: Tensor | None = None,
    statistics: str = "stored",
    batch: int = 256,
) -> Tensor:
    """Images of the snapshot's best generator: float32 [n, C, S, S] on the CPU, tanh networks in
    [-1, 1].

    Args:
        latents: [n, dim].
        labels: [n] int64 for a conditional generator; None takes the classes in turn.
        statistics: 'stored' uses the batch-norm statistics kept in the snapshot: an image depends
            on its latent alone. 'batch' uses those of each batch, as the authors sample.
        batch: latents per pass.
    """
    network = snapshot.best_generator()
    device = next(network.parameters()).device
    if labels is None:
        labels = grid_labels(snapshot.prior, len(latents))
    out = []
    for start in range(0, len(latents), batch):
        z = latents[start : start + batch].to(device)
        y = None if labels is None else labels[start : start + batch].to(device)
        if statistics == "batch":
            with batch_statistics(network):
                out.append(network(z, y).float().cpu())
        else:
            out.append(network(z, y).float().cpu())
    return torch.cat(out) if out else torch.zeros(0)


def load_method(name: str, options: Mapping[str, Any]) -> Any:
    """The method `name` with its options, not bound to networks yet.

    Raises: RequestError: as `registry.options`.
    """
    return registry.load("methods", name).Method(registry.options("methods", name, options))


def build_networks(
    spec: Mapping[str, Any], roles: tuple[str, ...] = ("generator", "discriminator")
) -> dict[str, LayeredNetwork]:
    """Fresh networks of the roles that a network file itself has; weights are whatever torch puts
    there. Args: spec: as `Make` takes it.
    """
    make = Make(spec)
    return {role: getattr(make, role)() for role in roles}


def rebuild_networks(
    spec: Mapping[str, Any], method: Any, averaged: Iterable[str] = ()
) -> dict[str, LayeredNetwork]:
    """Fresh networks of a method's roles that snapshots hold, averaged ones as '<role>_ema'."""
    networks: dict[str, LayeredNetwork] = method.networks(Make(spec))
    for role in averaged:
        networks[role + EMA] = method.networks(Make(spec))[role]
    return {role: net for role, net in networks.items() if role not in method.scratch}


def snapshot_name(kimg: float) -> str:
    """File name of a snapshot; names sort in the order of training."""
    return f"snapshot-{kimg_label(kimg)}.safetensors"


def write_snapshot(
    path: Path,
    networks: Mapping[str, LayeredNetwork],
    grid_latents: Tensor,
    meta: Mapping[str, Any],
) -> Path:
    """Writes a snapshot, atomically; equal content gives equal bytes.

    Args:
        networks: by role.
        meta: must hold 'network' and 'prior'; plain JSON, no clocks, no paths.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {"grid_latents": grid_latents.detach().cpu().contiguous()}
    for role, network in networks.items():
        for name, value in network.state_dict().items():
            tensors[f"{role}.{name}"] = value.detach().cpu().contiguous()
    record = {"format": FORMAT, **meta}
    atomic_write_bytes(path, save(tensors, metadata={"discern": canonical_json(record)}))
    return path


def read_meta(path: Path) -> dict[str, Any]:
    """The JSON record of a snapshot, without reading its weights.

    Raises: StoreError: not a snapshot of Discern, damaged, or of a newer format.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("discern")
    except (SafetensorError, OSError) as error:
        raise StoreError(
            f"{path.name} cannot be read as a snapshot: {error}.",
            expected="a safetensors file that `train` wrote",
            remedy="name a file snapshot-<kimg>.safetensors, or copy it again if it is damaged",
        ) from error
    if text is None:
        raise StoreError(
            f"{path.name} is a safetensors file, but no snapshot of Discern.",
            expected="metadata named 'discern'",
            remedy="features of other weights: discern extract network --network MODULE:CLASS",
        )
    meta: dict[str, Any] = json.loads(text)
    if meta.get("format") != FORMAT:
        raise StoreError(
            f"{path.name} has snapshot format {meta.get('format')!r}.",
            expected=f"format {FORMAT}",
            remedy="use the version that wrote it",
        )
    return meta


def refuse_external(meta: Mapping[str, Any], name: str, allow: Collection[str]) -> None:
    """RequestError when a snapshot's record names a network or method that is neither a file of the
    project nor in `allow`.

    Importing a module runs its code, and whoever wrote the file chose the name. Nothing is imported
    here.
    """
    network = meta.get("network")
    named = {
        "networks": network.get("name") if isinstance(network, dict) else None,
        "methods": meta.get("method"),
    }
    for kind, given in named.items():
        known = registry.names(kind)
        if isinstance(given, str) and (given in known or given in allow):
            continue
        raise RequestError(
            f"{name} asks for the {kind[:-1]} {given!r}, which is not one of this project's: "
            "loading "
            "it would run that module's code.",
            expected=f"one of {', '.join((*known, *filter(None, allow)))}",
            remedy=f"load_snapshot(path, allow=[{given!r}])"
            + f" or `discern sample --{kind[:-1]} {given}`, where you trust that module",
        )


def load_snapshot(path: Path, device: str = "cpu", *, allow: Collection[str] = ()) -> Snapshot:
    """Reads a snapshot onto `device`; networks are in evaluation mode.

    Args:
        allow: dotted paths of network and method modules outside the project that may be imported.
    Raises:
        StoreError: as `read_meta`, or weights are missing or of other shapes.
        RequestError: the file names a module from outside that is not in `allow`.
    """
    from safetensors.torch import load_file

    meta = read_meta(path)
    refuse_external(meta, path.name, allow)
    tensors = load_file(path, device=device)
    name = str(meta["method"])
    method = load_method(name, meta.get("options", {}))
    averaged = {key.split(".")[0].removesuffix(EMA) for key in tensors if EMA + "." in key}
    networks = rebuild_networks(meta["network"], method, sorted(averaged))
    for role, network in networks.items():
        weights = {
            key[len(role) + 1 :]: value
            for key, value in tensors.items()
            if key.startswith(role + ".")
        }
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise StoreError(
                f"The weights in {path.name} do not fit its {role}: {error}"
            ) from error
        network.to(device).eval().requires_grad_(False)
    method.bind({r: net for r, net in networks.items() if not r.endswith(EMA)}, {})
    return Snapshot(
        networks=networks,
        prior=Prior(**meta["prior"]),
        grid_latents=tensors["grid_latents"],
        meta=meta,
        method=method,
        features=tuple(getattr(registry.load("methods", name), "FEATURES", ("discriminator",))),
    )


CHOSEN = "snapshot-chosen.safetensors"  # next to the others where `train.choose` chose one


def chosen_snapshot(folder: Path) -> Path:
    """The snapshot of a train artifact that goes on: the one that `train.choose` chose, else the
    last.
    """
    return folder / CHOSEN if (folder / CHOSEN).is_file() else last_snapshot(folder)


def saw_labels(meta: Mapping[str, Any]) -> str:
    """Which labels a snapshot's weights depend on: '' none, 'validation' (it was chosen by them),
    'training' (it was trained on them).
    """
    if int(meta.get("prior", {}).get("classes", 0)):
        return "training"
    return str(meta.get("saw_labels", ""))


def last_snapshot(folder: Path) -> Path:
    """The final snapshot of a train artifact: the last in the order of names.

    Raises: RequestError: the folder holds none.
    """
    found = sorted(path for path in folder.glob("snapshot-*.safetensors") if path.name != CHOSEN)
    if not found:
        raise RequestError(
            f"There is no snapshot in {folder}.",
            expected="a folder with a file snapshot-<kimg>.safetensors: an artifact of stage train",
            remedy="`discern run RECIPE` makes one; `discern status RECIPE --json` says where",
        )
    return found[-1]


def load_snapshots(
    folder: Path, device: str = "cpu", *, allow: Collection[str] = ()
) -> Iterator[Snapshot]:
    """The snapshots that a training wrote on its way, in order, one in memory at a time; arguments
    as in `load_snapshot`.
    """
    for path in sorted(folder.glob("snapshot-[0-9]*.safetensors")):
        yield load_snapshot(path, device, allow=allow)
