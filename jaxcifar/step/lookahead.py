"""Lookahead: the weights return regularly to an average that follows them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax


class LookaheadState(NamedTuple):
    """The state of `lookahead`."""

    step: jax.Array  # int32 [], steps so far
    slow: optax.Params  # the average


def lookahead(steps: int, share: float, total_steps: int) -> optax.GradientTransformation:
    """Every `steps` steps, move the slow weights towards the weights, and reset these to them.

    Zhang et al. 2019 (arXiv:1907.08610), in airbench's form (Jordan 2024, arXiv:2404.00498): the
    slow weights move a fraction of the way to the weights. The fraction falls from 1 at the start
    of the run to `share` at its end, as 1 - (1 - share) * time^3. Use it as the last link of a
    chain: it changes the updates so that they end at the slow weights. (optax's own `lookahead`
    needs the weights in pairs, which the model would have to handle.)

    The periods are counted from the end of the run, so that its last step leaves the slow weights,
    up to rounding; the first period may be shorter. Between two averages, and so at the end of most
    epochs, the weights are the fast ones. A step that is skipped because it is not finite counts:
    where it would have averaged, that average is left out. BatchNorm's statistics are not averaged.

    Args:
        steps: from one average to the next.
        share: the fraction at the end, above 0 and at most 1 (1 has no effect).
        total_steps: of the run.

    Raises:
        ValueError: `steps` or `share` is out of range.
    """
    if steps < 1 or not 0 < share <= 1:
        raise ValueError(
            f"lookahead needs at least 1 step, not {steps}, and a share above 0 and at most 1, "
            f"not {share}"
        )

    def init(params: optax.Params) -> LookaheadState:
        # Copied: a program cannot be given the same buffer twice if its state is donated.
        return LookaheadState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.copy, params))

    def update(
        updates: optax.Updates, state: LookaheadState, params: optax.Params
    ) -> tuple[optax.Updates, LookaheadState]:
        count = state.step + 1
        now = (total_steps - count) % steps == 0
        part = 1 - (1 - share) * (count / total_steps) ** 3
        slow = jax.tree.map(
            lambda slow, fast, move: jnp.where(now, slow + part * (fast + move - slow), slow),
            state.slow,
            params,
            updates,
        )
        updates = jax.tree.map(
            lambda move, slow, fast: jnp.where(now, slow - fast, move), updates, slow, params
        )
        return updates, LookaheadState(count, slow)

    return optax.GradientTransformation(init, update)
