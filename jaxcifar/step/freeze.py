"""Freezing: rules give every parameter a label, and the label says how it is trained.

A rule is a pair ``(pattern, label)``, and the first rule whose pattern matches a parameter labels
it. For the patterns, see `patterns`. The labels are:

* ``"frozen"``: not trained, not differentiated, without optimizer state;
* ``"trained"``: trained at the learning rate;
* ``"0.1"``, ``"2"``: trained at a tenth of the learning rate, or at twice the rate;
* ``"trained@5"``, ``"0.1@5"``: frozen before epoch 5 (epochs count from 1), trained from then on.

The labels determine which gradients are computed (`steps`), the optimizer's groups (`optimizer`),
the mode of the BatchNorms (`frozen_batch_norms`), and the part of the network whose output can be
cached (`frozen_prefix`).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from jaxcifar.common.errors import FreezeError
from jaxcifar.common.messages import did_you_mean, shown
from jaxcifar.models.names import HEAD, PyTree, children_of, named_leaves, units_of
from jaxcifar.step.patterns import explain_unused, make_matcher

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
# The first nine children: all but the head.
FREEZE_B: Rules = ((HEAD, TRAINED), ("*", FROZEN))


class Treatment(NamedTuple):
    """The meaning of a label."""

    scale: float  # share of the learning rate; 0 is frozen
    start_epoch: int  # the first epoch in which the parameter is trained


def treatment(label: str) -> Treatment:
    """The meaning of a label.

    Raises:
        FreezeError: the label has none of the forms listed in this module.
    """
    if label == FROZEN:
        return Treatment(0.0, 1)
    # The digits are bounded: int() rejects thousands of them, and float() returns infinity. The
    # smallest float has 324 decimals, and `layer_decay` may write one.
    match = re.fullmatch(r"(trained|\d{1,9}\.?\d{0,350}|\.\d{1,350})(?:@([1-9]\d{0,8}))?", label)
    scale = 1.0 if match is None or match[1] == TRAINED else float(match[1])
    if match is None or scale == 0.0:
        raise FreezeError(
            f"cannot read the label {shown(label)}; use frozen, trained, or a positive share of "
            "the learning rate such as 0.1; to start in epoch 5, write trained@5 or 0.1@5"
        )
    return Treatment(scale, int(match[2] or 1))


def label_params(params: PyTree, rules: Rules) -> Labels:
    """Label every leaf of `params` (arrays or shapes) by the first rule that matches its name.

    Raises:
        FreezeError: a rule has no effect, no rule matches a leaf, a BatchNorm would be partly
            frozen, nothing is trained in the first epoch, or a label cannot be read.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxcifar import label_params
        >>> params = {"conv1": {"kernel": jnp.zeros((3, 3, 3, 4))}, "fc": {"bias": jnp.zeros(10)}}
        >>> label_params(params, [("conv1", "frozen"), ("*", "trained")])
        {'conv1': {'kernel': 'frozen'}, 'fc': {'bias': 'trained'}}
    """
    names = list(named_leaves(params))
    matchers = [make_matcher(pattern) for pattern, _ in rules]
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
            raise FreezeError(explain_unused(pattern, names))
    uncovered = [name for name in names if name not in labels]
    if uncovered:
        raise FreezeError(
            f"no rule matches {_first_names(uncovered)}; end the rules with *=trained or *=frozen"
        )
    _check_batch_norms(labels)
    if not any(_trains(label, epoch=1) for label in labels.values()):
        raise FreezeError("nothing is trained in the first epoch; train at least the head")
    return jax.tree.unflatten(jax.tree.structure(params), labels.values())


def freeze_up_to(params: PyTree, module: str) -> Rules:
    """Rules that freeze everything from the stem up to and including `module`, and train the rest.

    Args:
        params: the network's parameters, arrays or shapes.
        module: a child of the network ("layer2") or a block ("layer2.0").

    Raises:
        FreezeError: the network has no such child or block.

    Example:
        >>> import jax
        >>> from jaxcifar import freeze_up_to, resnet18
        >>> init, images = resnet18(width=4).init, jax.numpy.zeros((1, 32, 32, 3))
        >>> key = jax.random.key(0)
        >>> params = jax.eval_shape(lambda: init(key, images, train=False))["params"]
        >>> [pattern for pattern, label in freeze_up_to(params, "layer1") if label == "frozen"]
        ['conv1', 'bn1', 'layer1.0', 'layer1.1']
    """
    names = list(named_leaves(params))
    units = units_of(names)
    inside = [i for i, unit in enumerate(units) if unit == module or unit.startswith(module + ".")]
    if not inside:
        raise FreezeError(
            f"up_to:{shown(module)[1:-1]} is not a child of the network or a block"
            f"{did_you_mean(module, [*children_of(names), *units])}"
        )
    return (*((unit, FROZEN) for unit in units[: inside[-1] + 1]), ("*", TRAINED))


def freeze_all_but(module: str) -> Rules:
    """Rules that train `module` and freeze the rest.

    Example:
        >>> from jaxcifar import freeze_all_but
        >>> freeze_all_but("layer4")
        (('layer4', 'trained'), ('*', 'frozen'))
    """
    return ((module, TRAINED), ("*", FROZEN))


def layer_decay(params: PyTree, decay: float) -> Rules:
    """Rules for layer-wise learning rates, as in ULMFiT (arXiv:1801.06146, section 3.2).

    The head is trained at the learning rate, and each child below at `decay` times the rate of the
    child above it. The stem's convolution and BatchNorm count as one child.

    Args:
        params: the network's parameters, arrays or shapes.
        decay: factor from child to child, above 0 and at most 1.

    Raises:
        FreezeError: `decay` is outside its range.

    Example:
        >>> from jaxcifar import layer_decay
        >>> params = {child: {"bias": 0} for child in ("conv1", "bn1", "layer1", "fc")}
        >>> layer_decay(params, 0.5)
        (('fc', 'trained'), ('layer1', '0.5'), ('conv1', '0.25'), ('bn1', '0.25'))
    """
    if not 0 < decay <= 1:
        raise FreezeError(f"layer decay must be above 0 and at most 1, not {decay}")
    children = [name for name in children_of(named_leaves(params)) if name != "bn1"]
    rules = []
    for depth, child in enumerate(reversed(children)):
        label = TRAINED if depth == 0 else np.format_float_positional(decay**depth, trim="-")
        rules += [(name, label) for name in ((child, "bn1") if child == "conv1" else (child,))]
    return tuple(rules)


def labels_at(labels: Labels, epoch: int) -> Labels:
    """The labels that apply in an epoch: parameters that start later are "frozen".

    Build the optimizer and the step from these: they do not handle labels that take effect later.

    Example:
        >>> from jaxcifar import labels_at
        >>> labels_at({"fc": "trained", "layer4": "0.1@5"}, epoch=4)
        {'fc': 'trained', 'layer4': 'frozen'}
    """
    return jax.tree.map(lambda label: label if _trains(label, epoch) else FROZEN, labels)


def stage_starts(labels: Labels) -> list[int]:
    """The epochs in which the training of some parameter starts, ascending; the first is 1."""
    return sorted({1} | {treatment(label).start_epoch for label in jax.tree.leaves(labels)})


def trainable_mask(labels: Labels) -> PyTree:
    """True for the leaves that are not frozen."""
    return jax.tree.map(lambda label: label != FROZEN, labels)


def split_params(params: PyTree, labels: Labels) -> tuple[PyTree, PyTree]:
    """(trainable, frozen): the tree of `params` twice, each with None for the other's leaves."""
    trainable = jax.tree.map(lambda p, label: p if label != FROZEN else None, params, labels)
    frozen = jax.tree.map(lambda p, label: p if label == FROZEN else None, params, labels)
    return trainable, frozen


def merge_params(trainable: PyTree, frozen: PyTree) -> PyTree:
    """The inverse of `split_params`."""
    return jax.tree.map(
        lambda t, f: f if t is None else t, trainable, frozen, is_leaf=lambda x: x is None
    )


def frozen_batch_norms(labels: Labels) -> frozenset[str]:
    """The names of the BatchNorms whose parameters are frozen ("bn1", "layer1.0.bn1", ...).

    As the attribute `frozen` of a `ResNet`, they also freeze the BatchNorms' statistics.

    Example:
        >>> from jaxcifar import frozen_batch_norms
        >>> labels = {"bn1": {"scale": "frozen", "bias": "frozen"}, "fc": {"bias": "trained"}}
        >>> frozen_batch_norms(labels)
        frozenset({'bn1'})
    """
    named = named_leaves(labels)
    return frozenset(
        name.removesuffix(".scale")
        for name, label in named.items()
        if name.endswith(".scale") and label == FROZEN
    )


def frozen_prefix(labels: Labels) -> list[str]:
    """The network's first children, from the stem on, all of whose parameters are frozen."""
    prefix = []
    for child in children_of(named_leaves(labels)):
        if any(label != FROZEN for label in jax.tree.leaves(labels[child])):
            break
        prefix.append(child)
    return prefix


def _trains(label: str, epoch: int) -> bool:
    scale, start_epoch = treatment(label)
    return scale > 0 and epoch >= start_epoch


def _check_batch_norms(labels: dict[str, str]) -> None:
    """Raise unless the scale and bias of each BatchNorm start in the same epoch, or never."""
    for name, label in labels.items():
        if name.endswith(".scale"):
            module = name.removesuffix(".scale")
            other = labels.get(module + ".bias", label)  # a module of the user's may have none
            scale, bias = treatment(label), treatment(other)
            if (scale.scale > 0, scale.start_epoch) != (bias.scale > 0, bias.start_epoch):
                raise FreezeError(
                    f"the BatchNorm {module} would be partly frozen (weight {label}, bias "
                    f"{other}); use one rule for {module}"
                )


def _first_names(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
