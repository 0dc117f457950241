"""What the scripts share: options made from a dataclass, and errors as one line."""

import argparse
import dataclasses
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, UnionType
from typing import Any, Literal, NoReturn, TextIO, Union, get_args, get_origin, get_type_hints

import jax

from jaxcifar.common.errors import (
    EXPECTED,
)
from jaxcifar.common.messages import did_you_mean, printable, shown
from jaxcifar.devices.compilation_cache import enable_compilation_cache
from jaxcifar.devices.processes import DeviceOptions
from jaxcifar.recipes.presets import EXPERIMENTS, get_experiment
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.training.interruption import Interrupted


class Parser(argparse.ArgumentParser):
    """argparse with whole option names, one line an error, and the nearest option to a typo."""

    def __init__(self, **settings: Any) -> None:
        """As `argparse.ArgumentParser`."""
        super().__init__(allow_abbrev=False, **settings)

    def parse(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse (the command line), refusing what is left over.

        What --data-dir names stands in for $TFDS_DATA_DIR from here on, so that recipes, which know
        no folder, find "tfds:" datasets there.
        """
        parsed, rest = self.parse_known_args(arguments)
        if rest:
            options = [o for a in self._actions for o in a.option_strings if o.startswith("--")]
            name = rest[0].split("=", 1)[0]
            if name.startswith("-"):
                self.error(f"unknown option {name}{did_you_mean(name, options)}")
            self.error(f"do not know what to do with {name!r}")
        if getattr(parsed, "data_dir", None) is not None:
            os.environ["TFDS_DATA_DIR"] = str(parsed.data_dir)
        return parsed

    def error(self, message: str) -> NoReturn:
        """One line and exit status 2; the usage of 25 options would bury it."""
        self.exit(2, f"{self.prog}: error: {printable(message, 500)} (see {self.prog} --help)\n")


def experiment_parser(arguments: Sequence[str], *, usage: str, text: str, workdir: str) -> Parser:
    """The parser of a script that trains an EXPERIMENT, any setting of which is an option.

    Args:
        arguments: of the command line; the defaults shown are those of the experiment named first,
            if one is.
        usage: its own part of the usage line, between EXPERIMENT and what all of them take.
        text: what the script does.
        workdir: where it writes by default, said in words.
    """
    named = arguments and arguments[0].replace("-", "_") in EXPERIMENTS
    shown = get_experiment(arguments[0]).recipe if named else Recipe()
    listing = "\n".join(f"  {name:<18} {e.text}" for name, e in EXPERIMENTS.items())
    parser = Parser(
        description=text,
        epilog=f"experiments:\n{listing}\n\nEach experiment has defaults of its own: "
        "see %(prog)s EXPERIMENT --help.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"%(prog)s EXPERIMENT {usage}[--workdir W] [--resume | --overwrite] "
        "[any setting below]",
    )
    parser.add_argument("experiment", metavar="EXPERIMENT", help=", ".join(EXPERIMENTS))
    run = parser.add_argument_group("run")
    run.add_argument("--workdir", type=Path, help=f"directory for all files (default: {workdir})")
    run.add_argument("--data-dir", type=Path, help="of TFDS data (default: $TFDS_DATA_DIR)")
    run.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    run.add_argument("--overwrite", action="store_true", help="replace what is in the workdir")
    add_options(parser, shown)
    return parser


def add_options(parser: argparse.ArgumentParser, defaults: Any) -> None:
    """Add an option for each field of a dataclass instance; its values are the defaults shown.

    An option not given is absent from the parsed namespace: see `given_options`.
    """
    groups: dict[str, Any] = {}
    hints = get_type_hints(type(defaults))
    for field in dataclasses.fields(defaults):
        title = field.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        value = getattr(defaults, field.name)
        text = field.metadata["help"]
        groups[title].add_argument(
            "--" + field.name.replace("_", "-"),
            default=argparse.SUPPRESS,
            help=text if value is None else f"{text} (default: {value})",
            **_value_of(hints[field.name]),
        )


def given_options(parsed: argparse.Namespace, dataclass: type) -> dict[str, Any]:
    """The fields that were given on the command line."""
    names = [field.name for field in dataclasses.fields(dataclass)]
    return {name: getattr(parsed, name) for name in names if hasattr(parsed, name)}


def device_options(arguments: Sequence[str]) -> DeviceOptions:
    """The device options among a command line's, read before all others: recipes trace networks,
    and JAX joins other processes only before it is first used.
    """
    parser = Parser(add_help=False)
    add_options(parser, DeviceOptions())
    parsed, _ = parser.parse_known_args(arguments)
    return DeviceOptions(**given_options(parsed, DeviceOptions))


def add_checkpoint_option(parser: argparse.ArgumentParser) -> None:
    """Add --checkpoint best|last|STEP."""
    parser.add_argument(
        "--checkpoint",
        type=_checkpoint_choice,
        default="best",
        metavar="best|last|STEP",
        help="best is by validation accuracy (default: %(default)s)",
    )


def _checkpoint_choice(text: str) -> str | int:
    """Which checkpoint: "best", "last" or a step."""
    if text in ("best", "last"):
        return text
    if not text.isdecimal() or len(text) > 18:
        raise argparse.ArgumentTypeError(f"{shown(text)} is neither best, last nor a step")
    return int(text)


def run_script(main: Callable[[], None], *, interrupted: str = "nothing was written") -> NoReturn:
    """Run a script's `main`. Expected errors are one line and exit status 2; Ctrl-C exits 130 and
    SIGTERM, which batch systems send before they kill, likewise 143: both let what is being written
    be finished, and a training run is saved where it stands, see `interruption`.
    """
    signal.signal(signal.SIGTERM, _stop)
    enable_compilation_cache()
    # Orbax tells of every save through absl at WARNING, and of a failed one with a traceback at
    # ERROR, of which the error that follows says all.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    warnings.showwarning = _show_warning
    if isinstance(sys.stdout, io.TextIOWrapper):  # a path may have bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
    except EXPECTED as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        if jax.distributed.is_initialized():
            # Leaving in order would wait for the other processes, which wait for this one.
            os._exit(2)
        sys.exit(2)
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.signal_number)
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise  # a defect
        print(
            "error: out of memory: lower --batch-size, --eval-batch-size, --resize or --width "
            f"({str(error).splitlines()[0] if str(error) else 'MemoryError'})",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"interrupted; {interrupted}", file=sys.stderr)
        sys.exit(130)
    except _Terminated:
        print(f"terminated; {interrupted}", file=sys.stderr)
        sys.exit(128 + signal.SIGTERM)
    sys.exit(0)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One line, like an error."""
    print(f"warning: {message}", file=file or sys.stderr, flush=True)


class _Terminated(BaseException):
    """Like KeyboardInterrupt: no `except Exception` catches it."""


def _stop(number: int, frame: FrameType | None) -> None:
    raise _Terminated


def _value_of(hint: Any) -> dict[str, Any]:
    """Argparse's type, choices or action for an annotation."""
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(hint) in (Union, UnionType):
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    return {"type": hint, "metavar": {int: "N", float: "X", str: "NAME"}[hint]}
