"""Parameter paths in torchvision's words, and one freeze spec from which everything follows.

A spec is a sequence of rules ``(pattern, label)``; the first whose pattern matches labels a leaf.
The label says how the leaf is treated:

* ``"frozen"``: not trained, not differentiated, without optimizer state;
* ``"trained"``: at the learning rate;
* ``"0.1"``: at a tenth of it;
* ``"trained@5"``, ``"0.1@5"``: frozen before epoch 5 (epochs count from 1), then so.

A pattern is a path or a leading part of one, in whole words: ``layer1`` and ``layer1.0.bn1`` match
``layer1.0.bn1.scale``, and neither matches ``layer10``. A leaf goes by its name here and by
torchvision's (``layer1.0.conv1.weight``). In a word, ``*`` and ``?`` are as in a shell; the word
``**`` is any number of words, and ``*`` alone is everything.

From the labels follow the gradient (`steps`), the optimizer with its clipping, decay and rates
(`optim`), BatchNorm's mode (`frozen_batch_norms`), the prefix whose output can be cached
(`frozen_prefix`) and the summary.
"""

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxcifar.common.messages import did_you_mean, shown
from jaxcifar.models.names import HEAD, PyTree, count_params, named_leaves, torch_name

Labels = PyTree  # of str, one for each parameter leaf
Rules = Sequence[tuple[str, str]]
FROZEN = "frozen"
TRAINED = "trained"
# The first five children of torchvision's ResNet (conv1, bn1, relu, maxpool, layer1).
FREEZE_A: Rules = (
    ("conv1", FROZEN),
    ("bn1", FROZEN),
    ("layer1", FROZEN),
    ("*", TRAINED),
)
# The first nine: all but the head.
FREEZE_B: Rules = ((HEAD, TRAINED), ("*", FROZEN))
PRESETS: dict[str, Rules] = {
    "none": (("*", TRAINED),),
    "freeze_a": FREEZE_A,
    "freeze_b": FREEZE_B,
}


class FreezeError(ValueError):
    """A freeze spec that cannot be; the message names the rule or the leaf and the way out."""


class Treatment(NamedTuple):
    """What a label says."""

    scale: float  # of the learning rate; 0 is frozen
    start_epoch: int  # the first epoch in which it is trained


def treatment(label: str) -> Treatment:
    """What a label says.

    Raises:
        FreezeError: it is none of the forms above.
    """
    if label == FROZEN:
        return Treatment(0.0, 1)
    # Bounded: int() refuses thousands of digits, and float() makes them infinite.
    match = re.fullmatch(r"(trained|\d{1,9}\.?\d{0,30}|\.\d{1,30})(?:@([1-9]\d{0,8}))?", label)
    scale = 1.0 if match is None or match[1] == TRAINED else float(match[1])
    if match is None or scale == 0.0:
        raise FreezeError(
            f"cannot read the label {shown(label)}: write frozen, trained, a positive share of the "
            "learning rate such as 0.1, or either of these from an epoch on, such as trained@5"
        )
    return Treatment(scale, int(match[2] or 1))


def label_params(params: PyTree, rules: Rules) -> Labels:
    """One label for every leaf of `params` (arrays or shapes), by the first rule that matches.

    Raises:
        FreezeError: a rule that decides no leaf, a leaf that no rule covers, a BatchNorm frozen by
            half, nothing trainable in the first epoch, or a label that cannot be read.
    """
    names = list(named_leaves(params))
    matchers = [_matcher(pattern) for pattern, _ in rules]
    used = set()
    labels = {}
    for name in names:
        for i, matches in enumerate(matchers):
            if matches(name):
                labels[name] = rules[i][1]
                used.add(i)
                break
    for i, (pattern, label) in enumerate(rules):
        treatment(label)
        if i not in used:
            raise FreezeError(_why_unused(pattern, names))
    uncovered = [name for name in names if name not in labels]
    if uncovered:
        raise FreezeError(
            f"no rule covers {_some(uncovered)}: end the rules with *=trained or *=frozen"
        )
    _check_batch_norms(labels)
    if not any(_trains(label, epoch=1) for label in labels.values()):
        raise FreezeError("nothing is trainable in the first epoch: leave fc, at least, trained")
    return jax.tree.unflatten(jax.tree.structure(params), labels.values())


def freeze_up_to(params: PyTree, module: str) -> Rules:
    """Freeze everything from the stem to `module` ("layer2", "layer2.0"), and train the rest.

    Raises:
        FreezeError: `module` is neither a child of the network nor a block.
    """
    return (*_up_to(list(named_leaves(params)), module), ("*", TRAINED))


def freeze_all_but(module: str) -> Rules:
    """Train `module` and freeze the rest."""
    return ((module, TRAINED), ("*", FROZEN))


def layer_decay(params: PyTree, decay: float) -> Rules:
    """Layer-wise rates: the head at the learning rate, each child below it at `decay` times that
    of the one above (stem convolution and its BatchNorm count as one), as in ULMFiT
    (arXiv:1801.06146, section 3.2).

    Raises:
        FreezeError: `decay` is not in (0, 1].
    """
    if not 0 < decay <= 1:
        raise FreezeError(f"layer decay must be above 0 and at most 1, not {decay}")
    children = [name for name in _children(named_leaves(params)) if name != "bn1"]
    rules = []
    for depth, child in enumerate(reversed(children)):
        label = TRAINED if depth == 0 else np.format_float_positional(decay**depth, trim="-")
        rules += [(name, label) for name in ((child, "bn1") if child == "conv1" else (child,))]
    return tuple(rules)


def parse_rules(text: str, params: PyTree) -> Rules:
    """Rules from one line of text, for options and config files.

    The words, separated by blanks or commas, are rules in order: ``pattern=label``, or a shorthand:

    * ``none``, ``freeze_a``, ``freeze_b``: the presets;
    * ``up_to:layer2``, ``all_but:fc``, ``layer_decay:0.7``: as the functions of those names;
    * a bare pattern such as ``layer1`` freezes what it matches.

    Where shorthands alone are given, what they leave is trained: ``"conv1 bn1 layer1"`` is
    FREEZE_A. ``"up_to:layer1 fc=trained *=0.1"`` freezes as FREEZE_A does and trains the layers
    above at a tenth of the head's rate; ``"up_to:layer1 layer_decay:0.7"`` lets their rates decay.

    Raises:
        FreezeError: a word that cannot be read, or that decides nothing.
    """
    words = [word for word in re.split(r"[\s,]+", text) if word]
    if not words:
        raise FreezeError("no rules are given; none trains everything")
    rules: list[tuple[str, str]] = []
    names = list(named_leaves(params))
    left = names
    for word in words:
        deciding = []
        for pattern, label in _expand(word, params):
            matches = _matcher(pattern)
            if any(map(matches, left)):
                deciding.append((pattern, label))
                left = [name for name in left if not matches(name)]
        if not deciding:
            raise FreezeError(_why_unused(word.partition("=")[0], names))
        rules += deciding
    if left and not any("=" in word for word in words):
        rules.append(("*", TRAINED))
    return tuple(rules)


def labels_at(labels: Labels, epoch: int) -> Labels:
    """The labels in force in an epoch: what starts later is still frozen.

    Optimizer and step are built for these; labels that start later are not theirs to wait for.
    """
    return jax.tree.map(lambda label: label if _trains(label, epoch) else FROZEN, labels)


def stage_starts(labels: Labels) -> list[int]:
    """The epochs in which something begins to be trained, ascending; the first is 1."""
    return sorted({1} | {treatment(label).start_epoch for label in jax.tree.leaves(labels)})


def trainable_mask(labels: Labels) -> PyTree:
    """True on the leaves that are not frozen."""
    return jax.tree.map(lambda label: label != FROZEN, labels)


def split_params(params: PyTree, labels: Labels) -> tuple[PyTree, PyTree]:
    """(trainable, frozen): the tree of `params` twice, with None for the leaves of the other."""
    trainable = jax.tree.map(lambda p, label: p if label != FROZEN else None, params, labels)
    frozen = jax.tree.map(lambda p, label: p if label == FROZEN else None, params, labels)
    return trainable, frozen


def merge_params(trainable: PyTree, frozen: PyTree) -> PyTree:
    """The tree that `split_params` split."""
    return jax.tree.map(
        lambda t, f: f if t is None else t, trainable, frozen, is_leaf=lambda x: x is None
    )


def frozen_batch_norms(labels: Labels) -> frozenset[str]:
    """The modules whose BatchNorm parameters are frozen ("bn1", "layer1.0.bn1", ...)."""
    named = named_leaves(labels)
    return frozenset(
        name.removesuffix(".scale")
        for name, label in named.items()
        if name.endswith(".scale") and label == FROZEN
    )


def frozen_prefix(labels: Labels) -> list[str]:
    """The network's first children that are frozen whole, from the stem on."""
    prefix = []
    for child in _children(named_leaves(labels)):
        if any(label != FROZEN for label in jax.tree.leaves(labels[child])):
            break
        prefix.append(child)
    return prefix


def summarize(params: PyTree, labels: Labels | None = None) -> str:
    """A table of the top-level modules, their leaves and parameters, with the total.

    With `labels` it says what of it is trainable, and how: "0.1" is a share of the learning rate,
    "@5" the epoch from which on.
    """
    names = [*_children(named_leaves(params)), "total"]
    lines = [f"{'module':<10}{'leaves':>8}{'parameters':>14}"]
    lines[0] += "" if labels is None else f"{'trainable':>14}  as"
    for name in names:
        tree = params if name == "total" else params[name]
        line = f"{name:<10}{len(jax.tree.leaves(tree)):>8}{count_params(tree):>14,}"
        if labels is not None:
            own = labels if name == "total" else labels[name]
            trainable, _ = split_params(tree, own)
            kinds = "" if name == "total" else ", ".join(dict.fromkeys(jax.tree.leaves(own)))
            line += f"{count_params(trainable):>14,}  {kinds}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def _trains(label: str, epoch: int) -> bool:
    scale, start_epoch = treatment(label)
    return scale > 0 and epoch >= start_epoch


def _matcher(pattern: str) -> Callable[[str], bool]:
    """Name -> whether the pattern matches it or its torchvision name."""
    words = [None if word == "**" else _word_matcher(word) for word in pattern.split(".")]
    return lambda name: _fits(words, name) or _fits(words, torch_name(name))


def _word_matcher(word: str) -> Callable[[str], object]:
    """Fnmatch's own: a hand-made regex with many stars takes exponential time on what it misses."""
    return re.compile(fnmatch.translate(word.replace("[", "[[]"))).match


def _fits(words: Sequence[Callable[[str], object] | None], name: str) -> bool:
    """Whether the words (None is any number of them) are a leading part of the name."""
    parts = name.split(".")
    ends = {0}  # where in the name the words so far may end
    for matches in words:
        if matches is None:
            ends = set(range(min(ends), len(parts))) if ends else ends
        else:
            ends = {end + 1 for end in ends if end < len(parts) and matches(parts[end])}
    return bool(ends)


def _expand(word: str, params: PyTree) -> Rules:
    """The rules that one word of text stands for."""
    if "=" in word:
        pattern, _, label = word.partition("=")
        treatment(label)
        return ((pattern, label),)
    name, _, argument = word.partition(":")
    shorthand = name.replace("-", "_")
    if shorthand in PRESETS and not argument:
        return PRESETS[shorthand]
    if shorthand == "up_to":
        return _up_to(list(named_leaves(params)), argument)
    if shorthand == "all_but":
        return freeze_all_but(argument)
    if shorthand == "layer_decay":
        try:
            return layer_decay(params, float(argument))
        except ValueError as error:
            raise FreezeError(f"{shown(word)} needs a number above 0 and at most 1") from error
    if ":" in word:
        shorthands = ("up_to:", "all_but:", "layer_decay:")
        raise FreezeError(f"cannot read {shown(word)}{did_you_mean(shorthand + ':', shorthands)}")
    return ((word, FROZEN),)


def _up_to(names: list[str], module: str) -> Rules:
    """The rules that freeze every unit from the stem to `module`, and none above it."""
    units = _units(names)
    inside = [i for i, unit in enumerate(units) if unit == module or unit.startswith(module + ".")]
    if not inside:
        raise FreezeError(
            f"up_to:{shown(module)[1:-1]} names no child of the network and no block"
            f"{did_you_mean(module, [*_children(names), *units])}"
        )
    return tuple((unit, FROZEN) for unit in units[: inside[-1] + 1])


def _units(names: Iterable[str]) -> list[str]:
    """The blocks of the stages, and the other children, in the order of the forward pass."""
    units = []
    for child in _children(names):
        numbers = {n.split(".")[1] for n in names if n.startswith(child + ".")}
        blocks = sorted((n for n in numbers if n.isdecimal()), key=int)
        units += [f"{child}.{n}" for n in blocks] if blocks and child != HEAD else [child]
    return units


def _children(names: Iterable[str]) -> list[str]:
    """The network's children that have parameters, in the order of the forward pass."""
    return sorted({name.split(".")[0] for name in names}, key=_forward_order)


def _forward_order(name: str) -> tuple[int, int, str]:
    stages = {"conv1": 0, "bn1": 1, HEAD: 3}
    number = re.sub(r"\D", "", name)
    return stages.get(name, 2), int(number or 0), name


def _why_unused(pattern: str, names: list[str]) -> str:
    """Of a rule, or of a shorthand that stands for some."""
    if ":" in pattern or any(map(_matcher(pattern), names)):
        return f"{shown(pattern)} decides nothing: the rules before it match all that it does"
    modules = {n.rsplit(".", i)[0] for n in names for i in range(n.count(".") + 1)}
    known = sorted({*names, *map(torch_name, names), *modules})
    close = did_you_mean(pattern, known)
    near = close if "did you mean" in close else did_you_mean(pattern, _children(names))
    return f"the rule {shown(pattern)} matches no parameter{near}"


def _check_batch_norms(labels: dict[str, str]) -> None:
    """A BatchNorm is one thing: trained from the same epoch on, or never."""
    for name, label in labels.items():
        if name.endswith(".scale"):
            module = name.removesuffix(".scale")
            other = labels[module + ".bias"]
            scale, bias = treatment(label), treatment(other)
            if (scale.scale > 0, scale.start_epoch) != (bias.scale > 0, bias.start_epoch):
                raise FreezeError(
                    f"the BatchNorm {module} would be frozen by half (weight {label}, bias "
                    f"{other}): give one rule for {module}"
                )


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more leaves" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
