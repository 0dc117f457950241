"""The members of a sweep trained as one program: `fit`'s epochs, with the members in front.

Only the training steps are one program. Each member is validated by itself, with `fit`'s program:
a batch of 500 images fills the device alone, and the score is that of `evaluate`.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import jax

from jaxcifar.common.messages import say
from jaxcifar.data import Splits, check_readable
from jaxcifar.devices.machine import describe_machine
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.stage import make_stage
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.history import Row
from jaxcifar.runs.opening import check_not_lost, prepare_directory
from jaxcifar.runs.transfer import StartingWeights, starting_weights
from jaxcifar.step.metrics import Metrics
from jaxcifar.step.state import TrainState
from jaxcifar.studies.sweeps.directory import SweepDirectory
from jaxcifar.studies.sweeps.measured_mode import build_members, stack
from jaxcifar.studies.sweeps.members import Member
from jaxcifar.training.disk import Disk
from jaxcifar.training.interruption import Interruption
from jaxcifar.training.partial import PartialEpoch
from jaxcifar.training.plan import RunPlan, limit_splits
from jaxcifar.training.progress import ProgressBar, duration
from jaxcifar.training.run import Run
from jaxcifar.training.stage import Stage, resident_evaluation, stage_data
from jaxcifar.training.start import first_state, restore_state

Failures = dict[str, str]  # a member's name -> why it stopped: its numbers are no longer finite


def train_together(
    field: str,
    members: Sequence[Member],
    splits: Splits,
    run_dirs: Sequence[RunDirectory],
    *,
    experiment: str,
    verbose: bool = False,
) -> Failures:
    """Train the members to their last epoch as one program.

    Each has a run directory as `fit` leaves it after the last epoch, for `fit` to finish (it scores
    the test images and writes the summary). A row's "seconds" are the member's share.

    Args:
        field: the one in which they differ.
        members: at the same step, and in one stage.
        splits: the data of all.
        run_dirs: a run directory for each, new or with a run.
        experiment: the name in config.json.
        verbose: print a line an epoch.

    Returns:
        The members that stopped early, and why. The others continue.
    """
    failures: Failures = {}
    if not all(run_dir.holds_run() for run_dir in run_dirs):
        check_readable(splits.test)  # as `fit` does before it begins a run
    with ExitStack() as opened:
        for run_dir in run_dirs:
            run_dir.check_links()
            opened.enter_context(run_dir.lock())
        states = stack(_begin(members, splits, run_dirs, experiment))
        splits = limit_splits(members[0].recipe, splits)
        disks = [
            Disk(run_dir, opened.enter_context(Checkpoints(run_dir.checkpoints)))
            for run_dir in run_dirs
        ]
        together = Together(field, members, splits, states, verbose=verbose)
        recipe, scoring_seconds = members[0].recipe, 0.0
        for epoch in together.remaining_epochs():
            sums = together.train(epoch)
            rows = []
            for i, member in enumerate(members):
                if member.name in failures:
                    continue
                # A run of its own, which hears no signals; its copy of the state goes with it.
                run = Run(
                    RunPlan(member.recipe, splits, run_dir=run_dirs[i]),
                    disks[i],
                    Interruption(),
                    _take(together.states, i),
                    PartialEpoch(epoch, _of_member(sums, i), together.seconds_each),
                )
                try:
                    run.check_finite()
                except FloatingPointError as error:
                    failures[member.name] = str(error)
                    continue
                validated = run.validate(together.stage)
                rows.append((member, run.record(validated)))
            if recipe.validates(epoch):
                scoring_seconds = sum(row["validation_seconds"] for _, row in rows)
            if verbose:
                left = _seconds_left(recipe, epoch, together.seconds, scoring_seconds)
                say(_epoch_line(epoch, recipe.epochs, rows, left), flush=True)
            if len(failures) == len(members):
                break
    return failures


class Together:
    """The members' states and their one program.

    Attributes:
        states: every leaf with the members in front.
        stage: validates one member.
        seconds: of the last epoch's training, of all members.
        seconds_each: each member's share of them and, in the first epoch, of caching features.
    """

    def __init__(
        self,
        field: str,
        members: Sequence[Member],
        splits: Splits,
        states: TrainState,
        *,
        verbose: bool,
    ) -> None:
        """Bring the data to the device and compile."""
        self._members, self._recipe, self._verbose = len(members), members[0].recipe, verbose
        self.seconds = self.seconds_each = 0.0
        self._first_epoch = int(states.step[0]) // self._recipe.steps_per_epoch + 1
        parts = make_stage(self._recipe, self._first_epoch)
        data = stage_data(parts, splits, _take(states, 0), verbose=verbose)
        started = time.perf_counter()
        program = build_members(field, members, data.cut, size=len(splits.train))
        self._epoch = program.over(data.train)
        evaluation = resident_evaluation(parts, len(splits.validation), cut=data.cut)
        scoring = evaluation.over(data.validation)
        self.states = self._epoch.compile(states)
        scoring.compile(_take(self.states, 0).variables)
        if verbose:
            say(f"compiled in {time.perf_counter() - started:.1f} s", flush=True)
        self.stage = Stage(parts.last_epoch, self._epoch.run, scoring.run, data.seconds, None)
        self._images = len(members) * len(splits.train)

    def remaining_epochs(self) -> range:
        """Those that are left, of all members alike."""
        return range(self._first_epoch, self._recipe.epochs + 1)

    def train(self, epoch: int) -> Metrics:
        """Train all members for an epoch; the sums of each, [m]."""
        started = time.perf_counter()
        label = f"epoch {epoch}/{self._recipe.epochs}"
        with ProgressBar(label, self._images, self._verbose) as bar:
            self.states, sums = self._epoch.run(self.states, _pooled(bar.advance, self._members))
            sums = jax.device_get(sums)
        self.seconds = time.perf_counter() - started
        caching = self.stage.caching_seconds if epoch == self._first_epoch else 0.0
        self.seconds_each = (self.seconds + caching) / self._members
        return sums


def make_groups(members: Sequence[Member], sweep_dir: SweepDirectory) -> list[list[Member]]:
    """Members at the same step with steps left; a crash can leave them at different ones.

    One that was stopped in the middle of an epoch continues by itself.
    """
    by_step: dict[int, list[Member]] = {}
    for member in members:
        step = _last_step(sweep_dir.run(member.name))
        if step is not None:
            by_step.setdefault(step, []).append(member)
    recipe = members[0].recipe if members else None
    return [
        group
        for step, group in by_step.items()
        if len(group) > 1 and recipe and step < recipe.epochs * recipe.steps_per_epoch
    ]


def _last_step(run_dir: RunDirectory) -> int | None:
    """Where a member stands, None in the middle of an epoch.

    Raises:
        CheckpointError: it has trained, and its checkpoints are gone or all damaged.
    """
    if not run_dir.checkpoints.is_dir():
        if run_dir.holds_run():
            check_not_lost(run_dir)
        return 0
    with run_dir.lock(), Checkpoints(run_dir.checkpoints) as checkpoints:
        checkpoints.set_damaged_aside()  # before they are grouped by where they stand
        step = max(checkpoints.steps(), default=0)
        if step == 0:
            check_not_lost(run_dir)
        return None if step and checkpoints.progress(step) is not None else step


def _begin(
    members: Sequence[Member], splits: Splits, run_dirs: Sequence[RunDirectory], experiment: str
) -> list[TrainState]:
    """Open each run and bring its state: new, or from its last checkpoint."""
    # A state follows from the seed (and the weights) alone; compiling it takes seconds.
    weights: dict[int, StartingWeights] = {}
    fresh: dict[int, TrainState] = {}
    states = []
    for member, run_dir in zip(members, run_dirs, strict=True):
        recipe, seed, resume = member.recipe, member.recipe.seed, run_dir.holds_run()
        # As `fit`: to continue from a checkpoint the weights need not be there any more.
        if recipe.weights is not None and not resume and seed not in weights:
            weights[seed] = starting_weights(recipe, splits)
        own = None if resume else weights.get(seed)
        prepare_directory(run_dir, recipe, splits, experiment, own, resume=resume, overwrite=False)
        with Checkpoints(run_dir.checkpoints) as checkpoints:
            if checkpoints.steps():
                state = restore_state(recipe, checkpoints)
            else:
                if seed not in fresh:
                    used = limit_splits(recipe, splits)
                    fresh[seed] = first_state(recipe, used, weights.get(seed), run_dir)
                state = fresh[seed]
        if resume:
            run_dir.keep_history(int(state.step))
            if int(state.step) < recipe.epochs * recipe.steps_per_epoch:
                run_dir.note_resumed(int(state.step), describe_machine())
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
    """One progress bar for all members."""
    return lambda images, sums: advance(
        members * images, jax.tree.map(lambda leaf: leaf.sum(0), jax.device_get(sums))
    )


def _seconds_left(recipe: Recipe, epoch: int, training: float, scoring: float) -> float:
    """An estimate from an epoch's training and the last validation, both of all members."""
    coming = sum(map(recipe.validates, range(epoch + 1, recipe.epochs + 1)))
    return (recipe.epochs - epoch) * training + coming * scoring


def _epoch_line(epoch: int, epochs: int, rows: Sequence[tuple[Member, Row]], left: float) -> str:
    scores = "  ".join(
        f"{member.value}: train {row['train_accuracy']:.4f}"
        + (
            ""
            if row["validation_accuracy"] is None
            else f" validation {row['validation_accuracy']:.4f}"
        )
        for member, row in rows
    )
    return f"epoch {epoch:>3}/{epochs}  {scores}  {duration(left)} left"
