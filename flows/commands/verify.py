"""`discern verify`: artifacts' files compared with the hashes in their manifests."""

from __future__ import annotations

from typing import Annotated

import typer

from flows.commands import console
from flows.commands.options import HomeOption, JsonOption
from flows.home import open_store, resolve_home
from gan_core.artifacts.store import Store
from gan_core.contract import ArtifactRef
from gan_core.errors import RequestError


def verify(
    artifact: Annotated[
        str | None, typer.Argument(help="stage/key or a beginning of it; none: see --all")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="every artifact of the store")] = False,
    remove: Annotated[
        bool,
        typer.Option("--remove", help="remove damaged artifacts; the next run makes them again"),
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> int:
    """Hashes artifacts' files again; returns 1 when something is damaged (and was not removed)."""
    if not artifact and not everything:
        raise RequestError(
            "Nothing was named to verify.",
            expected="an artifact (stage/key or its beginning) or --all",
        )
    store = open_store(resolve_home(home), writing=remove)
    refs = [
        ref
        for ref in store.artifacts.refs()
        if everything or f"{ref.stage}/{ref.key}".startswith(artifact or "")
    ]
    if not refs and artifact:
        known = sorted({ref.stage for ref in store.artifacts.refs()})
        raise RequestError(
            f"No artifact begins with {artifact!r}.",
            expected=f"stage/key, stages here: {', '.join(known) or 'none yet'}",
        )
    damaged = {_name(ref): found for ref in refs if (found := _verify(store, ref, remove))}
    if as_json:
        console.print_json(
            {"checked": len(refs), "damaged": damaged, "removed": sorted(damaged) if remove else []}
        )
    else:
        for name, found in damaged.items():
            print(f"{'removed' if remove else 'DAMAGED'}  {name}")
            print("".join(f"           {text}\n" for text in found[:5]), end="")
        print(
            f"{len(refs)} artifacts checked, {len(damaged)} "
            f"damaged{' and removed' if remove and damaged else ''}."
        )
        if damaged and not remove:
            print("`discern verify --all --remove` drops them; the next run makes them again.")
    return 1 if damaged and not remove else 0


def _verify(store: Store, ref: ArtifactRef, remove: bool) -> list[str]:
    found = store.verify(ref)
    if found and remove:
        store.artifacts.drop(ref)
    return found


def _name(ref: ArtifactRef) -> str:
    return f"{ref.stage}/{ref.key}/{ref.digest[:12]}"
