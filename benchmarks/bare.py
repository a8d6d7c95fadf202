"""A whole recipe where neither Prefect nor FAISS is installed: the plan's stages one after another,
in the flow's order.

    python benchmarks/bare.py RECIPE --home FOLDER [--data PLACE ...] [--scale full] \\
        [--set train.kimg=50 ...] [--until train] [--device cuda] [--max-seconds 420]

Deduplication searches with FAISS: leave it out with `--set dedup.mode=off` where FAISS is not
installed. Needed in addition to torch: numpy, OpenCV, pyarrow, scikit-learn, safetensors, pydantic,
PyYAML, fsspec and, for the report, jinja2 and matplotlib. Run again, it continues, also a training
that was killed or that `--max-seconds` has ended. Each stage prints a line of JSON: its seconds,
its summary, its warnings.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gan_core.artifacts.store import Store
from gan_core.errors import DiscernError
from gan_core.pipeline.request import RunRequest, prepare
from gan_core.pipeline.run_record import Run, versions
from gan_core.pipeline.runner import execute


def main() -> int:
    """Runs the stages; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--data", nargs="+", default=[], metavar="PLACE")
    parser.add_argument("--scale")
    parser.add_argument(
        "--set", nargs="+", default=[], dest="overrides", metavar="SECTION.KEY=VALUE"
    )
    parser.add_argument("--until", default="report")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--max-seconds", type=float)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    request = RunRequest(
        recipe=options.recipe,
        home=str(options.home.resolve()),
        data=options.data,
        scale=options.scale,
        overrides=options.overrides,
        until=options.until,
        device=options.device,
        max_seconds=options.max_seconds,
    )
    store = Store(options.home.resolve())
    try:
        prepared = prepare(request, store)
        run = Run(store, prepared)
        for node in prepared.nodes:
            if node.stage == "report":
                node.context.update(
                    artifacts=run.artifacts(),
                    versions=versions(),
                    run=run.name,
                    command=" ".join(sys.argv),
                )
            inputs = {name: run.results[name].ref for ids in node.inputs.values() for name in ids}
            began = time.perf_counter()
            result = execute(store, node, inputs)  # type: ignore[arg-type]
            run.add(result)
            summary = {
                name: value
                for name, value in result.outcome.summary.items()
                if len(json.dumps(value)) < 400
            }
            output = {
                "node": node.id,
                "seconds": round(time.perf_counter() - began, 2),
                "cached": result.cached,
                "paused": result.paused,
            }
            print(
                json.dumps({**output, "summary": summary, "warnings": result.outcome.warnings}),
                flush=True,
            )
            if result.paused:
                run.finish("paused")
                return 0
        run.finish("completed")
    except DiscernError as error:
        print(error.explain(), file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
