"""`--runner dask` and `--runner ray`: crop and extract made in shares by processes of a real
cluster give the same digests.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

# digits cropped for real, dealt into four shards of crops, and the pixels of those taken as
# features; `threads` is without shares
WORK = """
import json, sys
from pathlib import Path
import numpy as np
import pyarrow as pa
from prefect import flow
import tasks
from flows.runners import parse_runner
from gan_core.artifacts.manifest import Manifest
from gan_core.pipeline.nodes import Node
from gan_core.pipeline.runner import StageResult
from gan_core.pipeline.request import RunRequest, prepare
from gan_core.shards import PixelShards, write_rows, write_shard
from gan_core.artifacts.store import Store
from tasks.base import StageCall
from tasks.shares import using_cluster

home, runner = sys.argv[1:]
store = Store(home)

def in_four_shards(ref):
    shards = PixelShards(store.path(ref))
    work = store.work("crop", "0" * 32)
    place = np.arange(len(shards)) % 4
    for shard in range(4):
        write_shard(work, shard, shards.pixels(np.flatnonzero(place == shard)))
    table = shards.table.drop_columns(["folder"])
    for name, values in (("shard", place), ("row", np.arange(len(shards)) // 4)):
        column = table.schema.get_field_index(name)
        table = table.set_column(column, name, pa.array(values, pa.int32()))
    write_rows(work, table)
    made = Manifest(stage="crop", version=1, key="0" * 32, digest="")
    return store.publish(work, made, ("crops.parquet", "pixels-*.npy"))[0]

@flow(name="shares")
def shares():
    done = {}
    def make(node):
        call = StageCall(home=home, local=home, node=node, who="a test")
        needed = {name: done[name] for ids in node.inputs.values() for name in ids}
        done[node.id] = tasks.ALL[node.stage](call, needed, return_state=True).result()
    with using_cluster(*parse_runner(runner)):
        for node in prepare(RunRequest(recipe="digits", until="crop", home=home), store).nodes:
            make(node)
        four = in_four_shards(done["crop:digits"].ref)
        done["four"] = StageResult(node="four", ref=four, cached=False)
        part = {"features": "pixels", "seed": 0, "threads": 1}
        inputs, context = {"crops": ("four",)}, {"device": "cpu"}
        make(Node("extract:digits:pixels", "extract", part, part, inputs, context))
    return {name: [one.ref.digest, one.outcome.summary.get("read")] for name, one in done.items()}

print(json.dumps(shares()))
"""


def work(home: Path, runner: str, server: dict[str, str]) -> dict[str, Any]:
    home.mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment = {**clean, **server, "PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-c", WORK, str(home), runner],
        capture_output=True,
        text=True,
        env=environment,
        timeout=1500,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads(done.stdout.splitlines()[-1])


def shares_made(server: dict[str, str]) -> set[str]:
    """Names of the shares' task runs that the server knows as completed."""
    code = (
        "from prefect.client.orchestration import get_client\n"
        "with get_client(sync_client=True) as client:\n"
        "    runs = client.read_task_runs(limit=200)\n"
        "print(*[run.name for run in runs if ' share ' in run.name and run.state.is_completed()], "
        "sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **server},
        check=True,
    )
    return set(done.stdout.split("\n")) - {""}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, server: dict[str, str]) -> dict[str, Any]:
    return work(tmp_path_factory.mktemp("alone") / "home", "threads", server)


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["dask", "ray"])
def test_shares_on_two_processes_give_the_same_digests(
    runner: str, alone: dict[str, Any], tmp_path: Path, server: dict[str, str]
) -> None:
    if importlib.util.find_spec(f"prefect_{runner}") is None:
        pytest.skip(f"the extra {runner!r} is not installed")
    shared = work(tmp_path / "home", f"{runner}:2", server)
    assert {name: digest for name, (digest, _) in shared.items()} == {
        name: digest for name, (digest, _) in alone.items()
    }
    assert alone["crop:digits"][1] == 1272 and shared["crop:digits"][1] == 0, (
        "the stage itself had nothing left to read"
    )
    wanted = {
        f"{node} share {number} of 2"
        for node in ("crop:digits", "extract:digits:pixels")
        for number in (1, 2)
    }
    for _ in range(30):
        if wanted <= (made := shares_made(server)):
            break
    assert wanted <= made


def test_a_runner_that_is_not_there_is_refused_with_the_remedy(
    discern: Callable[..., Any], tmp_path: Path
) -> None:
    result = discern("run", "digits", "--runner", "spark", "--json")
    assert result.code == 2 and "dask" in result.json["expected"]
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'prefect_ray' else find(name, *rest)\n"
    )
    result = discern(
        "run", "digits", "--runner", "ray:2", "--json", PYTHONPATH=f"{hidden}{os.pathsep}{ROOT}"
    )
    assert result.code == 2 and ".[ray]" in result.json["remedy"]
