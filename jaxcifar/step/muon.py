"""Muon for convolution kernels, as airbench's (Jordan 2024, kellerjordan.github.io/posts/muon).

Differences from optax's `contrib.muon`: the momentum is a sum of gradients, as SGD's, not their
mean; three steps of Newton-Schulz, not five; and each step first gives a kernel the norm
sqrt(c_out). Without that, kernels grow as they are trained, and a rate means less and less.

A BatchNorm has to follow each convolution: then the norm of its kernel does not change what the
network computes.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxcifar.common.numbers import at_least_float32

# x -> a x + b x^3 + c x^5, on every singular value: steep at 0, and near 1 it stays near 1.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
STEPS = 3
EPSILON = 1e-7  # added to the norm that a gradient is divided by, as in airbench


class MuonState(NamedTuple):
    """The state of `muon`."""

    step: jax.Array  # int32 [], steps so far
    momentum: optax.Updates  # as the kernels


def muon(
    schedule: optax.Schedule, momentum: float | jax.Array = 0.9
) -> optax.GradientTransformation:
    """Normalise each kernel, and move it by its orthogonalised Nesterov momentum.

    With the gradient g of a kernel W, both seen as matrices [k k c_in, c_out]::

        buffer = momentum * buffer + g
        direction = orthogonalize(g + momentum * buffer)
        W = sqrt(c_out) / norm(W) * W - rate * direction

    All leaves need at least two dimensions, the last one for c_out. The update is the new kernel
    minus the old one, in the dtype of the kernel. A kernel of zeros is not normalised. A gradient
    that is not finite makes its whole kernel NaN.

    Kernels of one matrix shape are stacked, so that each product is one for all of them.

    Args:
        schedule: step -> rate.
        momentum: at least 0 and under 1; it may be traced.

    Raises:
        ValueError: in `init`, a leaf with fewer than two dimensions; in `update`, no `params`.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxcifar.step.muon import muon
        >>> tx, kernel = muon(lambda step: 0.0), jnp.full((1, 1, 1, 4), 3.0)
        >>> (kernel + tx.update(kernel, tx.init(kernel), kernel)[0]).tolist()  # its norm is 2
        [[[[1.0, 1.0, 1.0, 1.0]]]]
    """

    def init(params: optax.Params) -> MuonState:
        for leaf in jax.tree.leaves(params):
            if leaf.ndim < 2:
                raise ValueError(
                    f"muon is for kernels [..., c_out], not for a leaf of shape {leaf.shape!r}: "
                    "give it to another optimizer, as make_optimizer does"
                )
        return MuonState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: optax.Updates, state: MuonState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, MuonState]:
        if params is None:
            raise ValueError("muon normalises the kernels: give them to update as params")

        def add(gradient: jax.Array, buffer: jax.Array) -> jax.Array:
            return (momentum * buffer + gradient).astype(buffer.dtype)

        buffers = jax.tree.map(add, updates, state.momentum)
        directions = jax.tree.map(add, updates, buffers)
        moves = _moves(params, directions, schedule(state.step))
        return moves, MuonState(state.step + 1, buffers)

    return optax.GradientTransformation(init, update)


def orthogonalize(matrices: jax.Array) -> jax.Array:
    """The matrices with the same singular vectors and singular values nearer to 1.

    A singular value s of a matrix divided by its Frobenius norm becomes p(p(p(s))) with the
    polynomial p of `COEFFICIENTS`: 0.7 to 1.2 from s = 0.03 on, and 41 s for the smallest. The
    products are bfloat16 with sums in float32, and float64 for float64. (Three kernels of
    2,304 x 256 took 58 ms on one core, and 64 ms all in float32.)

    Args:
        matrices: [n, rows, columns].

    Returns:
        [n, rows, columns], float32 or float64; zeros for zeros, and NaN for a matrix with a number
        that is not finite.
    """
    a, b, c = COEFFICIENTS
    x = at_least_float32(matrices)
    kind = jnp.float64 if x.dtype == jnp.float64 else jnp.bfloat16
    x, total = x / (_norms(x) + EPSILON), x.dtype
    rows, columns = x.shape[1:]
    # Of the two forms the one with the smaller square matrix.
    gram, apply = ("nij,nik->njk", "nij,njk->nik")
    if rows < columns:
        gram, apply = ("nij,nkj->nik", "nkj,nik->nij")

    def product(form: str, left: jax.Array, right: jax.Array, out: Any = kind) -> jax.Array:
        return jnp.einsum(form, left.astype(kind), right.astype(kind), preferred_element_type=out)

    identity = jnp.eye(min(rows, columns), dtype=total)
    for step in range(STEPS):
        # Everything but the products is one polynomial, and products that are only factors of
        # others are rounded at once: ResNet-18's optimizer has 292 GPU kernels, instead of 314.
        square = product(gram, x, x)
        fourth = product("nij,njk->nik", square, square, total)
        polynomial = a * identity + b * square.astype(total) + c * fourth
        x = product(apply, x, polynomial, total if step == STEPS - 1 else kind)
    return x


def is_state_of_optax(names: Iterable[str]) -> bool:
    """Whether an optimizer's state with these leaves is of optax's muon, used before."""
    return any(name.rsplit(".", 1)[-1] == "ns_coeffs" for name in names)


def _moves(params: optax.Params, directions: optax.Updates, rate: jax.Array) -> optax.Updates:
    """What to add to each kernel."""
    structure: Any
    leaves, structure = jax.tree.flatten(directions)
    kernels = structure.flatten_up_to(params)
    moves = list(leaves)
    for members in _alike(leaves):
        group = _stacked([kernels[i] for i in members])
        direction = orthogonalize(_stacked([leaves[i] for i in members]))
        for i, move in zip(members, _move(group, direction, rate), strict=True):
            moves[i] = move.reshape(leaves[i].shape).astype(kernels[i].dtype)
    return structure.unflatten(moves)


def _move(kernels: jax.Array, direction: jax.Array, rate: jax.Array) -> jax.Array:
    """The new kernels minus the old ones, [n, rows, columns]."""
    kernels = at_least_float32(kernels)
    norms = _norms(kernels)
    growth = jnp.sqrt(kernels.shape[-1]).astype(kernels.dtype) / jnp.where(norms == 0, 1, norms)
    return (growth - 1) * kernels - jnp.asarray(rate, kernels.dtype) * direction


def _norms(matrices: jax.Array) -> jax.Array:
    """The Frobenius norms, [n, 1, 1]."""
    return jnp.sqrt(jnp.sum(jnp.square(matrices), axis=(1, 2), keepdims=True))


def _alike(leaves: list[jax.Array]) -> Iterable[list[int]]:
    """The positions of the leaves, in groups of one matrix shape and dtype."""
    groups: dict[object, list[int]] = {}
    for i, leaf in enumerate(leaves):
        shape = (leaf.size // leaf.shape[-1], leaf.shape[-1], leaf.dtype)
        groups.setdefault(shape, []).append(i)
    return groups.values()


def _stacked(leaves: list[jax.Array]) -> jax.Array:
    """Kernels [..., c_out] as matrices, [n, rows, c_out]."""
    return jnp.stack([leaf.reshape(-1, leaf.shape[-1]) for leaf in leaves])
