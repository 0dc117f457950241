"""The state of a run, as arrays: exactly the contents of a checkpoint."""

import enum
import math
from collections.abc import Callable, Mapping
from functools import lru_cache, partial

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcifar.common.summaries import summary
from jaxcifar.models.names import PyTree

Adjust = Callable[[PyTree], PyTree]  # random parameters -> initial parameters


@flax.struct.dataclass
class TrainState:
    """Everything that training changes.

    Example:
        >>> import jax, optax
        >>> from jaxcifar import ResNet, start_state
        >>> images = jax.numpy.zeros((1, 8, 8, 3))
        >>> model = ResNet(stage_sizes=(), width=4, stem="cifar")
        >>> variables = model.init(jax.random.key(0), images, train=False)
        >>> state = start_state(variables, optax.sgd(0.1), seed=0)
        >>> model.apply(state.variables, images, train=False).shape
        (1, 10)
    """

    step: jax.Array  # int32 [], optimizer steps taken
    params: PyTree  # float32
    batch_stats: PyTree  # float32, BatchNorm's running mean and variance
    opt_state: optax.OptState
    key: jax.Array  # PRNG key of the run; it never changes, see `draw_key`

    @property
    def variables(self) -> dict[str, PyTree]:
        """The variables for `model.apply`."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def __repr__(self) -> str:
        """Its sizes, not its numbers; the leaves may be anything that a tree can hold."""
        return summary(
            "TrainState",
            [
                _describe_step(self.step),
                f"parameters: {_describe_leaves(self.params)}",
                f"BatchNorm statistics: {_describe_leaves(self.batch_stats)}",
                f"optimizer: {_describe_leaves(self.opt_state)}",
            ],
        )


@jax.jit
def all_finite(tree: PyTree) -> jax.Array:
    """Whether every number in every leaf is finite, bool [].

    The loss does not show it: XLA:CPU drops NaN in fused reductions (JAX 0.10: a run with NaN
    statistics reported a loss of ln 10).
    """
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


class Draw(enum.IntEnum):
    """The purposes of a run's random draws; each purpose has its own keys."""

    ORDER = 0
    AUGMENT = 1
    DROPOUT = 2


def draw_key(key: jax.Array, draw: Draw, count: jax.Array) -> jax.Array:
    """The key for one draw: of the run `key`, for a purpose, in epoch or step `count`."""
    return jax.random.fold_in(jax.random.fold_in(key, int(draw)), count)


def init_variables(model: nn.Module, key: jax.Array, image_size: int) -> dict[str, PyTree]:
    """Random `params` and fresh `batch_stats` for images of [image_size, image_size, 3].

    A network without BatchNorms has empty ones.
    """
    image = jnp.zeros((1, image_size, image_size, 3), jnp.float32)
    return {"batch_stats": {}, **model.init(key, image, train=False)}


@lru_cache(maxsize=16)
def param_shapes(model: nn.Module) -> PyTree:
    """The shapes of a model's parameters; tracing ResNet-18 for them takes 0.4 s."""
    return jax.eval_shape(lambda key: init_variables(model, key, 32), jax.random.key(0))["params"]


def init_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    *,
    seed: int,
    image_size: int,
    adjust: Adjust | None = None,
) -> TrainState:
    """The state before the first step, with random parameters, a function of the seed.

    Everything is one program: leaf by leaf, ResNet-18 took 15 s on the CPU. It runs once, so it is
    compiled with little optimisation: 4 s instead of 12.

    Args:
        tx: the optimizer.
        image_size: height and width, pixels.
        adjust: changes the random parameters, such as to another initialization.
    """
    init_key, run_key = seed_keys(seed)
    make_state = partial(new_state, model, tx, image_size, adjust=adjust)
    return quickly_compiled(make_state)(init_key, run_key)


def start_state(
    variables: Mapping[str, PyTree], tx: optax.GradientTransformation, *, seed: int
) -> TrainState:
    """The state before the first step, with a copy of the given variables.

    Args:
        variables: ``{"params", "batch_stats"}``.
        tx: the optimizer.
        seed: of the run's random draws.

    Example:
        >>> import jax, optax
        >>> from jaxcifar import start_state
        >>> variables = {"params": {"w": jax.numpy.ones(3)}, "batch_stats": {}}
        >>> state = start_state(variables, optax.sgd(0.1), seed=0)
        >>> int(state.step), state.params["w"].shape
        (0, (3,))
    """
    _, run_key = seed_keys(seed)
    return quickly_compiled(partial(state_of, tx))(dict(variables), run_key)


def state_shapes(
    model: nn.Module, tx: optax.GradientTransformation, *, image_size: int
) -> TrainState:
    """The shapes and dtypes of the arrays of `init_state`, without computing them."""
    key = jax.random.key(0)
    return jax.eval_shape(partial(new_state, model, tx, image_size), key, key)


def seed_keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """The key of the initial weights, and the key of the run."""
    init_key, run_key = jax.random.split(jax.random.key(seed))
    return init_key, run_key


def new_state(
    model: nn.Module,
    tx: optax.GradientTransformation,
    image_size: int,
    init_key: jax.Array,
    run_key: jax.Array,
    adjust: Adjust | None = None,
) -> TrainState:
    """The state before the first step, to be compiled, see `init_state`."""
    variables = init_variables(model, init_key, image_size)
    if adjust is not None:
        variables["params"] = adjust(variables["params"])
    return state_of(tx, variables, run_key)


def state_of(
    tx: optax.GradientTransformation, variables: Mapping[str, PyTree], run_key: jax.Array
) -> TrainState:
    """The state before the first step with these variables, to be compiled."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(variables["params"]),
        key=run_key,
    )


def quickly_compiled(f: Callable[..., TrainState]) -> Callable[..., TrainState]:
    """`f` compiled with little optimisation, as it runs once."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 1})


def _describe_step(step: object) -> str:
    """The step, or what is known of it: in a program it is traced, elsewhere it may be a shape."""
    known = isinstance(step, int | np.integer | np.ndarray | jax.Array)
    if known and not isinstance(step, jax.core.Tracer):
        try:
            values = np.asarray(step)
        except RuntimeError:  # training has donated it, or other processes hold parts of it
            return "step not readable: given to a later state, or held by other processes"
        if values.ndim == 0:
            return f"step {int(values):,}"
        if values.size:
            return f"steps {np.min(values):,} to {np.max(values):,} of {values.size:,} states"
    return "step not known" + (" yet" if isinstance(step, jax.core.Tracer) else "")


def _describe_leaves(tree: PyTree) -> str:
    """How many numbers a tree has, in how many leaves, and their memory; shapes have it, too."""
    leaves = jax.tree.leaves(tree)
    arrays = [leaf for leaf in leaves if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]
    numbers = sum(math.prod(leaf.shape) for leaf in arrays)
    megabytes = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in arrays) / 1e6
    if len(arrays) < len(leaves):
        return f"{len(leaves):,} leaves, {len(arrays):,} of them arrays"
    word = "leaf" if len(leaves) == 1 else "leaves"
    return f"{numbers:,} numbers in {len(leaves):,} {word}, {megabytes:,.1f} MB"
