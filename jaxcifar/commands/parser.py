"""The argument parser of every command, and the options that several commands share.

Importing this module does not import JAX.
"""

import argparse
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxcifar.common.messages import printable, shown


class Parser(argparse.ArgumentParser):
    """argparse with whole option names, one-line errors, and the nearest option for a typo."""

    def __init__(self, **settings: Any) -> None:
        """As `argparse.ArgumentParser`, with the description and epilog kept line by line."""
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse all arguments or exit.

        --data-dir replaces $TFDS_DATA_DIR from here on, so that recipes, which know no folder, find
        "tfds:" datasets there.
        """
        parsed, rest = self.parse_known_args(arguments)
        if rest:
            name = rest[0].split("=", 1)[0]
            if name.startswith("-"):
                self.error(f"unknown option {name}{self._nearest_option(name)}")
            self.error(f"unexpected argument {name!r}")
        if getattr(parsed, "data_dir", None) is not None:
            os.environ["TFDS_DATA_DIR"] = str(parsed.data_dir)
        return parsed

    def error(self, message: str) -> NoReturn:
        """Exit with one line and status 2; the usage of 50 options would bury it."""
        self.exit(2, f"{self.prog}: error: {printable(message, 500)} (see {self.prog} --help)\n")

    def _nearest_option(self, name: str) -> str:
        # Compared without the dashes, which would make --lr look like --help.
        options = {o.lstrip("-"): o for action in self._actions for o in action.option_strings}
        near = difflib.get_close_matches(name.lstrip("-")[:100], options, n=1)
        return f"; did you mean {options[near[0]]!r}?" if near else ""


def add_run_argument(parser: argparse.ArgumentParser, **settings: Any) -> None:
    """Add RUN, the directory of a run."""
    text = "directory of a run, written by jaxcifar train"
    parser.add_argument("run", metavar="RUN", help=text, **settings)


def add_data_dir_option(parser: argparse._ActionsContainer) -> None:
    """Add --data-dir, which `Parser.parse` also puts into the environment."""
    parser.add_argument(
        "--data-dir",
        type=Path,
        metavar="DIR",
        help="folder of TFDS datasets (default: $TFDS_DATA_DIR, else ~/tensorflow_datasets)",
    )


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Add --checkpoint best|last|STEP."""
    parser.add_argument(
        "--checkpoint",
        type=_checkpoint_choice,
        default="best",
        metavar="best|last|STEP",
        help="best has the highest validation accuracy (default: %(default)s)",
    )


def _checkpoint_choice(text: str) -> str | int:
    if text in ("best", "last"):
        return text
    if not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{shown(text)} is neither best, last nor a step")
    return int(text)
