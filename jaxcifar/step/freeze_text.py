"""Freeze rules from one line of text, for options and config files."""

import re

from jaxcifar.common.errors import FreezeError
from jaxcifar.common.messages import did_you_mean, shown
from jaxcifar.models.names import PyTree, named_leaves
from jaxcifar.step.freeze import (
    FREEZE_A,
    FREEZE_B,
    FROZEN,
    TRAINED,
    Rules,
    freeze_all_but,
    freeze_up_to,
    layer_decay,
    treatment,
)
from jaxcifar.step.patterns import explain_unused, make_matcher

PRESETS: dict[str, Rules] = {
    "none": (("*", TRAINED),),
    "freeze_a": FREEZE_A,
    "freeze_b": FREEZE_B,
}


def parse_rules(text: str, params: PyTree) -> Rules:
    """Freeze rules from words separated by blanks or commas, in the order of the words.

    A word is a rule ``pattern=label``, or a shorthand:

    * ``none``, ``freeze_a``, ``freeze_b``: the presets;
    * ``up_to:layer2``, ``all_but:fc``, ``layer_decay:0.7``: the rules of `freeze_up_to`,
      `freeze_all_but` and `layer_decay`;
    * a pattern such as ``layer1``: freezes the parameters that it matches.

    If all words are shorthands, the remaining parameters are trained: ``"conv1 bn1 layer1"`` is
    FREEZE_A. ``"up_to:layer1 fc=trained *=0.1"`` freezes the same parameters and trains the layers
    above at a tenth of the head's rate; ``"up_to:layer1 layer_decay:0.7"`` lets their rates decay.

    Raises:
        FreezeError: a word cannot be read, or has no effect.
    """
    words = [word for word in re.split(r"[\s,]+", text) if word]
    if not words:
        raise FreezeError("no freeze rules are given; write none to train everything")
    rules: list[tuple[str, str]] = []
    names = list(named_leaves(params))
    unlabelled = names
    for word in words:
        effective = []
        for pattern, label in _expand(word, params):
            matches = make_matcher(pattern)
            if any(map(matches, unlabelled)):
                effective.append((pattern, label))
                unlabelled = [name for name in unlabelled if not matches(name)]
        if not effective:
            raise FreezeError(explain_unused(word.partition("=")[0], names))
        rules += effective
    if unlabelled and not any("=" in word for word in words):
        rules.append(("*", TRAINED))
    return tuple(rules)


def _expand(word: str, params: PyTree) -> Rules:
    """The rules that one word stands for."""
    if "=" in word:
        pattern, _, label = word.partition("=")
        treatment(label)
        return ((pattern, label),)
    name, _, argument = word.partition(":")
    shorthand = name.replace("-", "_")
    if shorthand in PRESETS and not argument:
        return PRESETS[shorthand]
    if shorthand == "up_to":
        return freeze_up_to(params, argument)[:-1]  # without the rule that trains the rest
    if shorthand == "all_but":
        names = list(named_leaves(params))
        if not any(map(make_matcher(argument), names)):
            raise FreezeError(explain_unused(argument, names))
        return freeze_all_but(argument)
    if shorthand == "layer_decay":
        try:
            return layer_decay(params, float(argument))
        except ValueError as error:
            raise FreezeError(
                f"{shown(word)} needs a number above 0 and at most 1, such as layer_decay:0.7"
            ) from error
    if ":" in word:
        shorthands = ("up_to:", "all_but:", "layer_decay:")
        raise FreezeError(f"cannot read {shown(word)}{did_you_mean(shorthand + ':', shorthands)}")
    return ((word, FROZEN),)
