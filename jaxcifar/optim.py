"""From a schedule to an optax transformation."""

from typing import Literal, get_args

import optax

from jaxcifar.partition import kernel_mask

OptimizerName = Literal["adam", "adamw", "sgd"]


def make_optimizer(
    name: OptimizerName,
    schedule: optax.Schedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
) -> optax.GradientTransformation:
    """Build the optimizer.

    * adam: torch's `Adam` (b1 0.9, b2 0.999, eps 1e-8), no decay.
    * adamw: the same with decoupled decay, multiplied by the learning rate as in torch's `AdamW`.
    * sgd: Nesterov momentum; decay is added to the gradient, as in torch's `SGD`.

    Decay acts on kernels alone, not on biases and BatchNorm's parameters (He et al. 2019,
    arXiv:1812.01187, section 3.1); torch's optimizers decay everything they are given.

    Raises:
        ValueError: unknown name, or a decay given to adam.
    """
    if name not in get_args(OptimizerName):
        raise ValueError(
            f"unknown optimizer {name!r}; choose from {', '.join(get_args(OptimizerName))}"
        )
    if name == "adam":
        if weight_decay:
            raise ValueError("adam has no weight decay here; use the optimizer adamw")
        return optax.adam(schedule, b1=0.9, b2=0.999, eps=1e-8)
    if name == "adamw":
        return optax.adamw(schedule, weight_decay=weight_decay, mask=kernel_mask)
    sgd = optax.sgd(schedule, momentum=momentum or None, nesterov=bool(momentum))
    if not weight_decay:
        return sgd
    return optax.chain(optax.add_decayed_weights(weight_decay, mask=kernel_mask), sgd)
