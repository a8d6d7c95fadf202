"""The command `discern`: its commands' names and help. A command's module is imported when the
command runs or shows its own help, so that `discern --help` answers at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from inspect import Parameter, Signature, signature
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

# Command to its function, as MODULE:NAME below flows/commands, and its help. The function's
# parameters are the options, dataclasses of several included; it returns the exit code.
COMMANDS = {
    "run": ("chain:run", "Run a recipe to its report; cached stages are not computed again."),
    "prepare": ("chain:prepare", "Run the chain up to the packed training set."),
    "train": ("chain:train", "Run the chain up to the trained GAN."),
    "extract": ("chain:extract", "Run the chain up to the features."),
    "evaluate": ("chain:evaluate", "Run the chain up to the scores."),
    "inspect": (
        "inspect:inspect",
        "Inspect a snapshot, or run a recipe's chain up to its inspections.",
    ),
    "status": ("status:status", "Show for each stage whether it is cached or has to run, and why."),
    "list": ("list:list_", "List what a recipe can name, each with a sentence."),
    "compare": (
        "compare:compare",
        "Compare the scores of runs, with paired differences and their intervals.",
    ),
    "similar": (
        "similar:similar",
        "Find the images whose features are most similar, and write them as a sheet.",
    ),
    "verify": ("verify:verify", "Compare artifacts' files with the hashes in their manifests."),
    "gc": (
        "gc:gc",
        "Remove what the last runs of each kind do not use, and Prefect's records of older "
        "runs; safe while runs are going on.",
    ),
    "dedup": (
        "dedup:dedup",
        "Find near-duplicates in a folder: a row for each image, a representative for each "
        "group, and a page of the groups.",
    ),
    "validate": (
        "validate:validate",
        "Count classes and splits, and find unreadable, dark, bright, blurry, empty, odd and "
        "equal images.",
    ),
    "import": (
        "import_weights:import_weights",
        "Turn released weights into a snapshot that sampling, extraction and evaluation use "
        "like any other.",
    ),
    "sample": ("sample:sample", "Draw a grid of samples from a trained generator."),
    "export": (
        "export:export",
        "Write an artifact's images for torchvision, WebDataset or Hugging Face's datasets.",
    ),
    "track": (
        "track:track",
        "Log a run's recipe, scores, figures and digests in an experiment tracker.",
    ),
    "doctor": (
        "doctor:doctor",
        "Check this installation: versions and their known traps, GPU, home, Prefect server.",
    ),
    "setup": (
        "setup:setup",
        "Prepare scheduled running: the server's settings, a work pool with its limit, "
        "automations. May be repeated.",
    ),
    "server": ("server:app", "The home's own Prefect server, with every past run in its UI."),
}
_STOPPED = "\nStopped. What is finished is kept; the same command continues.\n"


class LazyGroup(TyperGroup):
    """A group whose commands are imported when one of them is chosen."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, load_command(name) if command and name else command, rest

    def invoke(self, ctx: Any) -> Any:
        code = super().invoke(ctx)
        if isinstance(code, int):
            raise typer.Exit(code)
        return code


def load_command(name: str) -> Any:
    """The command, or group of commands, of a name in `COMMANDS`."""
    place, text = COMMANDS[name]
    module, _, attribute = place.partition(":")
    found = getattr(import_module(f"flows.commands.{module}"), attribute)
    if isinstance(found, typer.Typer):
        one = found
        one.info.help = text
    else:
        one = typer.Typer(add_completion=False, rich_markup_mode=None)
        one.command(name, help=text)(with_groups(found))
    return get_command(one)


def with_groups(command: Callable[..., int]) -> Callable[..., int]:
    """The command as typer reads it: a parameter that is a dataclass of options stands for its
    fields, which come as options of the command.
    """
    groups: dict[str, Any] = {}
    flat: list[Parameter] = []
    for name, parameter in signature(command, eval_str=True).parameters.items():
        if is_dataclass(parameter.annotation):
            groups[name] = parameter.annotation
            flat += signature(groups[name], eval_str=True).parameters.values()
        else:
            flat.append(parameter.replace(kind=Parameter.KEYWORD_ONLY))

    def run(**given: Any) -> int:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        return command(**given, **made)

    run.__signature__ = Signature(flat)  # type: ignore[attr-defined]
    return run


app = typer.Typer(
    name="discern",
    cls=LazyGroup,
    help=(
        "Learn image features without labels from GANs: prepare, train, extract, evaluate, "
        "report; each stage cached and re-runnable."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _not_loaded() -> None:
    """In place of a command that `LazyGroup` has not loaded."""


for _name, (_, _help) in COMMANDS.items():
    app.command(_name, help=_help)(_not_loaded)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib import metadata

        typer.echo(f"discern {metadata.version('discern-gan')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="print the version"),
    ] = False,
) -> None:
    """Options of `discern` itself."""


def _refuse_empty_words(words: Sequence[str]) -> None:
    """Refuses an empty word, mostly a shell variable that is not set: as a path it would mean the
    current folder.
    """
    from gan_core.errors import RequestError

    for before, word in zip(("", *words), words, strict=False):
        option = word.removesuffix("=")
        if not word or (word.startswith("--") and word.endswith("=") and "=" not in option):
            option = option or (before if before.startswith("-") else "")
            raise RequestError(
                f"{option} is empty." if option else "An argument is empty.",
                expected="a value; a shell variable in its place may not be set",
                remedy=f"give {option} a value, or leave it out"
                if option
                else "give the argument a value, or leave it out",
            )


def main() -> None:
    """Entry point: errors for people end in their exit code, without a traceback."""
    try:
        _refuse_empty_words(sys.argv[1:])
        code = app(standalone_mode=False)  # returns the code of a typer.Exit
        if code == 130:  # typer's code for Ctrl-C
            sys.stderr.write(_STOPPED)
        sys.exit(code if isinstance(code, int) else 0)
    except typer.Exit as leave:
        sys.exit(leave.exit_code)
    except (KeyboardInterrupt, typer.Abort):  # typer.Abort: Ctrl-C in some versions of typer
        sys.stderr.write(_STOPPED)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        from flows.commands.errors import report

        sys.exit(report(error))


if __name__ == "__main__":
    main()
