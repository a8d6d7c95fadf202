"""The flow `gc`: `discern gc` as a deployment, for a schedule. What is done, and what it never
takes, is flows/commands/gc.py.
"""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.commands import gc as gc_command
from flows.home import resolve_home


@flow(name="gc", flow_run_name="gc keep {keep}", persist_result=False, log_prints=True)
def gc(keep: Annotated[int, Field(ge=1)] = 3, dry_run: bool = True, home: str = "") -> None:
    """Removes what the last runs of each recipe do not name, with Prefect's records of the runs
    that go.

    Args:
        keep: So many completed runs of each recipe stay, with everything that they name.
        dry_run: Only say in the log what would go.
        home: The store, if not the deployment's own (DISCERN_HOME).
    """
    gc_command.gc(keep, dry_run, resolve_home(home))
