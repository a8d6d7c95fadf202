"""A check of an external network before anything else is done: it is made, given its weights and
run on one empty image.

In a process of its own (`python -m gan_core.features.external.preflight`, a question as JSON on
standard input, the answer as the last line of standard output): code that a user edits between
two runs must never be found half old in a process that lasts.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gan_core.config import ExtractConfig
from gan_core.contract import ExtractRequest
from gan_core.errors import DiscernError, RequestError
from gan_core.features.external.fingerprint import Stamp

if TYPE_CHECKING:
    from gan_core.features.external.network import ExternalNetwork

UNTRAINED = (
    "No weights were given (--weights): these are features of the network as its code makes it, "
    "untrained like the baseline with random "
    "weights unless that code loads weights by itself."
)


@dataclass(frozen=True)
class Checked:
    """What a network gives: `length` as '2,048 (main_0) + ... = 15,360', `dims` in all, `assumed`
    in sentences.
    """

    length: str
    dims: int
    assumed: tuple[str, ...]


def inspect_network(config: ExtractConfig, stamp: Stamp, side: int) -> Checked:
    """What the network of `config` gives for images of `side` x `side`.

    Raises: RequestError or DataError: it cannot be made, its weights do not fit, it does not run on
        images, it has no such layer.
    """
    question = {
        "extract": config.model_dump(mode="json"),
        "context": stamp.context(),
        "part": stamp.part(),
        "side": side,
    }
    return _asked(json.dumps(question, sort_keys=True), os.environ.get("PYTHONPATH", ""))


# The command asks, and so does its flow; a changed file is another question.
@functools.lru_cache(maxsize=8)
def _asked(question: str, path: str) -> Checked:
    from gan_core.errors import error_from_json
    from gan_core.files import source_root

    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([source_root(), path]).rstrip(os.pathsep),
    }
    command = [sys.executable, "-m", "gan_core.features.external.preflight"]
    done = subprocess.run(command, input=question, capture_output=True, text=True, env=environment)
    try:
        answer = json.loads(done.stdout.strip().split("\n")[-1])
    except ValueError:
        last = (done.stderr.strip() or done.stdout.strip() or "it printed nothing").split("\n")[-1]
        raise RequestError(
            "The network could not be checked: its process ended with exit code "
            f"{done.returncode}: {last}",
            remedy="see that the module can be imported and makes its network in plain Python",
        ) from None
    if "error" in answer:
        raise error_from_json(answer["error"])
    return Checked(answer["length"], answer["dims"], tuple(answer["assumed"]))


def load_external(
    job: ExtractRequest, side: int, *, untrained: bool = False
) -> tuple[ExternalNetwork, dict[str, Any]]:
    """The external network on its device, with its weights or untrained ones, and its entry in the
    lineage.

    Args:
        side: of the images as they come.
    """
    config, part = job.settings, dict(job.external or {})
    network = _build(config, job.search, part, side, seed=job.seed, untrained=untrained)
    network.module.to(job.execution.device)
    about = {
        "name": config.network,
        "arguments": config.network_args,
        "values": config.values,
        "side": network.input_shape[1],
        **part,
    }
    if untrained or part["weights"] is None:
        about["weights"] = f"random, seed {job.seed}"
    return network, about


def _build(
    config: ExtractConfig,
    context: dict[str, Any],
    part: dict[str, Any],
    side: int,
    *,
    seed: int,
    untrained: bool,
) -> ExternalNetwork:
    """On the CPU. Args: context: `Stamp.context`; part: `Stamp.part`: changed files are refused."""
    from gan_core.features.external.network import ExternalNetwork
    from gan_core.features.external.weights import build_module, load_weights
    from gan_core.files import sha256_file
    from gan_core.randomness import derive_seed

    root = Path(context["root"])
    weights = Path(context["weights"]) if context.get("weights") and not untrained else None
    expected = {root / name: digest for name, digest in part["sources"].items()}
    if weights is not None:
        expected[weights] = part["weights"]
    for path, digest in expected.items():
        if not path.is_file() or sha256_file(path) != digest:
            raise RequestError(
                f"{path.name} has changed since this run was planned.",
                remedy="run the same command again",
            )
    stream = derive_seed(seed, "random-network")
    module = build_module(
        config.network, config.network_args, root=root, seed=stream, fresh=untrained
    )
    if weights is not None:
        load_weights(module, weights)
    network = ExternalNetwork(module, config.side, config.values, given=side)
    if weights is None and not untrained and not _asks_for_weights(config):
        network.assumed.append(UNTRAINED)
    return network


def _asks_for_weights(config: ExtractConfig) -> bool:
    """Whether the network's arguments make it load weights of its own, by the names that
    constructors use for that.
    """
    from gan_core.features.external.weights import arguments_of

    arguments = arguments_of(config.network, config.network_args)
    return any(arguments.get(name) for name in ("weights", "pretrained", "checkpoint"))


def _answer(question: dict[str, Any]) -> dict[str, Any]:
    from gan_core.features.modes import length_of, select_configured

    config = ExtractConfig.model_validate(question["extract"])
    network = _build(
        config,
        question["context"],
        question["part"],
        int(question["side"]),
        seed=0,
        untrained=False,
    )
    sizes = select_configured(network, config).sizes
    return {
        "length": length_of(sizes),
        "dims": sum(size.dims for size in sizes),
        "assumed": network.assumed,
    }


def main() -> None:
    """Answers the question on standard input."""
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # an external module may print
    try:
        answer = _answer(json.loads(sys.stdin.read()))
    except DiscernError as error:
        fields = {"message": error.message, "expected": error.expected, "remedy": error.remedy}
        answer = {"error": {"kind": type(error).__name__, **fields}}
    print(json.dumps(answer), file=channel, flush=True)


if __name__ == "__main__":
    main()
