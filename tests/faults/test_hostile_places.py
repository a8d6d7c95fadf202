"""Places that `discern dedup` cannot use: its errors name its own options and not a recipe's."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.commands.dedup import FileOptions, SearchOptions, dedup
from gan_core.errors import DiscernError


def tar_shards(root: Path) -> None:
    with tarfile.open(root / "shard.tar", "w"):
        pass


def unknown_tables(root: Path) -> None:
    pq.write_table(pa.table({"number": [1, 2]}), root / "table.parquet")


def damaged_tables(root: Path) -> None:
    (root / "table.parquet").write_bytes(b"PAR1 and nothing else")


def texts(root: Path) -> None:
    (root / "notes.txt").write_text("no image")


def nothing(root: Path) -> None:
    pass


def databases(root: Path) -> None:
    (root / "data.mdb").write_bytes(b"no database")


@pytest.mark.parametrize("dataset", [None, "folder", "parquet", "tar", "lmdb", "cifar10"])
@pytest.mark.parametrize(
    "fill", [tar_shards, unknown_tables, damaged_tables, texts, nothing, databases]
)
def test_a_remedy_names_options_of_the_command(
    fill: Callable[[Path], None], dataset: str | None, tmp_path: Path
) -> None:
    (tmp_path / "place").mkdir()
    fill(tmp_path / "place")
    with pytest.raises(DiscernError) as caught:
        dedup(
            tmp_path / "place",
            tmp_path / "out.parquet",
            options=SearchOptions(dataset=dataset, workers=1),
            files=FileOptions(),
        )
    text = caught.value.explain()
    assert not any(word in text for word in ("--set", "--data ", "sources.", "`dataset`")), text
