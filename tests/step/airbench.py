"""The optimizer of airbench94_muon (Jordan 2024) by hand, in NumPy float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcifar.models.names import named_leaves

STEPS = 4
# A number is rounded by up to 2**-8 of itself, and the three steps multiply an error in a small
# singular value by up to 3.4445**3. (At most 0.042 among 50,000 matrices of ten small shapes.)
BFLOAT16 = 3.4445**3 * 2**-8


def schedule(step):
    return 0.05 / (1 + step)


def trained(tx, params, gradients):
    """The parameters after each step, and the last state."""
    params, trace = jax.tree.map(jnp.asarray, params), []
    state, update = tx.init(params), jax.jit(tx.update)
    for gradient in gradients:
        updates, state = update(gradient, state, params)
        params = optax.apply_updates(params, updates)
        trace.append({name: np.asarray(leaf) for name, leaf in named_leaves(params).items()})
    return trace, state


def p(s):
    return 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5


def orthogonalized_by_hand(matrix):
    """By the singular values: no product of the iteration is done."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    return left @ np.diag(p(p(p(values / (np.linalg.norm(matrix) + 1e-7))))) @ right


def airbench(params, gradients, momentum, rate=schedule):
    """The loop of airbench's optimizer in NumPy float64, with its kernels [c_out, k k c_in]."""
    weights = {k: np.float64(w).reshape(-1, w.shape[-1]).T for k, w in params.items()}
    buffers = {k: np.zeros_like(w) for k, w in weights.items()}
    trace = []
    for step, gradient in enumerate(gradients):
        for k, g in gradient.items():
            g = np.float64(g).reshape(-1, g.shape[-1]).T
            buffers[k] = momentum * buffers[k] + g
            g = g + momentum * buffers[k]
            weights[k] = weights[k] * len(weights[k]) ** 0.5 / np.linalg.norm(weights[k])
            weights[k] = weights[k] - rate(step) * orthogonalized_by_hand(g)
        trace.append({k: w.T.reshape(params[k].shape) for k, w in weights.items()})
    return trace
