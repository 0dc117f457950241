"""Messages: printed on lines of their own, with names and values from outside made printable.

Whatever reaches a person goes through `escaped`: an error in its constructor (see `errors`), a
warning in `warn`, a log record in `get_logger`, a printed line in `say`, a figure's text in
`common.figure`. So a name cannot forge a line of ours, or send control codes to a terminal.
"""

import difflib
import logging
import reprlib
import warnings
from collections.abc import Iterable
from contextlib import suppress
from typing import TextIO

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100
_SHORT.maxlevel = 3
_MAX_TYPO = 100  # characters; a much longer name is not a typo of a known one


def shown(value: object) -> str:
    """The repr of an untrusted value for a message: short, without control characters."""
    return _SHORT.repr(value)


def escaped(text: object) -> str:
    r"""Text on one printable line, of any length.

    Control characters, line ends, lone surrogates and marks that turn the direction of writing are
    escaped as in a Python string; printable text is returned as it is.

    >>> escaped("cat\x1b[31m\nerror: forged")
    'cat\\x1b[31m\\nerror: forged'
    """
    line = str(text)
    if line.isprintable():
        return line
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def printable(text: str, most: int = 200) -> str:
    """Untrusted text for a message: at most `most` characters, escaped."""
    return escaped(text if len(text) <= most else text[:most] + "...")


def reason_of(error: BaseException) -> str:
    """The first line of a foreign error for a message, or its class where it says nothing."""
    lines = str(error).strip().splitlines()
    return printable(lines[0] if lines else type(error).__name__)


def counted(count: int, noun: str) -> str:
    """A number and its noun: "1 image", "2,000 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def join_lines(lines: Iterable[object]) -> str:
    """A text of several lines, each escaped: only these are its line ends."""
    return "\n".join(map(escaped, lines))


def say(*lines: object, file: TextIO | None = None, flush: bool = False) -> None:
    r"""Print lines, each escaped.

    Args:
        lines: a text of several lines is passed as `*text.split("\n")`, by whoever has built it
            with `join_lines`.
        file: by default standard output, as for `print`.
        flush: write at once.
    """
    if lines:
        print(join_lines(lines), file=file, flush=flush)


def warn(message: str, category: type[Warning] = UserWarning, *, stacklevel: int = 1) -> None:
    """`warnings.warn` with an escaped message."""
    warnings.warn(escaped(message), category, stacklevel=stacklevel + 1)


def get_logger(name: str) -> logging.Logger:
    """`logging.getLogger`; what is logged there is escaped."""
    logger = logging.getLogger(name)
    logger.addFilter(_escape_record)  # once: the same filter is not added again
    return logger


def _escape_record(record: logging.LogRecord) -> bool:
    with suppress(Exception):  # logging itself reports a record whose arguments do not fit
        record.msg, record.args = escaped(record.getMessage()), None
    return True


def did_you_mean(
    name: str, known: Iterable[str], *, count: int = 1, others: Iterable[str] | None = None
) -> str:
    """The end of a message about an unknown name: the nearest known names, or the possible ones.

    Args:
        name: may come from a file and have any length.
        known: every valid name.
        count: how many of the nearest names to give, at most.
        others: the names to list if none is near; by default all known ones.
    """
    known = list(known)
    near = difflib.get_close_matches(name[:_MAX_TYPO], known, n=count, cutoff=0.5)
    if near:
        return f"; did you mean {' or '.join(map(repr, near))}?"
    return f"; choose from {', '.join(map(escaped, known if others is None else others))}"


def unknown_choice(name: str, value: object, choices: Iterable[str]) -> str:
    """The message for a value that is none of the choices, with the nearest of them."""
    near = did_you_mean(value if isinstance(value, str) else shown(value), choices)
    return f"unknown {name} {shown(value)}{near}"
