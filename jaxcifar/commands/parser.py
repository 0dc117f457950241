"""The argument parser of every command, and the options that several commands share.

Importing this module does not import JAX.
"""

import argparse
import difflib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from jaxcifar.common.files import Unusable, absolute_path
from jaxcifar.common.messages import printable, shown

# Options that take a file or something else: one of these starts with "~/" or "~USER/".
_NAMES_OR_FILES = ("weights", "image", "split")


class Parser(argparse.ArgumentParser):
    """argparse with whole option names, one-line errors, and the nearest option for a typo."""

    def __init__(self, **settings: Any) -> None:
        """As `argparse.ArgumentParser`, with the description and epilog kept line by line."""
        settings.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(allow_abbrev=False, **settings)
        self.register("type", Path, to_path)  # of every option and argument with `type=Path`

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
        self._expand_files(parsed)
        if getattr(parsed, "data_dir", None) is not None:
            use_data_dir(parsed.data_dir)
        return parsed

    def _expand_files(self, parsed: argparse.Namespace) -> None:
        """Expand "~" where an option takes a file or a name."""
        for name in _NAMES_OR_FILES:
            text = getattr(parsed, name, None)
            if isinstance(text, str) and text.startswith("~") and "/" in text:
                try:
                    setattr(parsed, name, str(to_path(text)))
                except argparse.ArgumentTypeError as error:
                    self.error(f"argument --{name}: {error}")

    def error(self, message: str) -> NoReturn:
        """Exit with one line and status 2; the usage of 50 options would bury it."""
        self.exit(2, f"{self.prog}: error: {printable(message, 500)} (see {self.prog} --help)\n")

    def _nearest_option(self, name: str) -> str:
        # Compared without the dashes, which would make --lr look like --help.
        options = {o.lstrip("-"): o for action in self._actions for o in action.option_strings}
        near = difflib.get_close_matches(name.lstrip("-")[:100], options, n=1)
        return f"; did you mean {options[near[0]]!r}?" if near else ""


def use_data_dir(folder: str | Path) -> None:
    """From here on, recipes, which know no folder, find "tfds:" datasets there."""
    os.environ["TFDS_DATA_DIR"] = str(folder)


def to_path(text: str) -> Path:
    """A path of the command line; "~" and "~USER" at its start are home directories.

    A shell expands them in `--workdir ~/x`, and not in `--workdir=~/x`.

    A path to a name that starts with "~", such as "./~x", becomes absolute: a `Path` drops the
    "./", and whoever gets it would expand it.

    Raises:
        argparse.ArgumentTypeError: the path is empty, holds a NUL, or the home is not known.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; the folder you are in is .")
    if "\0" in text:
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a path: it holds a NUL character")
    expanded = os.path.expanduser(text)  # Path.expanduser takes ./~ for ~
    if text.startswith("~") and expanded == text:
        first = text.split("/", 1)[0]
        whose = f"user {shown(first[1:])} has" if first[1:] else "you have"
        raise argparse.ArgumentTypeError(
            f"{shown(text)}: {whose} no known home directory (set HOME, or write the path out; for "
            "a name that starts with ~, write ./~)"
        )
    path = Path(expanded)
    if not str(path).startswith("~"):
        return path
    try:
        return absolute_path(expanded)
    except Unusable as error:
        raise argparse.ArgumentTypeError(str(error)) from None


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
        help="best has the highest validation accuracy, or is best by the run's --patience-metric "
        "(default: %(default)s)",
    )


def _checkpoint_choice(text: str) -> str | int:
    if text in ("best", "last"):
        return text
    if not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{shown(text)} is neither best, last nor a step")
    return int(text)
