"""Checkpoints of a run, by Orbax: the last one and the best one by validation accuracy.

A step is two items, so that weights have a door of their own: "model" (params, batch_stats) is
enough to evaluate, with any optimizer or none; "train" (step, opt_state, key) is what resuming
needs besides. Saves run in the background and become visible all at once, when complete.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from jaxcifar.partition import named_leaves
from jaxcifar.state import TrainState

PyTree = Any
Which = Literal["best", "last"] | int
METRIC = "validation_accuracy"


class CheckpointError(ValueError):
    """A checkpoint that is missing or does not fit; the message says which and what to do."""


class Checkpoints:
    """The checkpoints in one directory. Use as a context manager: closing waits for the last save
    (Orbax loses an unfinished background save, with exit code 0).
    """

    def __init__(self, directory: str | Path, *, read_only: bool = False) -> None:
        """Open `directory`, which is made if need be (unless `read_only`)."""
        self.directory = Path(directory).absolute()  # Orbax refuses relative paths
        if read_only:
            if not self.directory.is_dir():
                raise CheckpointError(f"there are no checkpoints in {directory}")
            options = ocp.CheckpointManagerOptions(read_only=True)
        else:
            options = ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy(
                    [LatestN(1), BestN(n=1, get_metric_fn=_metric)]
                ),
                best_fn=_metric,  # without it Orbax does not write the metrics
                cleanup_tmp_directories=True,
            )
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=options,
            item_handlers={
                "model": ocp.StandardCheckpointHandler(),
                "train": ocp.StandardCheckpointHandler(),
                "metrics": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._manager.close()

    def save(self, state: TrainState, *, validation_accuracy: float | None) -> None:
        """Begin to save `state` under its step number; returns when it has been copied.

        Without a validation accuracy it can be the last checkpoint, never the best.
        """
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                model=ocp.args.StandardSave(state.variables),
                train=ocp.args.StandardSave(_training_part(state)),
            ),
            # Written in any case: a checkpoint without the file is damaged.
            metrics={METRIC: validation_accuracy},
        )

    def wait(self) -> None:
        """Wait until the last save is on the disk."""
        self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """The complete checkpoints' steps, ascending."""
        return sorted(self._manager.all_steps())

    def find(self, which: Which) -> int:
        """The step of the best, the last or a given checkpoint.

        Raises:
            CheckpointError: there is none, or not that one.
        """
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"{self.directory} holds no complete checkpoint")
        if which == "last":
            return steps[-1]
        if which == "best":
            # Of equals the later one, as Orbax's BestN keeps.
            return max(steps, key=lambda step: (_metric(self._metrics(step)), step))
        if which not in steps:
            raise CheckpointError(
                f"{self.directory} holds no checkpoint of step {which}: choose best, last, "
                f"{' or '.join(map(str, steps))}"
            )
        return which

    def validation_accuracy(self, step: int) -> float | None:
        """The validation accuracy stored with a step, if it was validated."""
        return self._metrics(step)[METRIC]

    def _metrics(self, step: int) -> dict[str, float | None]:
        with self._reading(step):
            items = ocp.args.Composite(metrics=ocp.args.JsonRestore())
            accuracy = self._manager.restore(step, args=items)["metrics"][METRIC]
            return {METRIC: None if accuracy is None else float(accuracy)}

    def restore_weights(self, target: Mapping[str, PyTree], which: Which = "best") -> PyTree:
        """``{"params", "batch_stats"}`` of one checkpoint, on the default device.

        Args:
            target: variables of the model, arrays or shapes (`jax.eval_shape`).
            which: "best", "last" or a step.

        Raises:
            CheckpointError: no such checkpoint, or one of another model.
        """
        return self._restore(self.find(which), model=target)["model"]

    def restore_state(self, target: TrainState, which: Which = "last") -> TrainState:
        """The whole state of one checkpoint, to go on training from.

        Args:
            target: a state of the same model and optimizer, arrays or shapes.
            which: "best", "last" or a step.

        Raises:
            CheckpointError: no such checkpoint, or one of another model or optimizer.
        """
        restored = self._restore(
            self.find(which), model=target.variables, train=_training_part(target)
        )
        return TrainState(**restored["model"], **restored["train"])

    @contextmanager
    def _reading(self, step: int) -> Iterator[None]:
        """Orbax and TensorStore raise many kinds of error for damaged files: make them one."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:
            reason = str(error).strip().split("\n")[0][:200]
            raise CheckpointError(
                f"checkpoint {step} in {self.directory} cannot be read ({reason}): its files are "
                f"damaged; name another of its steps, {self.steps()}"
            ) from error

    def _restore(self, step: int, **targets: PyTree) -> Any:
        """Named items of a step, checked to fit the targets' shapes."""
        with self._reading(step):
            for name, target in targets.items():
                self._check_fits(step, name, target)
            items = {name: ocp.args.StandardRestore(_placed(t)) for name, t in targets.items()}
            return self._manager.restore(step, args=ocp.args.Composite(**items))

    def _check_fits(self, step: int, item: str, target: PyTree) -> None:
        metadata = self._manager.item_metadata(step)[item]
        if metadata is None:
            raise CheckpointError(f"checkpoint {step} in {self.directory} has no item {item!r}")
        stored = {name: tuple(leaf.shape) for name, leaf in named_leaves(metadata.tree).items()}
        wanted = {name: _stored_shape(leaf) for name, leaf in named_leaves(target).items()}
        differing = [n for n in {**wanted, **stored} if stored.get(n) != wanted.get(n)]
        if differing:
            name = differing[0]
            rest = f" (and {len(differing) - 1} more leaves differ)" if len(differing) > 1 else ""
            what = "model" if item == "model" else "optimizer"
            raise CheckpointError(
                f"checkpoint {step} in {self.directory} does not fit the {what}: {name} is "
                f"{_said(stored.get(name))} in the checkpoint and {_said(wanted.get(name))} in the "
                f"{what}{rest}; build it from the recipe in the run's config.json"
            )


def _metric(metrics: Mapping[str, float | None]) -> float:
    """What checkpoints are ranked by: those that were not validated come last."""
    accuracy = metrics[METRIC]
    return -1.0 if accuracy is None else accuracy


def _training_part(state: TrainState) -> dict[str, PyTree]:
    return {"step": state.step, "opt_state": state.opt_state, "key": state.key}


def _is_key(leaf: Any) -> bool:
    return bool(jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _stored_shape(leaf: Any) -> tuple[int, ...]:
    """A PRNG key is stored as its words."""
    if not _is_key(leaf):
        return tuple(leaf.shape)
    return tuple(leaf.shape) + jax.eval_shape(jax.random.key_data, leaf).shape[leaf.ndim :]


def _placed(target: PyTree) -> PyTree:
    """Shapes on the default device, whatever devices the checkpoint was saved from."""
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), target
    )


def _said(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(shape)
