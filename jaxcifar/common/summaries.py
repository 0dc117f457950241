"""Short texts that stand for large objects: a few short lines, whatever is in their names."""

from collections.abc import Iterable, Sequence

from jaxcifar.common.messages import escaped

LINES, WIDTH = 10, 100  # of a text, at most


def summary(kind: str, parts: Iterable[str], *, name: object = None) -> str:
    """`kind(name: part; part; ...)`, with a new line where a part does not fit on the last.

    Args:
        kind: the name of the class.
        name: of the object, of any length; None for none.
        parts: printable, each at most 96 characters; at most ten.

    Example:
        >>> summary("Rows", ["3 of 5 images", "8x8 pixels"])
        'Rows(3 of 5 images; 8x8 pixels)'
    """
    start = f"{kind}(" if name is None else f"{kind}({shortened(name, 80)}: "
    return packed(start, [f"{part}; " for part in parts])


def packed(start: str, parts: Sequence[str]) -> str:
    """`start`, parts and ")" in lines of at most `WIDTH` characters, and at most `LINES` of them.

    Args:
        start: before the parts, with its bracket.
        parts: printable, each at most 96 characters, with the separator behind it; that of the
            last is left out. Parts that have no line any more become "... 3 more".
    """
    lines, first = [start], 0  # the first part of the last line
    for i, part in enumerate(parts):
        text = (
            part if i < len(parts) - 1 else part.rstrip().removesuffix(";").removesuffix(",") + ")"
        )
        if len(lines[-1]) + len(text.rstrip()) > WIDTH:
            if len(lines) == LINES:
                lines[-1] = f"  ... {len(parts) - first} more)"
                break
            lines[-1] = lines[-1].rstrip()
            lines.append("  ")
            first = i
        lines[-1] += text
    return "\n".join(lines) if parts else f"{start})"


def literal(value: object) -> list[str]:
    """The repr of a plain value in pieces of at most 80 characters: of a text, several literals."""
    text = escaped(repr(value))
    if len(text) <= 80 or not isinstance(value, str):
        return [shortened(text, 80)]
    half = min(len(value) // 2, 70)
    return [*literal(value[:half]), *literal(value[half:])]


def shortened(text: object, length: int) -> str:
    """Escaped text of at most `length` characters: the middle of a longer one becomes "…".

    >>> shortened("a long name", 5)
    'a …me'
    """
    text = str(text)
    line = escaped(text if len(text) <= 2 * length else text[:length] + text[-length:])
    if len(line) <= length and len(text) <= 2 * length:
        return line
    return f"{line[: length // 2]}…{line[-(length - length // 2 - 1) :]}"


def name_list(names: Sequence[object], length: int) -> str:
    """The first names, escaped; "..." stands for those that `length` characters have no room for.

    >>> name_list(["cat", "dog", "horse"], 14)
    'cat, dog, ...'
    """
    shown: list[str] = []
    room = length - len("...")
    for name in names:
        text = shortened(name, 30)
        room -= len(text) + 2
        if room < 0:
            return ", ".join([*shown, "..."])
        shown.append(text)
    return ", ".join(shown)
