"""How exactly float32 products and convolutions are computed where the hardware has a choice."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Literal

import jax

Precision = Literal["default", "highest"]


@contextmanager
def computed_at(precision: Precision) -> Iterator[None]:
    """What is traced inside multiplies and convolves float32 at this precision.

    It is a decorator, too: ``computed_at("highest")(f)`` is `f` traced like that, with the
    gradients that it takes.

    Args:
        precision: "highest" is full float32. "default" leaves it as it is: TF32 (10 bits of the
            mantissa) on an NVIDIA GPU, bfloat16 on a TPU, unless JAX's option
            `jax_default_matmul_precision` says otherwise. On a CPU there is no difference.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxcifar.step.precision import computed_at
        >>> x = jnp.ones((2, 2))
        >>> exact = computed_at("highest")(lambda x: x @ x)
        >>> "HIGHEST" in jax.jit(exact).lower(x).as_text()
        True
    """
    with nullcontext() if precision == "default" else jax.default_matmul_precision(precision):
        yield
