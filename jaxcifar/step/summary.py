"""The table of a network's parameters that a run prints."""

import jax

from jaxcifar.common.messages import join_lines
from jaxcifar.models.names import PyTree, children_of, count_params, named_leaves
from jaxcifar.step.freeze import Labels, split_params


def summarize(params: PyTree, labels: Labels | None = None) -> str:
    """A table of the top-level modules with their leaves and parameters, and the total.

    With `labels`, the table also has the trainable parameters and the labels: "0.1" is a share of
    the learning rate, "@5" the first epoch in which they are trained.
    """
    names = [*children_of(named_leaves(params)), "total"]
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
    return join_lines(lines)
