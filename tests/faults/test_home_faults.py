"""A full disk, a closed home, wrong requests: an error for people and an exit code, never a
traceback.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gan_core.artifacts.store import Store
from gan_core.errors import DiscernError, RequestError, StoreError
from gan_core.pipeline.runner import execute, explain_os_error
from tests.faults.hostile import hostile_folder
from tests.faults.test_hostile_images import prepare_folder

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "digit"), "did you mean 'digits'"),
        (("run", "digits", "--set", "train.kimgs=3"), "did you mean 'kimg'"),
        (("run", "digits", "--scale", "big"), "expected: one of"),
        (("run", "digits", "--only", "trian"), "did you mean 'train'"),
        (("run", "digits", "--device", "cuda:7"), "no GPU"),
        (("run", "folder"), "--data"),
        (("run", "folder", "--data", "/no/such/place"), "/no/such/place"),
        (("list", "networkz"), "did you mean 'networks'"),
        (("verify",), "--all"),
        (("verify", "crop/000"), "No artifact begins with"),
        (("run", "digits", "--unknown"), "No such option"),
    ],
)
def test_wrong_requests_end_in_2_with_a_remedy(
    discern: Callable[..., object], arguments: tuple[str, ...], message: str
) -> None:
    if arguments[:2] == ("run", "digits") and "cuda:7" in arguments:
        from gan_core.devices import cuda_count

        if cuda_count():
            pytest.skip("a GPU is here")
    done = discern(*arguments)
    assert done.code == 2, done.err  # type: ignore[attr-defined]
    assert message in done.err and "Traceback" not in done.err  # type: ignore[attr-defined]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(DiscernError, match="images"):
        prepare_folder(tmp_path / "images", tmp_path / "home")


def test_a_read_only_home(tmp_path: Path) -> None:
    setpriv = shutil.which("setpriv")
    if os.getuid() == 0 and not setpriv:
        pytest.skip("root writes everywhere, and setpriv is not here to become another user")
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    command = [sys.executable, "-m", "flows.cli", "run", "digits"]
    if os.getuid() == 0:
        command = [str(setpriv), "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "DISCERN_HOME": str(home), "PYTHONPATH": str(ROOT)},
    )
    if "No module named" in done.stderr or "can't open file" in done.stderr:
        pytest.skip("this installation cannot be read by another user")
    assert done.returncode == 1, done.stderr
    assert (
        "cannot be written" in done.stderr
        and "--home" in done.stderr
        and "Traceback" not in done.stderr
    )


def by_modes(home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs Python as a user to whom the modes of files apply, as they do not to root."""
    setpriv = shutil.which("setpriv")
    if os.getuid() == 0 and not setpriv:
        pytest.skip("root writes everywhere, and setpriv is not here to hold it back")
    held_back = (
        [str(setpriv), "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")
    }
    return subprocess.run(
        [*held_back, sys.executable, *command],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**environment, "DISCERN_HOME": str(home), "PYTHONPATH": str(ROOT)},
    )


def test_commands_that_only_read_need_no_home_of_their_own(tmp_path: Path) -> None:
    home, data = tmp_path / "home", tmp_path / "images"
    hostile_folder(data)
    prepare_folder(data, home)
    work = Store(home).work("crop", "abandoned")
    (work / "piece").write_bytes(b"x")
    (home / "prefect").mkdir()
    places = [home, *home.rglob("*")]
    modes = {place: place.stat().st_mode for place in places}
    try:
        for place in places:
            place.chmod(modes[place] & 0o555)
        if (
            by_modes(home, "-c", "import sys; open(sys.argv[1], 'w')", str(home / "x")).returncode
            == 0
        ):
            pytest.skip("this user writes everywhere")
        checked = by_modes(home, "-m", "flows.cli", "verify", "--all")
        assert checked.returncode == 0 and " 0 damaged" in checked.stdout, checked.stderr
        cleaned = by_modes(home, "-m", "flows.cli", "gc", "--keep", "1", "--dry-run", "--json")
        message = json.loads(cleaned.stdout)
        assert (
            cleaned.returncode == 0
            and message["prefect"] == {"flow_runs": None}
            and message["dry_run"]
        ), cleaned.stderr
        for words in (("status", "digits"), ("run", "digits", "--dry-run", "--scale", "debug")):
            plan = by_modes(home, "-m", "flows.cli", *words, "--json")
            assert plan.returncode == 0 and len(json.loads(plan.stdout)["plan"]) > 5, plan.stderr
        for words in (("verify", "--all", "--remove"), ("gc", "--keep", "1")):
            refused = by_modes(home, "-m", "flows.cli", *words)
            assert refused.returncode == 1 and "cannot be written" in refused.stderr
        home.chmod(0)
        closed = by_modes(home, "-m", "flows.cli", "verify", "--all")
        assert closed.returncode == 1 and "cannot be read" in closed.stderr
    finally:
        for place in places:
            place.chmod(modes[place])


def test_reading_makes_no_home(tmp_path: Path, discern: Callable[..., object]) -> None:
    from flows.home import open_store

    place = tmp_path / "new" / "home"
    assert open_store(str(place), writing=False).home == place and not place.parent.exists()
    done = discern("verify", "--all", home=place)
    assert done.code == 0 and not place.parent.exists(), done.err  # type: ignore[attr-defined]
    assert discern("server", "stop", home=place).code == 0 and not place.parent.exists()
    assert open_store(str(place)).home.is_dir()


@pytest.mark.parametrize("writing", [True, False])
def test_a_home_that_is_no_folder(tmp_path: Path, writing: bool) -> None:
    from flows.home import open_store

    with pytest.raises(RequestError, match="The home /dev/null is no folder"):
        open_store("/dev/null", writing=writing)
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=r"cannot be a folder: .*/file is none"):
        open_store(str(tmp_path / "file" / "below"), writing=writing)


def test_a_disk_that_fills_up_loses_nothing_and_continues(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: writing fails in the middle of a
    stage, in a child process.
    """
    data = tmp_path / "images"
    hostile_folder(data)
    script = (
        "import sys, resource; from pathlib import Path\n"
        "from tests.faults.test_hostile_images import prepare_folder\n"
        "from gan_core.errors import StoreError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "try: prepare_folder(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except StoreError as error: print('TOLD', error.explain()); sys.exit(error.exit_code)"
    )
    command = [sys.executable, "-c", script, str(data), str(tmp_path / "home")]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "No room is left" in done.stdout and "--home" in done.stdout
    whole = [ref for ref in Store(tmp_path / "home").artifacts.refs()]
    assert all(Store(tmp_path / "home").verify(ref) == [] for ref in whole)
    again = prepare_folder(data, tmp_path / "home")
    assert again["crop:folder"].ref is not None
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] in (
        resource.RLIM_INFINITY,
        resource.getrlimit(resource.RLIMIT_FSIZE)[0],
    )


def test_a_full_tmpfs(tmp_path: Path) -> None:
    """The same on a disk of 200 kB, where mounting one is allowed."""
    home = tmp_path / "small"
    home.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(home)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no tmpfs may be mounted here")
    try:
        data = tmp_path / "images"
        hostile_folder(data)
        (home / "filler").write_bytes(bytes(150_000))
        with pytest.raises(StoreError, match="No room is left"):
            prepare_folder(data, home)
    finally:
        subprocess.run(["umount", str(home)], check=True)


def test_an_unknown_failure_of_the_system_names_the_file(tmp_path: Path) -> None:
    from gan_core.pipeline.nodes import Node

    blocked = tmp_path / "home"
    blocked.write_text("a file where the home should be")
    with pytest.raises(StoreError, match="home"):
        execute(Store(blocked), Node("crop:x", "crop", {}, {}), {})


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(104, "Connection reset by peer"),
        TimeoutError(110, "timed out"),
        OSError(5, "Input/output error"),
    ],
)
def test_a_connection_or_disk_that_failed_once_is_tried_again(
    error: OSError, tmp_path: Path
) -> None:
    message = explain_os_error(error, tmp_path)
    assert message.retryable and "tried again" in message.remedy
