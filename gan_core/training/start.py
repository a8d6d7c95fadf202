"""A training that starts from the snapshot of another one (`train.start`)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import load_file

from gan_core.errors import RequestError
from gan_core.networks.base import LayeredNetwork
from gan_core.networks.snapshot import EMA, read_meta


def start_from(
    path: Path, networks: Mapping[str, LayeredNetwork], name: str, finished: tuple[str, ...] = ()
) -> None:
    """Gives networks the weights that a snapshot has for their roles.

    Weights alone are read: no code that the snapshot names is imported.

    Args:
        networks: by role, before spectral norm is added. name: of their file, for messages.
        finished: roles that are not trained further: only these are read, and the averaged network
            goes before the last one. Empty: all roles that the snapshot has, as training left them.
    Raises: RequestError: the snapshot lacks a role, or its weights do not fit.
    """
    meta, tensors = read_meta(path), load_file(path)
    there = {key.partition(".")[0] for key in tensors}
    roles = finished or tuple(role for role in networks if role in there)
    if not roles or not there.issuperset(roles):
        raise RequestError(
            f"The snapshot {path.name} has no {' and '.join(finished or networks)}.",
            expected=f"one of {', '.join(sorted(there - {'grid_latents'}))}",
            remedy="train.start: the snapshot of another training",
        )
    for role in roles:
        source = role + EMA if role in finished and role + EMA in there else role
        weights = {
            key.removeprefix(source + "."): value
            for key, value in tensors.items()
            if key.startswith(source + ".")
        }
        try:
            networks[role].load_state_dict(weights)
        except RuntimeError as error:
            of = meta["network"]
            raise RequestError(
                f"The {role} of {path.name} does not fit this training's network {name}: "
                f"{str(error).splitlines()[-1].strip()}",
                expected=f"the network {of['name']} of width {of['width']:g} with latents of "
                f"{of['latent_dim']} values, options {of['options']}, method {meta['method']}",
                remedy=f"--set train.network.name={of['name']} train.network.width={of['width']:g} "
                f"train.network.latent_dim={of['latent_dim']}",
            ) from error
