"""The `jaxcifar` command: finds the subcommand and leaves the rest to it.

JAX takes seconds to import, so --help, --version and a misspelt command do not import it. Little is
imported here, so that `leave_at_once` is called in the first milliseconds; the functions import the
rest.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from jaxcifar.commands.first_seconds import leave_at_once

if TYPE_CHECKING:
    from jaxcifar.commands.parser import Parser

SHELLS = ("bash", "zsh", "tcsh")


class Command(NamedTuple):
    """A subcommand; the module of its name has `make_parser` and `run`."""

    summary: str  # its line in `jaxcifar --help`
    interrupted: str = "nothing was written"  # what Ctrl-C leaves
    smaller: str = "close other programs"  # how to need less memory


_RESUME = "what was saved is intact; --resume continues from it"
_SMALLER = "lower --batch-size, --eval-batch-size, --resize or --width"
_OF_RUN = "lower the run's --eval-batch-size by train --resume"
_OF_MODEL = "lower the input size of a weights file, or a run's --eval-batch-size by train --resume"
_REPEAT = "what was saved is intact; the same command continues from it"
COMMANDS = {
    "prepare-data": Command(
        "download CIFAR-10 or CIFAR-100 and prepare it for training",
        "run the same command again to continue",
    ),
    "train": Command("train a network by a named experiment", _RESUME, _SMALLER),
    "evaluate": Command("score a run's checkpoint", smaller=_OF_RUN),
    "predict": Command("say what is in photos, by a run or a file of weights", smaller=_OF_MODEL),
    "features": Command("write the output of a layer for many images", smaller=_OF_MODEL),
    "visualize": Command(
        "draw activations, Grad-CAM, mistakes or a confusion matrix", smaller=_OF_MODEL
    ),
    "sweep": Command("train once for each value of a setting, and compare", _RESUME, _SMALLER),
    "reproduce": Command(
        "run the course report's experiments; one page of results", _REPEAT, "lower --resize"
    ),
    "export": Command("write a run's weights for PyTorch, as safetensors"),
}


def main(prog: str = "jaxcifar", arguments: Sequence[str] | None = None) -> NoReturn:
    """Run `jaxcifar ARGUMENTS` and exit.

    Args:
        prog: how it was called, for messages.
        arguments: of the command line, by default this process's.
    """
    leave_at_once()
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in COMMANDS:
        run_command(words[0], f"{prog} {words[0]}", words[1:])
    from jaxcifar.commands.exit_status import exit_with_status
    from jaxcifar.common.messages import did_you_mean

    parser = make_parser(prog)
    if words and not words[0].startswith("-"):
        parser.error(f"unknown command {words[0]!r}{did_you_mean(words[0], COMMANDS)}")
    shell = parser.parse(words).print_completion
    if shell is None:
        parser.print_help(sys.stderr)
        sys.exit(2)
    exit_with_status(lambda: print(completion(shell)))


def run_command(name: str, prog: str, arguments: Sequence[str]) -> NoReturn:
    """Run a subcommand and exit."""
    leave_at_once()
    from jaxcifar.commands.exit_status import exit_with_status, heed_signals

    def run() -> None:
        leave_at_once()
        command = load_command(name)
        heed_signals()
        command.run(prog, arguments)

    about = COMMANDS[name]
    exit_with_status(run, interrupted=about.interrupted, smaller=about.smaller)


def run_script(name: str) -> NoReturn:
    """Run a subcommand as scripts/NAME.py, with this process's arguments."""
    leave_at_once()
    import os

    run_command(name, os.path.basename(sys.argv[0]), sys.argv[1:])


def load_command(name: str) -> Any:
    """The module of a subcommand."""
    return import_module(f"{__package__}.{name.replace('-', '_')}")


def make_parser(prog: str) -> "Parser":
    """The parser of the options in front of a subcommand, for --help and --version."""
    from jaxcifar.commands.parser import Parser

    listing = "\n".join(f"  {name:<14}{command.summary}" for name, command in COMMANDS.items())
    parser = Parser(
        prog=prog,
        usage="%(prog)s COMMAND ...",
        description="Train small-image classifiers in JAX and Flax, and look inside them.\n\n"
        f"commands:\n{listing}",
        epilog=f"""\
example:
  {prog} train demo                   digits: no download, minutes on 2 cores
  {prog} evaluate runs/demo
  {prog} visualize runs/demo --image 8

{prog} COMMAND --help shows the options of a command.""",
    )
    parser.add_argument("--version", action="version", version=versions())
    parser.add_argument(
        "--print-completion",
        choices=SHELLS,
        metavar="SHELL",
        help=f"print a completion script: {', '.join(SHELLS)}",
    )
    return parser


def versions() -> str:
    """The version of this package and of what it computes with, without importing them."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        own = version("jaxcifar")
    except PackageNotFoundError:  # run from a checkout
        own = "(not installed)"
    others = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax"))
    return f"jaxcifar {own} (Python {sys.version.split()[0]}, {others})"


def completion(shell: str) -> str:
    """A shell's completion script for all subcommands and their options. Imports JAX."""
    from jaxcifar.commands.completion import completion_script

    commands = {
        name: (load_command(name).make_parser(f"jaxcifar {name}"), command.summary)
        for name, command in COMMANDS.items()
    }
    return completion_script(make_parser("jaxcifar"), commands, shell)
