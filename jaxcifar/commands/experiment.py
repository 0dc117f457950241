"""The parser of a command that trains an EXPERIMENT, with every setting of its recipe an option."""

import argparse
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jaxcifar.commands.options import add_options
from jaxcifar.commands.parser import Parser, add_data_dir_option
from jaxcifar.recipes.presets import EXPERIMENTS, get_experiment
from jaxcifar.recipes.recipe import Recipe

ALIASES = {"batch_size": "--bs", "learning_rate": "--lr"}


AUTO = "--resume=auto"


class ExperimentParser(Parser):
    """Lists the experiments where EXPERIMENT is missing."""

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse's; "auto" after --resume belongs to it, and an EXPERIMENT does not."""
        takes_auto = AUTO in self._option_string_actions
        words: list[str] = []
        for word in sys.argv[1:] if args is None else args:
            if takes_auto and [*words[-1:], word] == ["--resume", "auto"]:
                words[-1] = AUTO
            else:
                words.append(word)
        return super().parse_known_args(words, namespace)

    def error(self, message: str) -> NoReturn:
        """As `Parser.error`."""
        if "EXPERIMENT" in message:
            message += f"; EXPERIMENT is one of {', '.join(EXPERIMENTS)}"
        super().error(message)


def experiment_parser(
    prog: str,
    arguments: Sequence[str],
    *,
    usage: str,
    text: str,
    workdir: str,
    resume_auto: bool = False,
) -> ExperimentParser:
    """The parser of a command that trains an EXPERIMENT.

    Args:
        prog: how the command was called.
        arguments: if the first one names an experiment, its settings are the defaults shown.
        usage: the command's own options in the usage line.
        text: what the command does.
        workdir: the default directory, in words.
        resume_auto: whether --resume may be followed by "auto".
    """
    named = arguments and arguments[0].replace("-", "_") in EXPERIMENTS
    defaults = get_experiment(arguments[0]).recipe if named else Recipe()
    parser = ExperimentParser(
        prog=prog,
        description=text,
        epilog=f"experiments:\n{_listing()}\n\nEach experiment has its own defaults: "
        "see %(prog)s EXPERIMENT --help.",
        usage=f"%(prog)s EXPERIMENT {usage}[options]",
    )
    parser.add_argument(
        "experiment", metavar="EXPERIMENT", help="a named recipe; they are listed at the end"
    )
    run = parser.add_argument_group("run")
    run.add_argument(
        "--workdir", type=Path, metavar="DIR", help=f"directory for all files (default: {workdir})"
    )
    add_data_dir_option(run)
    run.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    if resume_auto:
        # An option by itself: --resume with an optional value would take an EXPERIMENT for it.
        run.add_argument(
            AUTO,
            dest="resume",
            action="store_const",
            const="auto",
            help="begin, or continue from the last checkpoint if there is one",
        )
    run.add_argument("--overwrite", action="store_true", help="replace what is in the workdir")
    add_options(parser, defaults, ALIASES)
    return parser


def _listing() -> str:
    width = max(40, shutil.get_terminal_size().columns - 2)
    indent = " " * 22
    return "\n".join(
        textwrap.fill(f"  {name:<18}  {e.text}", width, subsequent_indent=indent)
        for name, e in EXPERIMENTS.items()
    )
