"""Patterns over the names of parameters, as freeze rules use them.

A pattern is a path or its beginning, in whole words: ``layer1`` and ``layer1.0.bn1`` match
``layer1.0.bn1.scale``, and neither matches ``layer10``. A parameter has its name here and its name
in torchvision (``layer1.0.conv1.weight``); a pattern may match either. In a word, ``*`` and ``?``
work as in a shell. The word ``**`` stands for any number of words, and ``*`` matches everything.
"""

import fnmatch
import re
from collections.abc import Callable, Sequence

from jaxcifar.common.messages import did_you_mean, shown
from jaxcifar.models.names import children_of, torch_name

Matcher = Callable[[str], object]


def make_matcher(pattern: str) -> Callable[[str], bool]:
    """Build ``name -> whether the pattern matches it``."""
    words = [None if word == "**" else _word_matcher(word) for word in pattern.split(".")]
    return lambda name: _fits(words, name) or _fits(words, torch_name(name))


def explain_unused(pattern: str, names: list[str]) -> str:
    """Why a rule, or a shorthand for several rules, labels none of the parameters `names`."""
    if ":" in pattern or any(map(make_matcher(pattern), names)):
        return f"the rule {shown(pattern)} has no effect: earlier rules match all its parameters"
    modules = {n.rsplit(".", i)[0] for n in names for i in range(n.count(".") + 1)}
    known = sorted({*names, *map(torch_name, names), *modules})
    advice = did_you_mean(pattern, known)
    if "did you mean" not in advice:
        advice = did_you_mean(pattern, children_of(names))
    return f"the rule {shown(pattern)} matches no parameter{advice}"


def _word_matcher(word: str) -> Matcher:
    """By `fnmatch`: a regex of many ``.*`` takes exponential time on names it does not match."""
    return re.compile(fnmatch.translate(word.replace("[", "[[]"))).match


def _fits(words: Sequence[Matcher | None], name: str) -> bool:
    """Whether the words, of which None is any number of words, match the beginning of the name."""
    parts = name.split(".")
    ends = {0}  # the positions in `parts` where a match of the words so far may end
    for matches in words:
        if matches is None:
            ends = set(range(min(ends), len(parts))) if ends else ends
        else:
            ends = {end + 1 for end in ends if end < len(parts) and matches(parts[end])}
    return bool(ends)
