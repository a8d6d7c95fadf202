"""What an operator has: a server's API with its credentials, a worker, and a browser that is signed
in.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PREFECT = [sys.executable, "-m", "prefect"]
CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
# Beyond what `finished` has trained: ingest to pack are cached, training goes on from 2 kimg.
LONG = {
    "recipe": "digits",
    "scale": "debug",
    "only": "train",
    "overrides": ["train.kimg=400", "train.state_kimg=1"],
}
REST = {**LONG, "max_seconds": 3}
FIVE_MINUTES = 300.0
START = 300.0  # a process that imports Prefect and torch, on a machine that others use, too
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Api:
    """A few questions to a Prefect server with authentication, and CSRF where it is on."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.url = environment["PREFECT_API_URL"]
        self.login = base64.b64encode(environment["PREFECT_API_AUTH_STRING"].encode()).decode()

    def ask(self, path: str, body: Any = None, method: str | None = None) -> Any:
        headers = {"Authorization": f"Basic {self.login}", "Content-Type": "application/json"}
        if body is not None or method:
            with contextlib.suppress(urllib.error.HTTPError):  # 422: no protection on this server
                token = self.ask("/csrf-token?client=tests")["token"]
                headers |= {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": "tests"}
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(
            f"{self.url}{path}", data=data, headers=headers, method=method
        )
        for attempt in range(8):
            try:
                with urllib.request.urlopen(request, timeout=120) as answer:
                    return json.loads(answer.read() or "null")
            except urllib.error.HTTPError as error:
                if (
                    error.code != 503 or attempt == 7
                ):  # SQLite is busy: Prefect's own clients come again, too
                    raise
                time.sleep(1)
            except TimeoutError:
                # a question may be asked again; whether a change was made is unknown
                if (
                    attempt == 7
                    or method
                    or (body is not None and not path.endswith(("/filter", "/count")))
                ):
                    raise

    def refusal(self, path: str, body: Any) -> str:
        """What the server says to a request that it refuses."""
        try:
            self.ask(path, body)
        except urllib.error.HTTPError as error:
            return error.read().decode()
        raise AssertionError(f"{path} was not refused")

    def deployment(self, name: str) -> dict[str, Any]:
        return dict(self.ask(f"/deployments/name/{name}/{name}"))

    def no_schedules(self) -> None:
        """Turns the schedules of all deployments off: tests that run at three in the morning share
        the pool with no other run.
        """
        for one in self.ask("/deployments/filter", {}):
            for schedule in one["schedules"]:
                self.ask(
                    f"/deployments/{one['id']}/schedules/{schedule['id']}",
                    {"active": False},
                    "PATCH",
                )

    def start(self, deployment: str, **parameters: Any) -> str:
        """A run by hand, as the form's button does it; returns its id."""
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(
            self.ask(f"/deployments/{self.deployment(deployment)['id']}/create_flow_run", body)[
                "id"
            ]
        )

    def run(self, run: str) -> dict[str, Any]:
        return dict(self.ask(f"/flow_runs/{run}"))

    def wait(self, run: str, *states: str, seconds: float = 240) -> dict[str, Any]:
        """The run once its state's type or name is one of `states` (any final one without)."""
        wanted = states or FINAL
        return self.until(
            lambda: self.run(run),
            lambda found: found["state_type"] in wanted or found["state_name"] in wanted,
            seconds,
        )

    def until(
        self, ask: Callable[[], Any], good: Callable[[Any], bool], seconds: float = 600
    ) -> Any:
        deadline = time.monotonic() + seconds
        while not good(found := ask()):
            assert time.monotonic() < deadline, f"after {seconds} s still {found}"
            time.sleep(0.5)
        return found

    def tasks(self, run: str, count: int) -> dict[str, dict[str, Any]]:
        """Name to the newest task run; they arrive some seconds after the flow has ended."""
        body = {"flow_runs": {"id": {"any_": [run]}}, "sort": "EXPECTED_START_TIME_ASC"}

        def ask() -> dict[str, dict[str, Any]]:
            return {found["name"]: found for found in self.ask("/task_runs/filter", body)}

        return dict(
            self.until(
                ask,
                lambda found: sum(task["state_type"] in FINAL for task in found.values()) >= count,
            )
        )

    def artifacts(self, run: str) -> dict[str, dict[str, Any]]:
        body = {"artifacts": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        return {found["key"]: found for found in self.ask("/artifacts/filter", body)}

    def logs(self, run: str) -> list[str]:
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200}
        return [f"{line['name']} {line['message']}" for line in self.ask("/logs/filter", body)]

    def slots(self, pool: str = "discern") -> int:
        """How many runs hold a slot of the pool."""
        body = {
            "flow_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}},
            "work_pools": {"name": {"any_": [pool]}},
        }
        return int(self.ask("/flow_runs/count", body))


def environment(server: dict[str, str], home: Path) -> dict[str, str]:
    """The environment of a worker or a shell that has read worker.env."""
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PREFECT_", "DISCERN_HOME"))
    }
    return {
        **clean,
        **server,
        "DISCERN_HOME": str(home),
        "DISCERN_CHECKOUT": str(ROOT),
        "PYTHONPATH": str(ROOT),
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PREFECT_WORKER_PREFETCH_SECONDS": "1",
    }


class Worker:
    """`prefect worker start` of the pool; a mark in the environment finds its processes again,
    orphans too.
    """

    def __init__(self, variables: dict[str, str], log: Path) -> None:
        self.log = log
        self.mark = f"DISCERN_TESTS_WORKER={uuid.uuid4().hex}"
        name, _, value = self.mark.partition("=")
        with open(log, "ab") as out:
            self.process = subprocess.Popen(
                [*PREFECT, "worker", "start", "--pool", "discern", "--name", f"tests-{log.stem}"],
                env={**variables, name: value},
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                start_new_session=True,
                # a worker that inherits SIGINT ignored (tests started with `&` from a script) does
                # not hear SIGTERM
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )

    def children(self, words: str) -> list[int]:
        """Processes that this worker has started, at any remove, whose command holds `words`."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if words in command and self.mark.encode() in (place / "environ").read_bytes():
                    found.append(int(place.name))
            except (OSError, ValueError):
                continue
        return sorted(found)

    def end(self) -> None:
        """Ends the worker and all that is left of its processes."""
        for pid in {self.process.pid, *self.children("")}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(timeout=120)


class Browser:
    """Headless Chromium, signed in to a server's UI; `open` opens pages and waits until an
    expression is true.
    """

    def __init__(self, api: Api, profile: Path) -> None:
        self.origin = api.url.removesuffix("/api")
        self.login = api.login
        self.profile = profile

    def open(
        self,
        pages: dict[str, str],
        *,
        width: int = 1400,
        height: int = 1000,
        images: Path | None = None,
    ) -> dict[str, str]:
        """Opens each page (path to the JavaScript expression that must become a non-empty text) and
        returns those texts.
        """
        return asyncio.run(self._open(pages, width, height, images))

    async def _open(
        self, pages: dict[str, str], width: int, height: int, images: Path | None
    ) -> dict[str, str]:
        from websockets.asyncio.client import connect

        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--remote-debugging-port=0",
        ]
        process = await asyncio.create_subprocess_exec(
            str(CHROMIUM),
            *flags,
            f"--user-data-dir={self.profile}",
            "about:blank",
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            assert process.stderr is not None
            async with asyncio.timeout(600):
                address = ""
                while not address:
                    line = (await process.stderr.readline()).decode()
                    address = (
                        line.split("listening on ")[1].strip() if "listening on " in line else ""
                    )
                async with connect(address, max_size=None) as socket:
                    return await self._pages(_Page(socket), pages, width, height, images)
        finally:
            process.kill()
            await process.wait()

    async def _pages(
        self, page: _Page, pages: dict[str, str], width: int, height: int, images: Path | None
    ) -> dict[str, str]:
        await page.open(width, height)
        # what the UI itself keeps once the password is typed
        store = f"localStorage.setItem('prefect-password', {json.dumps(self.login)})"
        await page.call(
            "Page.addScriptToEvaluateOnNewDocument", source=f"try {{ {store} }} catch (e) {{}}"
        )
        seen = {}
        for path, expression in pages.items():
            await page.call("Page.navigate", url=f"{self.origin}{path}")
            deadline = time.monotonic() + 300
            while not (text := await page.value(f"String(({expression}) || '')")):
                if time.monotonic() > deadline:
                    shown = await page.value("document.body.innerText.slice(0, 2000)")
                    raise AssertionError(
                        f"{path}: {expression} stayed empty; the page says {shown!r}"
                    )
                await asyncio.sleep(0.3)
            seen[path] = text
            if images:
                await asyncio.sleep(1.5)
                shot = await page.call("Page.captureScreenshot", format="png")
                (images / f"{path.strip('/').replace('/', '-')[:80]}.png").write_bytes(
                    base64.b64decode(shot["data"])
                )
        return seen


class _Page:
    """One tab, over Chromium's own protocol."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.number = 0
        self.session: str | None = None

    async def open(self, width: int, height: int) -> None:
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        self.session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))[
            "sessionId"
        ]
        await self.call("Page.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    async def call(self, method: str, **parameters: Any) -> Any:
        self.number += 1
        envelope = {"id": self.number, "method": method, "params": parameters}
        await self.socket.send(
            json.dumps(envelope | ({"sessionId": self.session} if self.session else {}))
        )
        while True:
            answer = json.loads(await self.socket.recv())
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    async def value(self, expression: str) -> str:
        answer = await self.call("Runtime.evaluate", expression=expression)
        return str(answer["result"].get("value", ""))


def training(api: Api, worker: Worker, **variables: str) -> tuple[str, int, int]:
    """A run that trains: its id, and the processes of the flow and of the training. Variables go
    into its environment.
    """
    deployment = api.deployment("represent")
    job = {"env": {**deployment["job_variables"]["env"], **variables}}
    body = {"parameters": LONG, "state": {"type": "SCHEDULED"}, "job_variables": job}
    run = str(api.ask(f"/deployments/{deployment['id']}/create_flow_run", body)["id"])
    (child,) = api.until(lambda: worker.children("-m gan_core train"), bool, START)
    parent = int((Path("/proc") / str(child) / "stat").read_text().rsplit(")", 1)[1].split()[1])
    time.sleep(5)  # some training, and a heartbeat
    return run, parent, child


def marked(api: Api, run: str, since: float) -> float:
    """Waits until the run is Crashed and its slot free; returns after how many seconds that was."""
    ended = api.wait(run, "CRASHED", seconds=FIVE_MINUTES - (time.monotonic() - since))
    assert ended["state_type"] == "CRASHED"
    api.until(api.slots, lambda held: held == 0, 5)
    return time.monotonic() - since


def goes_on(api: Api, server: dict[str, str], home: Path, tmp_path: Path, dead: str) -> None:
    """Another run, with a worker that lives, gets the slot and continues the training; it closes
    what the dead run has left.
    """
    worker = Worker(environment(server, home), tmp_path / f"{tmp_path.name}-next.log")
    try:
        run = api.start("represent", **REST)
        assert api.wait(run, seconds=START)["state_type"] == "COMPLETED"
        assert api.tasks(run, 1)["train"]["state_name"] == "Paused"
        assert any("Training continues from" in line for line in api.logs(run)), api.logs(run)
        unfinished = {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}}
        body = {
            "task_runs": unfinished,
            "flow_runs": {"id": {"any_": [dead, run]}},
        }  # other tests use this server, too
        assert api.ask("/task_runs/filter", body) == [], "what the dead run left Running is closed"
    finally:
        worker.end()


def gone(process: int) -> bool:
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rsplit(")", 1)[1].split()[
            0
        ] == "Z"
    except FileNotFoundError:
        return True
