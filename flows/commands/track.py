"""`discern track RUN --to mlflow|wandb`: a finished run in an experiment tracker."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from flows.commands import console
from flows.commands.options import HomeOption, JsonOption
from flows.commands.outcome import folder_of, run_folder, scores
from flows.home import open_store, resolve_home
from gan_core.errors import RequestError, UnknownName
from gan_core.files import read_json

FIGURES = (".png", ".svg", ".webp")


@dataclass(frozen=True)
class Logged:
    """What a tracker gets of a run.

    Attributes:
        name: the run's name.
        parameters: settings of the resolved recipe: `train.kimg` to its value.
        metrics: mean accuracy, and the ends of its 95 % interval, of each cell.
        digests: SHA-256 of each snapshot file, and the digest of each node's artifact.
        files: place in the tracker to file: recipe, report and figures.
    """

    name: str
    parameters: dict[str, Any]
    metrics: dict[str, float]
    digests: dict[str, str]
    files: dict[str, Path]


def track(
    run: Annotated[str, typer.Argument(help="a finished run: its name or folder")],
    to: Annotated[str, typer.Option("--to", help="mlflow or wandb")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> int:
    """Logs a finished run; returns the exit code.

    Raises:
        RequestError: no such run or tracker, a tracker that is not installed, or a run that has
            not ended.
    """
    if to not in TRACKERS:
        raise UnknownName(
            "tracker",
            to,
            TRACKERS,
            remedy="for TensorBoard: tensorboard --logdir <home>/state/train",
        )
    place = resolve_home(home)
    logged = read_run(place, run)
    try:
        where = TRACKERS[to](logged, Path(place))
    except ImportError as error:
        raise RequestError(
            f"--to {to} needs a package that is not installed ({error}).",
            expected=f"the extra {to!r}",
            remedy=f"pip install 'discern-gan[{to}]'",
        ) from error
    counts = {"metrics": len(logged.metrics), "files": len(logged.files)}
    if as_json:
        console.print_json({"run": logged.name, "to": to, "where": where, **counts})
    else:
        print(f"{logged.name}: {counts['metrics']} metrics, {counts['files']} files at {where}")
    return 0


def read_run(home: str, name: str) -> Logged:
    """What a tracker gets of the run.

    Raises:
        RequestError: no such run, or one that has not ended.
    """
    store = open_store(home, writing=False)
    folder = run_folder(store, name)
    record = read_json(folder / "run.json")
    if record["state"] != "completed":
        raise RequestError(
            f"The run {folder.name} is {record['state']}.",
            expected="a run that has completed",
            remedy="wait for it, or, where it has ended early, run it again: " + record["command"],
        )
    nodes = [node for node in record["nodes"] if node["ref"]]
    metrics: dict[str, float] = {}
    for row in scores(store, nodes):
        cell = "/".join(str(row[key]) for key in ("source", "features", "probe", "labels"))
        metrics |= {f"{cell}/{end}": float(row[end]) for end in ("mean", "low", "high")}
    digests, files = {}, {"recipe.yaml": folder / "recipe.yaml"}
    for node in nodes:
        digests[node["node"]] = node["ref"]["digest"]
        artifact = folder_of(store, node)
        for path in sorted(artifact.iterdir()):
            if path.suffix == ".safetensors" and node["node"] == "train":
                content = read_json(artifact / "manifest.json")["content"]
                digests[path.name] = content[path.name]["sha256"]
            if path.suffix in FIGURES or path.name in ("report.html", "summary.json"):
                files[f"{node['node'].replace(':', '/')}/{path.name}"] = path
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    return Logged(folder.name, dict(_flat(recipe)), metrics, digests, files)


def _flat(settings: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _mlflow(run: Logged, home: Path) -> str:
    """The tracking server of MLFLOW_TRACKING_URI, or a database and files in the home."""
    import mlflow

    files = None  # the server's own place
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        mlflow.set_tracking_uri(f"sqlite:///{home / 'mlflow.db'}")
        files = (home / "mlflow").as_uri()
    if mlflow.get_experiment_by_name("discern") is None:
        mlflow.create_experiment("discern", artifact_location=files)
    mlflow.set_experiment("discern")
    with mlflow.start_run(run_name=run.name) as active:
        mlflow.log_params(run.parameters)
        mlflow.log_metrics(run.metrics)
        mlflow.set_tags({f"digest.{name}": digest for name, digest in run.digests.items()})
        for place, path in run.files.items():
            mlflow.log_artifact(str(path), os.path.dirname(place))
        return f"{mlflow.get_tracking_uri()}, run {active.info.run_id}"


def _wandb(run: Logged, home: Path) -> str:
    """A folder in the home that `wandb sync` uploads; with WANDB_MODE=online the server."""
    import wandb

    mode: Any = os.environ.get("WANDB_MODE", "offline")
    with wandb.init(
        project="discern",
        name=run.name,
        id=run.name,
        mode=mode,
        dir=home,
        config=run.parameters | {"digests": run.digests},
        settings=wandb.Settings(console="off", silent=True),
    ) as active:
        active.summary.update(run.metrics)
        for place, path in run.files.items():
            target = Path(active.dir) / place
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                target.symlink_to(path)
            active.save(str(target), base_path=active.dir, policy="end")
        return str(Path(active.dir).parent)


TRACKERS = {"mlflow": _mlflow, "wandb": _wandb}
