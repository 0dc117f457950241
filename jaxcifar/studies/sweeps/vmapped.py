"""The members of a sweep trained as one program: `train.fit`'s epochs, with the members in front.

Only the training steps are one program. Each member is validated by itself, by the program `fit`
has: a batch of 500 images fills the device alone, and the score is that of `evaluate`.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import jax

from jaxcifar.data import Splits
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.opening import open_run
from jaxcifar.runs.transfer import Start, starting_weights
from jaxcifar.step import metrics
from jaxcifar.step.metrics import Metrics
from jaxcifar.step.state import TrainState
from jaxcifar.studies.sweeps.measured_mode import build_members, stack
from jaxcifar.studies.sweeps.members import Member
from jaxcifar.training.progress import ProgressBar, duration
from jaxcifar.training.run import PartialEpoch, check_finite, make_row
from jaxcifar.training.stage import stage_data, stage_evaluation
from jaxcifar.training.start import first_state, restore_state


def train_together(
    field: str,
    members: Sequence[Member],
    splits: Splits,
    runs: Sequence[RunDirectory],
    *,
    experiment: str,
    verbose: bool = False,
) -> dict[str, str]:
    """Train the members to their last epoch as one program.

    Each has a run directory as `fit` leaves it after the last epoch, for `fit` to close (it scores
    the test images and writes the summary). A row's "seconds" are the member's share.

    Args:
        field: what differs.
        members: standing at the same step; of one stage.
        splits: the data of all.
        runs: a run directory for each, new or begun.
        experiment: the name in config.json.
        verbose: print a line an epoch.

    Returns:
        Member's name -> why it stopped early: its numbers were no longer finite. The others go on.
    """
    with ExitStack() as opened:
        for run in runs:
            opened.enter_context(run.lock())
        return _train(field, members, splits, runs, experiment=experiment, verbose=verbose)


def _train(
    field: str,
    members: Sequence[Member],
    splits: Splits,
    runs: Sequence[RunDirectory],
    *,
    experiment: str,
    verbose: bool,
) -> dict[str, str]:
    recipe = members[0].recipe
    states = stack(_begin(members, splits, runs, experiment))
    first_epoch = int(states.step[0]) // recipe.steps_per_epoch + 1
    data = stage_data(recipe, splits, _take(states, 0), first_epoch, verbose=verbose)

    begun = time.perf_counter()
    program = build_members(field, members, data.cut, size=len(splits.train))
    evaluation = stage_evaluation(recipe, first_epoch, data.cut, len(splits.validation))
    states = program.compile(states, data.train)
    evaluation.compile(_take(states, 0).variables, data.validation)
    if verbose:
        print(f"compiled in {time.perf_counter() - begun:.1f} s", flush=True)

    failures: dict[str, str] = {}
    with ExitStack() as opened:
        checkpoints = [opened.enter_context(Checkpoints(run.checkpoints)) for run in runs]
        for epoch in range(first_epoch, recipe.epochs + 1):
            begun = time.perf_counter()
            images = len(members) * len(splits.train)
            with ProgressBar(f"epoch {epoch}/{recipe.epochs}", images, verbose) as bar:
                states, sums = program.run(states, data.train, _pooled(bar.advance, len(members)))
                sums = jax.device_get(sums)
            seconds = time.perf_counter() - begun
            if epoch == first_epoch:
                seconds += data.seconds
            accuracies = []
            for i, member in enumerate(members):
                if member.name in failures:
                    continue
                state, of_member = _take(states, i), _of_member(sums, i)
                try:
                    schedule = member.recipe.make_schedule()
                    part = PartialEpoch(epoch, of_member)
                    check_finite(part, state, schedule, member.recipe, checkpoints[i])
                except FloatingPointError as error:
                    failures[member.name] = str(error)
                    continue
                begun = time.perf_counter()
                validated: dict[str, float | None] = {"loss": None, "accuracy": None}
                if recipe.validates(epoch):
                    sums_of = evaluation.run(state.variables, data.validation)
                    validated |= metrics.compute(sums_of)
                row = make_row(
                    member.recipe,
                    int(state.step),
                    of_member,
                    validated,
                    seconds=seconds / len(members),
                    validation_seconds=time.perf_counter() - begun,
                )
                runs[i].append_row(row)
                checkpoints[i].save(state, validation_accuracy=row["validation_accuracy"])
                accuracies.append((member, row))
            if verbose:
                left = (recipe.epochs - epoch) * seconds
                print(_epoch_line(epoch, recipe.epochs, accuracies, left), flush=True)
            if len(failures) == len(members):
                break
    return failures


def _begin(
    members: Sequence[Member], splits: Splits, runs: Sequence[RunDirectory], experiment: str
) -> list[TrainState]:
    """Open each run and bring its state: new, or from its last checkpoint."""
    # A state follows from the seed (and the weights) alone; compiling it takes seconds.
    starts: dict[int, Start] = {}
    fresh: dict[int, TrainState] = {}
    states = []
    for member, run in zip(members, runs, strict=True):
        recipe, seed, resume = member.recipe, member.recipe.seed, run.holds_run()
        # As `fit`: to go on from a checkpoint the weights need not be there any more.
        if recipe.weights is not None and not resume and seed not in starts:
            starts[seed] = starting_weights(recipe)
        start = None if resume else starts.get(seed)
        open_run(run, recipe, splits, experiment, start, resume=resume, overwrite=False)
        with Checkpoints(run.checkpoints) as checkpoints:
            if checkpoints.steps():
                state = restore_state(recipe, checkpoints)
            else:
                if seed not in fresh:
                    fresh[seed] = first_state(recipe, starts.get(seed), run, splits)
                state = fresh[seed]
        if resume:
            run.keep_history(int(state.step))
        states.append(state)
    return states


@jax.jit
def _take(states: TrainState, i: int) -> TrainState:
    return jax.tree.map(lambda leaf: leaf[i], states)


def _of_member(sums: Metrics, i: int) -> Metrics:
    return jax.tree.map(lambda leaf: leaf[i], sums)


def _pooled(
    advance: Callable[[int, Metrics], None], members: int
) -> Callable[[int, Metrics], None]:
    """One progress bar for all of them."""
    return lambda images, sums: advance(
        members * images, jax.tree.map(lambda leaf: leaf.sum(0), jax.device_get(sums))
    )


def _epoch_line(
    epoch: int, epochs: int, rows: Sequence[tuple[Member, dict[str, float | None]]], left: float
) -> str:
    shown = "  ".join(
        f"{member.value}: train {row['train_accuracy']:.4f}"
        + (
            ""
            if row["validation_accuracy"] is None
            else f" validation {row['validation_accuracy']:.4f}"
        )
        for member, row in rows
    )
    return f"epoch {epoch:>3}/{epochs}  {shown}  {duration(left)} left"
