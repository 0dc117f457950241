"""Numbers in a page's prose, and the measurements they are compared with."""

import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

from tests.conftest import ROOT

_NUMBER = r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?"
# What a measurement looks like: a decimal, a number with one of these units, one in a table's cell
# that holds nothing else but numbers.
_UNITS = (
    r"(?:ns|µs|ms|s|min|h|seconds?|minutes?|hours?|[kMGT]i?B|%|percent|times|x|-fold|kernels"
    r"|img/s|images/s|images a second)"
)
_MEASURED = re.compile(
    rf"(?<![\w.]){_NUMBER}(?=\s?{_UNITS}(?!\w))"
    r"|(?<![\w.])-?\d+\.\d+(?:e[-+]?\d+)?(?!\w)(?!\.\d)"
    r"|(?<![\w.])\d+e[-+]?\d+(?!\w)"
)
_CELL = re.compile(rf"(?<=\|)[\s*]*{_NUMBER}[\s*]*(?:/[\s*]*{_NUMBER}[\s*]*)*(?=\|)")
# Not prose: inline code, the targets of links, arXiv's numbers.
_APART = re.compile(r"`[^`]*`|\]\([^)]*\)|arXiv:\S+")


class Figure(NamedTuple):
    """Numbers of a page: its text around them, with {} for each, and what was measured."""

    text: str
    values: tuple[float, ...]


class Given(NamedTuple):
    """Numbers that nobody measured, in the same way, what they are, and how often they occur."""

    text: str
    reason: str
    count: int = 1


class Fact(NamedTuple):
    """What a page concludes in words, and whether the measurements say so."""

    text: str
    holds: bool


class Page(NamedTuple):
    """A page with all of its numbers."""

    name: str
    figures: list[Figure]
    given: list[Given]
    facts: tuple[Fact, ...] = ()


@cache
def result(name: str) -> Any:
    """A file of `benchmarks/results`, by its name without `.json`."""
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())


def words(text: str) -> str:
    """A page without code blocks, on one line."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return " ".join(text.split())


def find(text: str, page: str) -> list[re.Match[str]]:
    """Where a text with {} for numbers stands in a page, its words in one line."""
    text = " ".join(text.split())
    pattern = f"({_NUMBER})".join(re.escape(part) for part in text.split("{}"))
    if text.startswith("{}"):
        pattern = r"(?<![\w.])" + pattern
    if text.endswith("{}"):
        pattern += r"(?!\w)(?!\.\d)"
    return list(re.finditer(pattern, page))


def agrees(shown: str, value: float) -> bool:
    """Whether a value, rounded to as many digits as are shown, is what is shown."""
    mantissa, _, exponent = shown.replace(",", "").partition("e")
    decimals = len(mantissa.partition(".")[2])
    unit = 10.0 ** (int(exponent or 0) - decimals)
    return abs(float(f"{mantissa}e{exponent or 0}") - value) <= 0.5 * unit * (1 + 1e-9)


def unexplained(page: Page, text: str) -> Iterator[str]:
    """Numbers of a page that look measured and have neither a figure nor a reason."""
    text = words(text)
    known = {
        place
        for entry in [*page.figures, *page.given]
        for match in find(entry.text, text)
        for group in range(1, match.re.groups + 1)
        for place in range(*match.span(group))
    }
    known.update(place for match in _APART.finditer(text) for place in range(*match.span()))
    for start, end in sorted(set(_measured(text))):
        if start not in known:
            yield text[max(0, start - 60) : end + 40]


def _measured(text: str) -> Iterator[tuple[int, int]]:
    """The places of the numbers that look measured."""
    for match in _MEASURED.finditer(text):
        yield match.span()
    for cell in _CELL.finditer(text):
        for match in re.finditer(_NUMBER, cell[0]):
            yield cell.start() + match.start(), cell.start() + match.end()
