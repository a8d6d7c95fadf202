"""The whole chain on real digits, through the command line and a real Prefect server: what is
computed, and what is not.
"""

from __future__ import annotations

import html
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pipelines.conftest import DIGITS
from tests.pipelines.operating import ROOT, Api

SETTINGS = (
    "sources.train.digits.limit=300",
    "hash.min_steps=20",
    "evaluate.labels_per_class=[10]",
    "evaluate.probes=[{name: linear_svm, grid: [0.001]}]",
    "evaluate.baselines=[pixels]",
    "inspect=[samples]",
)
SMALL = (*DIGITS, *(word for setting in SETTINGS for word in ("--set", setting)))

Answer = dict[str, Any]
Ask = Callable[..., Answer]


def digests(answer: Answer) -> dict[str, str]:
    return {node["node"]: node["ref"]["digest"] for node in answer["nodes"]}


def artifact(home: Path, answer: Answer, node: str) -> Path:
    ref = next(entry["ref"] for entry in answer["nodes"] if entry["node"] == node)
    return home / "artifacts" / ref["stage"] / ref["key"]


def test_it_makes_everything_and_a_report(finished: tuple[Path, Answer]) -> None:
    home, result = finished
    stages = {node["ref"]["stage"] for node in result["nodes"]}
    assert stages == {
        "ingest",
        "crop",
        "hash",
        "dedup",
        "pack",
        "train",
        "inspect",
        "extract",
        "evaluate",
        "report",
    }
    assert set(result["computed"]) == {node["node"] for node in result["nodes"]}
    report = Path(result["report"]).read_text()
    assert Path(result["report"]).with_name("summary.json").is_file()
    assert "<html" in report and "http://" not in report.replace("http://www.w3.org", "")
    assert (home / "runs" / result["run"] / "recipe.yaml").exists()


def test_features_lead_back_to_the_images(finished: tuple[Path, Answer]) -> None:
    import pyarrow.parquet as pq

    home, result = finished
    (folder,) = artifact(home, result, "extract:digits:discriminator").glob("[0-9a-f]*/")
    (images,) = artifact(home, result, "ingest:digits").glob("[0-9a-f]*/")
    features = pq.read_table(sorted(folder.glob("features-*.parquet")))
    known = pq.read_table(images / "images.parquet")
    assert features.num_rows == known.num_rows == 1272
    assert set(features["image_id"].to_pylist()) == set(known["image_id"].to_pylist())
    first = features.slice(0, 1).to_pylist()[0]
    row = next(row for row in known.to_pylist() if row["image_id"] == first["image_id"])
    assert (row["address"], row["member"], row["split"], row["label"]) == tuple(
        first[name] for name in ("address", "member", "split", "label")
    )


def test_a_second_run_computes_nothing_and_imports_nothing_heavy(home: Path, answer: Ask) -> None:
    again = answer(home, *DIGITS)
    assert again["computed"] == []
    code = (
        "import sys; sys.argv = ['discern', *sys.argv[1:]]\n"
        "from flows.cli import app\n"
        "try: app(standalone_mode=False)\n"
        "finally: print([m for m in ('torch', 'prefect', 'faiss', 'cv2', 'sklearn') if m in "
        "sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *DIGITS],
        capture_output=True,
        text=True,
        env={**os.environ, "DISCERN_HOME": str(home)},
        cwd=Path(__file__).resolve().parents[2],
    )
    assert done.returncode == 0 and done.stderr.strip().endswith("[]"), done.stderr


def test_a_c_grid_re_runs_its_cells_and_the_report_only(home: Path, answer: Ask) -> None:
    again = answer(home, *DIGITS, "--set", "evaluate.probes.linear_svm.grid=[1e-4, 1e-3]")
    kinds = {name for name in again["computed"] if name != "report"}
    assert kinds == {
        f"evaluate:digits:{features}:linear_svm"
        for features in ("discriminator", "random", "pixels")
    }


def test_a_deleted_and_a_refreshed_artifact_are_made_again_and_nothing_else(
    home: Path, finished: tuple[Path, Answer], answer: Ask
) -> None:
    shutil.rmtree(artifact(home, finished[1], "crop:digits"))
    again = answer(home, *DIGITS, "--refresh", "hash")
    assert again["computed"] == ["crop:digits", "hash"]
    assert digests(again) == digests(finished[1]), "the same seed and threads, the same digests"


def test_only_refuses_when_inputs_are_missing(tmp_path: Path, answer: Ask) -> None:
    result = answer(tmp_path / "empty", *DIGITS, "--only", "train", code=2)
    assert "pack" in result["error"] and "discern run digits" in result["remedy"]


def test_a_new_version_of_a_stage_is_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    from gan_core import specs
    from gan_core.artifacts.store import Store
    from gan_core.pipeline.request import RunRequest, prepare

    request = RunRequest(recipe="digits", scale="debug", home=str(home))
    assert prepare(request, Store(home)).to_do == []
    monkeypatch.setitem(specs.STAGES, "pack", replace(specs.STAGES["pack"], version=99))
    (first, *rest) = prepare(request, Store(home)).to_do
    assert first.node.id == "pack" and "version went from" in first.why
    assert {status.state for status in rest} == {"after"}


def test_runs_are_compared_and_similar_images_found(
    home: Path, finished: tuple[Path, Answer], answer: Ask, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq
    from PIL import Image

    first, again = finished[1]["run"], answer(home, *DIGITS)["run"]
    page = tmp_path / "compared.html"
    found = answer(home, "compare", first, again, "--out", str(page), "--json")
    assert found["settings"] == [] and len(found["scores"]) >= 6
    for cell in found["scores"]:
        gap = cell["runs"][again]["difference"]
        assert gap["paired"] and gap["mean"] == 0 and gap["verdict"] == "level"
    assert page.read_text().count("<tr>") > len(found["scores"])
    error = answer(home, "compare", first, f"{first}x", "--json", code=2)["error"]
    assert f"{first}x" in error and f"did you mean '{first}'" in error
    assert "given twice" in answer(home, "compare", first, first, "--json", code=2)["error"]

    (folder,) = artifact(home, finished[1], "extract:digits:discriminator").glob("[0-9a-f]*/")
    rows = pq.read_table(folder / "features-00000.parquet", columns=["image_id", "label"])
    image, sheet = rows["image_id"][0].as_py(), tmp_path / "similar.png"
    words = (image, "--features", folder.parent.name, "-k", "5", "--out", str(sheet), "--json")
    result = answer(home, "similar", *words)
    assert result["image_id"] == image and len(result["neighbours"]) == 5
    same = [one["label"] == rows["label"][0].as_py() for one in result["neighbours"]]
    assert sum(same) >= 3, "digits of one kind are alike"
    assert Image.open(sheet).size[0] > 2 * 96
    (pack,) = artifact(home, finished[1], "pack").glob("[0-9a-f]*/")
    error = answer(home, "similar", image, "--features", str(pack), "--json", code=2)["error"]
    assert "artifact of stage pack" in error


def test_a_damaged_artifact_is_named_and_mended(
    home: Path, finished: tuple[Path, Answer], answer: Ask
) -> None:
    (folder,) = artifact(home, finished[1], "pack").glob("[0-9a-f]*/")
    (shard, *_) = sorted(folder.glob("pixels-*.npy"))
    os.chmod(shard, 0o644)
    before = shard.stat()
    data = bytearray(shard.read_bytes())
    data[-100] ^= 0xFF
    shard.write_bytes(bytes(data))
    # the disk's fault, not a program's: the cheap check by time of change does not see it
    os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))
    result = answer(home, *DIGITS, "--refresh", "train", code=1)
    assert (
        "pack/" in result["error"] and "damaged" in result["error"] and "verify" in result["remedy"]
    )
    assert answer(home, "verify", "--all", "--json", code=1)["damaged"]
    assert answer(home, "verify", "--all", "--remove", "--json")["removed"]
    again = answer(home, *DIGITS)
    assert again["computed"] == ["pack"] and digests(again) == digests(finished[1])


def test_a_run_whose_training_diverged_leaves_a_report(home: Path, answer: Ask) -> None:
    """At this rate the generator's images are all black after a few updates: said at the exit, and
    shown in a page of its own.
    """
    settings = ("train.learning_rate=0.5", "train.log_kimg=0.1", "train.kimg=4")
    result = answer(
        home, *DIGITS, *(word for setting in settings for word in ("--set", setting)), code=1
    )
    assert "Training diverged at 0." in result["error"]
    (folder,) = (
        path.parent
        for path in home.glob("runs/*/run.json")
        if json.loads(path.read_text())["state"] == "failed"
    )
    assert str(folder / "report.html") in result["remedy"]
    report = (folder / "report.html").read_text()
    assert (
        result["error"] in html.unescape(report).replace("\xa0", " ")
        and "What was seen" in report
        and "learning_rate" in report
    )
    assert report.count("Samples after") >= 2 and 'id="scores"' not in report
    assert json.loads((folder / "run.json").read_text())["report"] == str(folder / "report.html")


@pytest.mark.slow
def test_max_seconds_ends_training_cleanly_and_it_goes_on(home: Path, answer: Ask) -> None:
    longer = (*DIGITS, "--set", "train.kimg=4")
    paused = answer(home, *longer, "--set", "train.kimg=4000", "--max-seconds", "6")
    assert paused["state"] == "paused"
    assert "train" in paused["computed"] and not any(
        name.startswith("extract:digits:discr") for name in paused["computed"]
    )
    plan = {
        row["node"]: row["state"]
        for row in answer(home, "status", "digits", "--scale", "debug", "--json")["plan"]
    }
    assert plan["train"] == "cached", "the shorter training is still there"
    done = answer(home, *longer)
    assert done["state"] == "completed" and "train" in done["computed"]


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_in_a_training_loses_no_minibatch(
    home: Path, server: dict[str, str], answer: Ask, processes: int
) -> None:
    """The terminal sends it to the whole group. No state was due before: without one saved now,
    training would begin again.
    """
    longer = (
        "train",
        "digits",
        "--scale",
        "debug",
        "--set",
        "train.kimg=4000",
        "--set",
        "train.state_kimg=4000",
    )
    longer += ("--set", f"train.processes={processes}")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *longer],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**clean, **server, "DISCERN_HOME": str(home), "PYTHONPATH": str(ROOT)},
        cwd=home.parent,
        start_new_session=True,
        # as in a shell: tests started with `&` from a script inherit SIGINT ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )

    def images() -> int:
        lines = [
            path.read_text().splitlines()
            for path in (home / "state" / "train").glob("*/stats.jsonl")
        ]
        return max(
            (json.loads(line)["images"] for some in lines for line in some if line.endswith("}")),
            default=0,
        )

    before = images()
    deadline = time.monotonic() + 1500
    while images() <= max(before, 6000):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    reached = images()
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert (
        "Stopped. What is finished is kept" in err
        and "saves its state first" in err
        and "Traceback" not in err
    ), err
    result = answer(home, *longer, "--max-seconds", "1", "--json")
    assert result["state"] == "paused"
    found = [
        json.loads(path.read_text())["position"]["images"]
        for path in (home / "state" / "train").glob("*/state-*/state.json")
    ]
    assert max(found) > reached, "it continues where the signal ended it"
    stopped = next(
        json.loads(path.read_text())
        for path in sorted((home / "runs").glob("digits-*/run.json"))[::-1]
        if json.loads(path.read_text())["state"] == "failed"
    )
    assert stopped["error"].startswith("KeyboardInterrupt")


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory: pytest.TempPathFactory, command: Callable[..., Any]) -> list[Answer]:
    """What two small runs at once in one home printed."""
    home = tmp_path_factory.mktemp("two") / "home"
    home.mkdir()
    answers = []
    for process in [command(home, *SMALL) for _ in range(2)]:
        out, err = process.communicate(timeout=1500)
        assert process.returncode == 0, err[-3000:]
        answers.append(json.loads(out))
    return answers


def test_two_runs_at_once_share_the_work(two_runs: list[Answer]) -> None:
    first, second = two_runs
    made = [set(one["computed"]) for one in two_runs]
    assert not made[0] & made[1], "exactly one of them computes each stage"
    assert made[0] | made[1] == set(digests(first))
    assert digests(first) == digests(second)


@pytest.mark.parametrize(
    "stages",
    [
        ("crop", "train", "extract", "report"),
        pytest.param(
            ("ingest", "crop", "hash", "train", "extract", "evaluate", "report"),
            marks=pytest.mark.slow,
        ),
    ],
)
@pytest.mark.timeout(3600)
def test_kill_9_in_one_stage_after_another_and_the_same_command_again(
    two_runs: list[Answer],
    tmp_path: Path,
    command: Callable[..., Any],
    answer: Ask,
    server: dict[str, str],
    stages: tuple[str, ...],
) -> None:
    """One home, killed in one stage after another; what comes out at the end is what runs give that
    nothing killed.

    Prefect would show the killed runs as Running for ever: the next run closes them, and none that
        is being tried again.
    """
    home = tmp_path / "home"
    home.mkdir()
    killed = []
    for stage in stages:
        process = command(home, *SMALL)
        if _kill_when_at_work(process, home, stage):
            killed.append(stage)
    assert set(killed) >= {"train", "extract"}, killed
    published = [
        path.parent
        for path in (home / "artifacts").glob("*/*/*/manifest.json")
        if path.parent.name != ".work"
    ]
    api = Api(server)
    dead = {
        record["flow_run"]: path
        for path, record in _records(home).items()
        if record["state"] != "completed"
    }
    last = (
        "RUNNING" if killed[-1] == "report" else "CRASHED"
    )  # one that ended before it was seen has closed it
    assert [api.run(run)["state_type"] for run in dead] == ["CRASHED"] * (len(dead) - 1) + [last], (
        "each closes those before"
    )
    retried = _tried_again(api, home, next(iter(dead.values())))
    again = answer(home, *SMALL)
    assert {api.run(run)["state_type"] for run in dead} == {"CRASHED"}
    unfinished = {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}
    assert (
        api.ask(
            "/task_runs/filter",
            {"flow_runs": {"id": {"any_": list(dead)}}, "task_runs": unfinished},
        )
        == []
    )
    assert api.run(retried)["state_type"] == "RUNNING"
    states = {path.parent.name: record["state"] for path, record in _records(home).items()}
    assert states.pop("digits-elsewhere") == "running" and set(states.values()) == {
        "failed",
        "completed",
    }
    assert digests(again) == digests(two_runs[0])
    assert answer(home, "verify", "--all", "--json")["damaged"] == {}
    assert published, "what was finished before the kills was kept"


def _records(home: Path) -> dict[Path, Answer]:
    return {
        path: json.loads(path.read_text()) for path in sorted((home / "runs").glob("*/run.json"))
    }


def _tried_again(api: Api, home: Path, like: Path) -> str:
    """A run whose first attempt has died here, and whose second is at work somewhere else."""
    flow = api.run(json.loads(like.read_text())["flow_run"])["flow_id"]
    run = str(api.ask("/flow_runs/", {"flow_id": flow})["id"])
    for state in ("RUNNING", "SCHEDULED", "RUNNING"):
        api.ask(f"/flow_runs/{run}/set_state", {"state": {"type": state}, "force": True})
    assert api.run(run)["run_count"] == 2
    planted = home / "runs" / "digits-planted" / "run.json"
    planted.parent.mkdir()
    record = {**json.loads(like.read_text()), "flow_run": run, "state": "running"}
    planted.write_text(json.dumps(record))
    elsewhere = (
        home / "runs" / "digits-elsewhere" / "run.json"
    )  # on a disk that does not tell who has locked what
    elsewhere.parent.mkdir()
    elsewhere.write_text(json.dumps({**record, "host": "another-machine"}))
    return run


def _kill_when_at_work(process: Any, home: Path, stage: str) -> bool:
    """kill -9 as soon as the stage has a work folder; False when the run ended before it was
    seen.
    """
    while process.poll() is None:
        if any((home / "artifacts" / stage).glob("*/.work")):
            time.sleep(0.05 if stage != "train" else 3.0)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.005)
    process.communicate()
    return False
