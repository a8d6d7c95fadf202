"""Snapshots: the networks of one training at one moment, for users. One safetensors file each;
nothing in it can run code: a network from outside the project is imported only where the caller
names its module (`allow`).

Tensors are named by role: `generator.`, `discriminator.`, `encoder.`, `average.` (the averaged
generator) followed by the name within the network, and `grid_latents`. The file's metadata holds
under 'discern' a JSON object: format, network (name, width, latent_dim, image_size, outputs), prior
(distribution, dim, classes), method, mode, kimg and what training recorded. Example:

    snapshot = load_snapshot(path)
    latents = sample_latents(snapshot.prior, 64, torch.Generator().manual_seed(0))
    images = generate(snapshot, latents)          # float32 [64, 3, S, S] in [-1, 1]
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gan_core import registry
from gan_core.errors import RequestError, StoreError
from gan_core.files import atomic_write_bytes, canonical_json, kimg_label
from gan_core.networks.base import LayeredNetwork, batch_statistics

FORMAT = 1
ROLES = ("generator", "discriminator", "encoder", "average")
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
    """Networks in evaluation mode, with what is known of them. `average` is the averaged generator,
    None where none was kept.
    """

    generator: LayeredNetwork
    discriminator: LayeredNetwork
    prior: Prior
    encoder: LayeredNetwork | None = None
    average: LayeredNetwork | None = None
    grid_latents: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    meta: dict[str, Any] = field(default_factory=dict)

    def best_generator(self) -> LayeredNetwork:
        """The averaged generator where there is one, else the last one."""
        return self.average if self.average is not None else self.generator

    def network(self, role: str) -> LayeredNetwork:
        """The network of a role ('generator', 'discriminator', 'encoder', 'average'); StoreError
        when the snapshot has none.
        """
        found = getattr(self, role, None) if role in ROLES else None
        if not isinstance(found, LayeredNetwork):
            have = [name for name in ROLES if getattr(self, name) is not None]
            raise StoreError(f"This snapshot has no {role}.", expected=f"one of {', '.join(have)}")
        return found


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


def build_networks(
    spec: Mapping[str, Any], roles: tuple[str, ...] = ("generator", "discriminator")
) -> dict[str, LayeredNetwork]:
    """Fresh networks for a description {name, width, latent_dim, outputs}; weights are whatever
    torch puts there.
    """
    module = registry.load("networks", str(spec["name"]))
    width, latent_dim = float(spec.get("width", 1.0)), spec.get("latent_dim") or module.LATENT_DIM
    made: dict[str, LayeredNetwork] = {}
    for role in roles:
        if role in ("generator", "average"):
            made[role] = module.generator(width, latent_dim)
        elif role == "discriminator":
            made[role] = module.discriminator(width, int(spec.get("outputs", 1)))
        else:
            made[role] = module.encoder(width, latent_dim)
    return made


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
        if role not in ROLES:
            raise ValueError(f"unknown role {role!r}: expected one of {ROLES}")
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
        ) from error
    if text is None:
        raise StoreError(
            f"{path.name} is a safetensors file, but no snapshot of Discern.",
            expected="metadata named 'discern'",
        )
    meta: dict[str, Any] = json.loads(text)
    if meta.get("format") != FORMAT:
        raise StoreError(
            f"{path.name} has snapshot format {meta.get('format')!r}.",
            expected=f"format {FORMAT}",
            remedy="use the version that wrote it",
        )
    return meta


def refuse_foreign(meta: Mapping[str, Any], name: str, allow: Collection[str]) -> None:
    """RequestError when a snapshot's record names a network that is neither a file of
    gan_core/networks nor in `allow`.

    Importing a module runs its code, and whoever wrote the file chose the name. Nothing is imported
    here.
    """
    network = meta.get("network")
    said = network.get("name") if isinstance(network, dict) else None
    known = registry.names("networks")
    if isinstance(said, str) and (said in known or said in allow):
        return
    raise RequestError(
        f"{name} asks for the network {said!r}, which is not one of this project's: loading it "
        "would run that module's code.",
        expected=f"one of {', '.join((*known, *filter(None, allow)))}",
        remedy=(
            f"load_snapshot(path, allow=[{said!r}]) or `discern sample --network {said}`, "
            "where you trust that module"
        ),
    )


def load_snapshot(path: Path, device: str = "cpu", *, allow: Collection[str] = ()) -> Snapshot:
    """Reads a snapshot onto `device`; networks are in evaluation mode.

    Args:
        allow: dotted paths of network modules that may be imported beside the project's own
            networks.
    Raises:
        StoreError: as `read_meta`, or weights are missing or of other shapes.
        RequestError: the file names a network from outside that is not in `allow`.
    """
    from safetensors.torch import load_file

    meta = read_meta(path)
    refuse_foreign(meta, path.name, allow)
    tensors = load_file(path, device=device)
    roles = tuple(role for role in ROLES if any(name.startswith(role + ".") for name in tensors))
    networks = build_networks(meta["network"], roles)
    for role, network in networks.items():
        weights = {
            name[len(role) + 1 :]: value
            for name, value in tensors.items()
            if name.startswith(role + ".")
        }
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise StoreError(
                f"The weights in {path.name} do not fit its {role}: {error}"
            ) from error
        network.to(device).eval().requires_grad_(False)
    return Snapshot(
        generator=networks["generator"],
        discriminator=networks["discriminator"],
        encoder=networks.get("encoder"),
        average=networks.get("average"),
        prior=Prior(**meta["prior"]),
        grid_latents=tensors["grid_latents"],
        meta=meta,
    )


CHOSEN = "snapshot-chosen.safetensors"  # beside the others where `train.choose` chose one


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
    """The final snapshot of a train artifact: the last in the order of names."""
    found = sorted(path for path in folder.glob("snapshot-*.safetensors") if path.name != CHOSEN)
    if not found:
        raise StoreError(
            f"There is no snapshot in {folder.name}.",
            expected="a file snapshot-<kimg>.safetensors that `train` wrote",
        )
    return found[-1]
