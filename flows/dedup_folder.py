"""`discern dedup FOLDER`: near-duplicates in any folder or Parquet set, without a recipe."""

from __future__ import annotations

import logging
from pathlib import Path

from flows import console
from gan_core.config import DedupConfig
from gan_core.errors import RequestError
from gan_core.files import atomic_write_bytes, write_table
from gan_core.progress import Throttled


def dedup_folder(place: Path, *, out: Path, against: Path | None, threshold: float | None, as_json: bool) -> int:
    """Writes the table of pictures and, beside it, a page to look at; returns the exit code."""
    from gan_core.dedup.folder import dedup_pictures
    from gan_core.dedup.page import page

    for path in (place, *([against] if against else [])):
        if not path.exists():
            raise RequestError(f"There is nothing at {path}.", expected="a folder of pictures, or Parquet files with pictures")
    if out.suffix not in (".parquet", ".pq"):
        raise RequestError(f"--out {out} is no Parquet file.", expected="a name that ends in .parquet")
    console.log_to_stderr(verbose=False)

    def told(done: float, total: float, unit: str, **figures: float) -> None:
        logging.getLogger("gan_core").info("%s of %s %s", f"{done:,.0f}", f"{total:,.0f}", unit)

    config = DedupConfig() if threshold is None else DedupConfig.model_validate({"threshold": threshold})
    found = dedup_pictures(place, config, against=against, progress=Throttled(told, 2.0))
    write_table(found.table, out)
    sheet = out.with_suffix(".html")
    atomic_write_bytes(sheet, page(found, _title(place, against)).encode())
    if as_json:
        console.print_json(
            {"out": str(out), "page": str(sheet), "counts": found.counts, "warnings": found.warnings, **found.summary}
        )
        return 0
    for warning in found.warnings:
        console.say(f"[yellow]{warning}[/]")
    counts = found.counts
    if against:
        print(f"{counts['in']:,} pictures: {counts['duplicates']:,} already stand in {against}, {counts['kept']:,} do not.")
    else:
        print(f"{counts['in']:,} pictures: {counts['duplicates']:,} are copies of another one, {counts['kept']:,} are kept.")
    print(f"table     {out}      (keep = false: a copy; keeper_address names what it copies)\nlook      {sheet}")
    print("Nothing was deleted or moved.")
    return 0


def _title(place: Path, against: Path | None) -> str:
    name = place.resolve().name
    return f"Which pictures of {name} already stand in {against.resolve().name}" if against else f"Near-duplicates in {name}"
