"""Own parts of a run: what is given to `fit` instead of made from the recipe."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import optax

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.messages import shown
from jaxcifar.models.names import named_leaves
from jaxcifar.recipes.function_state import function_state
from jaxcifar.step.freeze import Labels
from jaxcifar.step.metrics import ExampleMetric
from jaxcifar.step.optimizer import for_labels
from jaxcifar.step.state import init_variables
from jaxcifar.step.steps import BatchAugment, Loss

Schedule = Callable[[Any], Any]  # step -> learning rate
Transformation = Any  # optax.GradientTransformation or Schedule; mypy does not see optax


@dataclass(frozen=True)
class Parts:
    """Parts of a run; each is None, or empty, where the recipe makes it.

    Equal ones share their compiled programs, see `state`.

    Attributes:
        model: ``(images, *, train) -> logits``.
        tx: a transformation of the gradients, or a schedule for the recipe's optimizer.
        loss: ``(logits, labels) -> [n]``.
        augment: ``(keys [n], images, labels) -> (images, labels)``, after the recipe's own.
        metrics: (name, ``(logits, labels) -> [n]``), sorted by name.
        mixes: whether `augment` turns labels [n] into distributions [n, classes].
        state: of all functions and of the model when they were given, see `function_state`: what
            was compiled before one of them changed is not used again.
    """

    model: nn.Module | None = None
    tx: Transformation | None = None
    loss: Loss | None = None
    augment: BatchAugment | None = None
    metrics: tuple[tuple[str, ExampleMetric], ...] = ()
    mixes: bool = False
    state: Hashable = None

    def __hash__(self) -> int:
        # Objects that can be called need not have a hash.
        functions = (self.tx, self.loss, self.augment, *dict(self.metrics).values())
        return hash((self.model, *map(id, functions)))

    @property
    def metric_names(self) -> tuple[str, ...]:
        """In their order."""
        return tuple(name for name, _ in self.metrics)

    @property
    def transformation(self) -> optax.GradientTransformation | None:
        """`tx`, if it is not a schedule."""
        return self.tx if isinstance(self.tx, optax.GradientTransformation) else None

    @property
    def schedule(self) -> Schedule | None:
        """`tx`, if it is a schedule."""
        return None if self.transformation is not None else self.tx

    def make_transformation(self, labels: Labels) -> optax.GradientTransformation | None:
        """`tx` for what the labels train, if it is not a schedule."""
        tx = self.transformation
        return None if tx is None else for_labels(tx, labels)


NO_PARTS = Parts()


def make_parts(
    model: nn.Module | None = None,
    tx: Transformation | None = None,
    loss: Loss | None = None,
    augment: BatchAugment | None = None,
    metrics: Mapping[str, ExampleMetric] | None = None,
) -> Parts:
    """The arguments of `fit` as one value.

    Raises:
        RecipeError: the metrics are no dict of names.
    """
    if metrics is not None and not (
        isinstance(metrics, Mapping) and all(isinstance(name, str) for name in metrics)
    ):
        raise RecipeError(f"metrics must be a dict of functions by name, not {shown(metrics)}")
    own = tuple(sorted((metrics or {}).items()))
    state = function_state((model, tx, loss, augment, *(metric for _, metric in own)))
    return Parts(model, tx, loss, augment, own, state=state)


def own_variables(model: nn.Module, image_size: int) -> dict[str, Any]:
    """The shapes of a model's variables for images of this size, in each collection.

    They depend on the image size where maps are flattened, or positions have parameters.
    """
    return jax.eval_shape(lambda key: init_variables(model, key, image_size), jax.random.key(0))


def named_shapes(tree: Any) -> dict[str, tuple[list[int], str]]:
    """Shape and dtype of every leaf, by its dotted name."""
    return {name: (list(leaf.shape), str(leaf.dtype)) for name, leaf in named_leaves(tree).items()}


def name_of(part: Callable[..., Any] | Any) -> str:
    """How messages and config.json call a function or an object: "module.name"."""
    named = part if hasattr(part, "__qualname__") else type(part)
    return f"{named.__module__}.{named.__qualname__}"
