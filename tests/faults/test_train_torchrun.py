"""The train stage in two processes that the child starts by torchrun: one error for whatever goes
wrong, nothing left behind, resumed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from gan_core.contract import ArtifactRef, StageInput, StageOutcome, StageRequest
from gan_core.errors import DataError, RequestError, TransientError
from gan_core.pipeline.child_process import run_child
from gan_core.progress import silent
from tests.stages.digits_artifacts import digits_crops

RANK_ONE_FAILS = """
import os
from gan_core.errors import DataError
from gan_core.methods import dcgan
ABOUT = "dcgan, broken in one process"
USES_LABELS = False
class Method(dcgan.Method):
    def __init__(self, options):
        super().__init__(dcgan.Options())
    def updates(self, batch):
        if batch.index == 3 and os.environ["RANK"] == "1":
            raise DataError("The second process met an image that it does not like.")
        yield from super().updates(batch)
"""


def request(folder: Path, name: str, **changed: object) -> StageRequest:
    work = folder / name
    work.mkdir(parents=True, exist_ok=True)
    train = {
        "network": {"name": "dcgan32_svhn", "width": 0.125},
        "batch": 16,
        "kimg": 0.8,
        "processes": 2,
    }
    intervals = {"log_kimg": 0.1, "state_kimg": 0.1}
    return StageRequest(
        stage="train",
        node="train",
        key="0" * 32,
        part={
            "train": {**train, **intervals, **changed},
            "seed": 0,
            "threads": 2,
            "image_size": 32,
        },
        inputs={
            "pack": [
                StageInput(
                    ref=ArtifactRef(stage="pack", key="0" * 32, digest="0" * 64),
                    path=folder / "pack",
                )
            ]
        },
        context={"device": "cpu", "state": str(folder / "state" / name)},
        work=work,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    digits_crops(tmp_path / "pack", count=80)
    return tmp_path


def trained(given: StageRequest) -> StageOutcome:
    return run_child(given, silent, time_limit=300.0, processes=2)[0]


def workers(marker: Path) -> list[int]:
    """Processes, wherever they hang in the tree, whose command names `marker`, apart from torchrun
    itself.
    """
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            result = (place / "cmdline").read_bytes()
            if str(marker).encode() in result and b"--processes" not in result:
                found.append(int(place.name))
    return sorted(found)


def nobody_left(marker: Path) -> bool:
    for _ in range(100):
        if not workers(marker):
            return True
        time.sleep(0.1)
    return False


def test_a_killed_process_ends_all_and_the_next_start_continues(folder: Path) -> None:
    given = request(folder, "killed")

    def kill_the_second(done: float, total: float, unit: str, **figures: float) -> None:
        alive = workers(folder)
        if list((folder / "state" / "killed").glob("state-*/manifest.json")) and len(alive) == 2:
            os.kill(max(alive), signal.SIGKILL)

    with pytest.raises(TransientError, match="was killed by signal 9") as caught:
        run_child(given, kill_the_second, time_limit=300.0, processes=2)
    assert caught.value.retryable and "continues" in caught.value.remedy and nobody_left(folder)
    outcome = trained(given)
    assert outcome.complete and outcome.summary["processes"] == 2
    assert outcome.summary["started_at_kimg"] > 0, "it went on from the saved state"
    assert nobody_left(folder)


@pytest.mark.slow
def test_an_error_of_any_process_is_the_one_that_is_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "modules" / "broken").mkdir(parents=True)
    (folder / "modules" / "broken" / "method.py").write_text(RANK_ONE_FAILS)
    monkeypatch.setenv("PYTHONPATH", str(folder / "modules"))
    with pytest.raises(DataError, match="The second process met an image that it does not like"):
        trained(request(folder, "broken", method="broken.method"))
    assert nobody_left(folder)


@pytest.mark.slow
def test_killed_or_not_two_processes_end_in_the_same_weights(folder: Path) -> None:
    test_a_killed_process_ends_all_and_the_next_start_continues(folder)
    trained(request(folder, "quiet"))
    (name,) = (path.name for path in (folder / "quiet").glob("snapshot-*.safetensors"))
    assert (folder / "quiet" / name).read_bytes() == (folder / "killed" / name).read_bytes()


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_evenly_is_refused(folder: Path) -> None:
    with pytest.raises(RequestError, match="cannot be shared evenly by 2 processes"):
        trained(request(folder, "uneven", batch=15))
