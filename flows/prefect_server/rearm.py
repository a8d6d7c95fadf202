"""A server that was away must not take the runs that went on for dead: their windows of silence
begin anew, before it serves.

Prefect keeps, for each run that an automation waits for, when the waiting ends. Nobody hears a
heartbeat while the server is down, and the first thing that a server does when it comes back is to
act on every wait that has ended meanwhile. So each starts again here, at full length and a minute:
a run that lives sends a heartbeat within it, one that died is marked at its end. Done by `discern
server start` and by every run that starts the home's server; a service of one's own does it with
`discern server rearm` before it starts (docs/operations.md). The database is touched directly,
since no server runs yet; `automation` and `automation_bucket` are tables of Prefect 3.8.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from flows.prefect_server.watches import SILENT

STARTING = timedelta(seconds=60)
"""What is added to a wait: nobody is heard either while the server starts (seconds, on a busy
machine more than a minute).
"""


def rearm(database: str) -> int:
    """Lets every wait of the watching automations begin now; returns how many there were.

    Args:
        database: the server's connection URL (SQLite or PostgreSQL). One without Prefect's tables
            holds nothing to do.
    """
    sqlite = database.startswith("sqlite")
    if sqlite and not Path(unquote(urlsplit(database).path[1:])).exists():
        return 0
    return asyncio.run(_rearm(database, sqlite))


async def _rearm(database: str, sqlite: bool) -> int:
    from sqlalchemy import bindparam, inspect, text
    from sqlalchemy.ext.asyncio import create_async_engine

    waits = text(
        "SELECT waiting.id, automation.trigger FROM automation_bucket AS waiting "
        "JOIN automation ON automation.id = waiting.automation_id WHERE automation.name IN :names"
    ).bindparams(bindparam("names", expanding=True))
    again = text('UPDATE automation_bucket SET start = :start, "end" = :end WHERE id = :id')
    now = datetime.now(UTC)
    engine = create_async_engine(database)
    try:
        async with engine.begin() as connection:
            if not await connection.run_sync(
                lambda sync: inspect(sync).has_table("automation_bucket")
            ):
                return 0
            found = (await connection.execute(waits, {"names": list(SILENT)})).all()
            for one, trigger in found:
                ends = now + STARTING + _within(trigger)
                await connection.execute(
                    again, {"id": one, "start": _stored(now, sqlite), "end": _stored(ends, sqlite)}
                )
    finally:
        await engine.dispose()
    return len(found)


def _within(trigger: str | dict[str, Any]) -> timedelta:
    """How long an automation waits, an operator's own value too; SQLite gives its JSON as text."""
    found = json.loads(trigger) if isinstance(trigger, str) else trigger
    return timedelta(seconds=float(found["within"]))


def _stored(moment: datetime, sqlite: bool) -> datetime | str:
    """SQLite has no type for a moment: Prefect writes UTC as text."""
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f") if sqlite else moment
