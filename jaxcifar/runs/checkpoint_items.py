"""Restore the items of a checkpoint, checked against the shapes of a target."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jaxcifar.common.errors import CheckpointError
from jaxcifar.models.names import named_leaves
from jaxcifar.step.state import TrainState

PyTree = Any


def train_item(state: TrainState) -> dict[str, PyTree]:
    """The part of a state that only resuming needs; the rest is `state.variables`."""
    return {"step": state.step, "opt_state": state.opt_state, "key": state.key}


def restore_items(
    step: Path, targets: Mapping[str, PyTree], sharding: jax.sharding.Sharding | None
) -> dict[str, PyTree]:
    """Restore items of one checkpoint.

    Args:
        step: the directory of the checkpoint.
        targets: item -> its tree, of arrays or shapes.
        sharding: of every leaf; by default the leaves are uncommitted, on the default device.

    Raises:
        CheckpointError: the item has other leaves or shapes than its target.
    """
    handler = ocp.StandardCheckpointHandler()
    restored = {}
    # Item by item: Orbax rewrites a file above them after the manifest.
    with ocp.Checkpointer(handler) as reader:
        for item, target in targets.items():
            path = step / item
            _check_fits(path, target, handler.metadata(path))
            tree = reader.restore(path, args=ocp.args.StandardRestore(_placed(target, sharding)))
            restored[item] = tree if sharding else jax.tree.map(_uncommitted, tree)
    return restored


def optimizer_leaves(step: Path) -> list[str]:
    """The names of the leaves that only resuming needs, of one checkpoint.

    Raises:
        Exception: of many kinds, where the checkpoint is damaged.
    """
    handler = ocp.StandardCheckpointHandler()
    try:
        return list(named_leaves(handler.metadata(step / "train").tree))
    finally:
        handler.close()


def _check_fits(path: Path, target: PyTree, metadata: Any) -> None:
    stored = {name: tuple(leaf.shape) for name, leaf in named_leaves(metadata.tree).items()}
    expected = {name: _stored_shape(leaf) for name, leaf in named_leaves(target).items()}
    differing = [n for n in {**expected, **stored} if stored.get(n) != expected.get(n)]
    if differing:
        name = differing[0]
        rest = f" (and {len(differing) - 1} more leaves differ)" if len(differing) > 1 else ""
        owner = "model" if path.name == "model" else "optimizer"
        raise CheckpointError(
            f"checkpoint {path.parent.name} in {path.parents[1]} does not fit the {owner}: {name} "
            f"is {stored.get(name, 'absent')} in the checkpoint and {expected.get(name, 'absent')} "
            f"in the {owner}{rest}; build it from the recipe in the run's config.json"
        )


def _placed(target: PyTree, sharding: jax.sharding.Sharding | None) -> PyTree:
    """Shapes on this process's devices, whatever devices the checkpoint was saved from."""
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), target
    )


def _uncommitted(leaf: jax.Array) -> jax.Array:
    """A copy on the default device that is not committed to it, like the leaves of a new state.

    Programs are compiled for one or the other: from committed leaves, a resumed run compiled its
    steps again in spite of the cache, and once more within the first epoch.
    """
    if _is_key(leaf):
        words = _uncommitted(jax.random.key_data(leaf))
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
    # `jnp.copy` gives it memory of its own, since the state is donated to the programs.
    return jnp.copy(jnp.asarray(np.asarray(leaf)))


def _is_key(leaf: Any) -> bool:
    return bool(jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _stored_shape(leaf: Any) -> tuple[int, ...]:
    """The shape on disk: a PRNG key is stored as its words."""
    if not _is_key(leaf):
        return tuple(leaf.shape)
    return tuple(leaf.shape) + jax.eval_shape(jax.random.key_data, leaf).shape[leaf.ndim :]
