"""A run while it lasts: what it holds, and what it does around the loop of `fit`."""

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import jax
import optax

from jaxcifar.common.messages import shown
from jaxcifar.devices.layout import Layout, PyTree
from jaxcifar.devices.machine import describe_machine
from jaxcifar.devices.processes import explain_lost_process
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.history import History, Row
from jaxcifar.runs.opening import hold_directory
from jaxcifar.runs.patience import Stopped, score_to_store, stop_epoch
from jaxcifar.step import metrics
from jaxcifar.step.state import TrainState, all_finite
from jaxcifar.training.closing import make_closing_scoring, write_closing
from jaxcifar.training.disk import Disk, NoDisk
from jaxcifar.training.interruption import Interrupted, Interruption, watch_signals
from jaxcifar.training.partial import PartialEpoch
from jaxcifar.training.pieces import Allow
from jaxcifar.training.plan import RunPlan
from jaxcifar.training.progress import ProgressBar
from jaxcifar.training.stage import Stage, StageData, begin_stage
from jaxcifar.training.start import begin

_COMPLETE = "the run is complete; --resume draws it when the reason is mended"


class StopRequested(Exception):
    """A signal was heard; the `Run` holds what is done."""


class Validated(NamedTuple):
    """Scores of a validation; None in an epoch that has none."""

    loss: float | None
    accuracy: float | None
    seconds: float
    own: Mapping[str, float | None]  # the user's metrics


class Heard(NamedTuple):
    """What a process says to the others before a piece."""

    steps: int  # that it would do next
    signal_number: int  # 0 for none


@contextmanager
def open_run(
    plan: RunPlan, name: str, *, resume: bool = False, overwrite: bool = False
) -> Iterator["Run"]:
    """Hold the directory, the checkpoints and the signals for as long as a run lasts.

    Raises:
        RunError, CheckpointError: the directory cannot be used.
        Interrupted: inside, a signal was heard; what was done is saved.
    """
    with ExitStack() as opened:
        opened.enter_context(explain_lost_process())
        signals = opened.enter_context(watch_signals(announce=plan.layout.is_main))
        disk = _open_disk(plan, name, opened, resume=resume, overwrite=overwrite)
        # The state: new, or where an earlier process left it, perhaps in the middle of an epoch.
        # Nothing else may hold it: its memory goes to the next state.
        run = Run(plan, disk, signals, *begin(plan, disk, resume=resume))
        if resume and isinstance(disk, Disk):
            steps = run.partial.steps_before(plan.recipe.steps_per_epoch)
            plan.layout.on_main(partial(disk.run_dir.keep_history, steps))
            run.history = disk.run_dir.read_history()
            run.stopped = disk.stopped(plan.recipe.epochs, len(run.history.rows))
            plan.layout.on_main(partial(run.note_resumed, disk.run_dir))
        try:
            yield run
        except StopRequested:
            raise run.save_and_explain() from None


def _open_disk(
    plan: RunPlan, name: str, opened: ExitStack, *, resume: bool, overwrite: bool
) -> NoDisk:
    run_dir = plan.run_dir
    if run_dir is None:
        return NoDisk()
    # Described as they are without --limit-batches: what they are does not depend on it.
    hold = partial(
        hold_directory, run_dir, plan.recipe, plan.all_splits, name, plan.weights, plan.parts
    )
    plan.layout.on_main(lambda: opened.enter_context(hold(resume=resume, overwrite=overwrite)))
    checkpoints = opened.enter_context(Checkpoints(run_dir.checkpoints))
    if resume:
        plan.layout.on_main(checkpoints.set_damaged_aside)
    return Disk(run_dir, checkpoints)


class Run:
    """A run between two epochs, or in the middle of one.

    Attributes:
        plan: what it is made of.
        disk: where it is kept.
        state: after the last step; training donates its memory to the next state.
        history: a row for each complete epoch.
        partial: what is done of the epoch it is in.
        stopped: where and why it ended before its last epoch; None if it did not.
    """

    def __init__(
        self,
        plan: RunPlan,
        disk: NoDisk,
        signals: Interruption,
        state: TrainState,
        partial_epoch: PartialEpoch,
    ) -> None:
        """Continue where the state and the part of its epoch stand."""
        self.plan, self.disk, self.state, self.partial = plan, disk, state, partial_epoch
        self.history = History()
        self.stopped: Stopped | None = None
        self._signals = signals
        self._images: StageData | None = None  # for the stages to come
        self.allow = make_allow(plan.layout, signals)
        self._schedule = None if plan.parts.transformation else make_schedule(plan)

    def note_resumed(self, run_dir: RunDirectory) -> None:
        """Write down where it goes on, and on which machine, if anything is left to train."""
        recipe, step = self.plan.recipe, int(self.state.step)
        if self.stopped is None:
            run_dir.forget_asked_to_stop()
        if step < recipe.epochs * recipe.steps_per_epoch and not self._has_ended():
            run_dir.note_resumed(step, describe_machine())

    def remaining_epochs(self) -> Iterator[int]:
        """The epochs that are left, the first perhaps only in part.

        Raises:
            StopRequested: between two epochs.
        """
        epochs = self.plan.recipe.epochs
        for epoch in range(self.partial.epoch, epochs + 1):
            if epoch != self.partial.epoch:
                self.partial = PartialEpoch(epoch)
            if self._has_ended():
                break
            if self.allow(1) == 0:
                raise StopRequested
            yield epoch
        self.partial = PartialEpoch(epochs + 1)

    def _has_ended(self) -> bool:
        """Whether the run ends before its last epoch, after those it has trained."""
        if self.stopped is None:
            epoch = stop_epoch(self.plan.recipe, self.history.rows)
            self.stopped = None if epoch is None else Stopped(epoch, "patience")
        return self.stopped is not None

    def hear(self, answer: object) -> None:
        """Take the answer of `on_epoch` to the last epoch: that of the first process counts.

        Raises:
            TypeError: it is neither None nor "stop".
        """
        known = answer is None or (isinstance(answer, str) and answer == "stop")
        code = (answer is not None) if known else 2
        ((code,), *_) = self.plan.layout.agree(int(code))
        if code == 2:
            raise TypeError(
                f'on_epoch must return None, or "stop" to end the run, not {shown(answer)}; '
                "the epoch is saved: continue with resume=True"
            )
        epoch = len(self.history.rows)
        if code and epoch < self.plan.recipe.epochs:
            self.stopped = Stopped(epoch, "on_epoch")
            noted = partial(self.disk.note_asked_to_stop, epoch, self.plan.recipe.epochs)
            self.plan.layout.on_main(noted)

    def begin_stage(self, epoch: int, *, verbose: bool = False) -> Stage:
        """Compile the stage that `epoch` lies in; see `stage.begin_stage`."""
        stage, self.state = begin_stage(
            self.plan, self.state, epoch, images=self._images, verbose=verbose
        )
        self._images = stage.images
        self.partial = self.partial.later(stage.caching_seconds)
        return stage

    def train(self, stage: Stage, bar: ProgressBar) -> None:
        """Train to the epoch's end.

        Raises:
            StopRequested: before it; `state` and `partial` are where it stopped.
            FloatingPointError: the numbers are no longer finite.
        """
        end = self.partial.epoch * self.plan.recipe.steps_per_epoch
        if int(self.state.step) < end:  # a resumed run may stand at the end
            started = time.perf_counter()
            with bar:
                self.state, sums = stage.train(
                    self.state, bar.advance, sums=self.partial.sums, allow=self.allow
                )
            self.partial = self.partial.later(time.perf_counter() - started, sums)
        self.check_finite()  # before what is done is saved
        if int(self.state.step) < end:
            raise StopRequested

    def validate(self, stage: Stage, bar: ProgressBar | None = None) -> Validated:
        """Score the validation images, if the epoch has a validation; without a bar in one piece.

        Raises:
            StopRequested: before the end.
        """
        started = time.perf_counter()
        if not self.plan.recipe.validates(self.partial.epoch):
            own = dict.fromkeys(self.plan.parts.metric_names)
            return Validated(None, None, time.perf_counter() - started, own)
        with bar or nullcontext():
            advance = None if bar is None else bar.advance
            sums = stage.validate(self.state.variables, advance, allow=self.allow)
        self._check_not_stopped()
        scores = metrics.compute(sums)
        own = {name: scores[name] for name in self.plan.parts.metric_names}
        seconds = time.perf_counter() - started
        return Validated(scores["loss"], scores["accuracy"], seconds, own)

    def record(self, validated: Validated) -> Row:
        """Keep the epoch: its row, then its checkpoint.

        A crash between the two leaves a row too many, which resuming drops, and never one too few.
        The curves follow when both are on their way to the disk.
        """
        row = self._make_row(validated)
        self.history.rows.append(row)
        self.plan.layout.on_main(partial(self.disk.append_row, row))
        self.disk.save(
            self.state,
            validation_accuracy=validated.accuracy,
            best_score=score_to_store(self.plan.recipe, row),
        )
        if self.plan.layout.is_main:
            self.disk.update_curves()
        return row

    def _make_row(self, validated: Validated) -> Row:
        """The epoch's row of the history, see `fit`."""
        recipe, step, sums = self.plan.recipe, int(self.state.step), self.partial.known_sums
        trained = metrics.compute(sums)
        row = {
            "epoch": step // recipe.steps_per_epoch,
            "step": step,
            "learning_rate": self._rate_before(step),
            "train_loss": trained["loss"],
            "train_accuracy": trained["accuracy"],
            "validation_loss": validated.loss,
            "validation_accuracy": validated.accuracy,
            "seconds": self.partial.seconds,
            "validation_seconds": validated.seconds,
            "images_per_second": recipe.train_images / self.partial.seconds,
        }
        for metric in self.plan.parts.metric_names:
            row[f"train_{metric}"] = trained[metric]
            row[f"validation_{metric}"] = validated.own[metric]
        if recipe.log_gradient_norm:
            row["gradient_norm"] = metrics.mean_gradient_norm(sums)
        if recipe.on_nonfinite == "skip":
            row["skipped_steps"] = int(sums["nonfinite"])
        return row

    def finish(self, name: str, *, verbose: bool = False) -> None:
        """Score the test images with the best and the last checkpoint; write summary and curves.

        Nothing is done without a directory. Where the summary was written before, the curves are
        drawn if they are not there.

        Raises:
            StopRequested: before the end; the run is as it was.
        """
        disk, plan = self.disk, self.plan
        if not isinstance(disk, Disk):
            return
        if disk.is_complete(plan.recipe.epochs):
            if plan.layout.is_main:
                disk.curves.finish_if_absent(_COMPLETE)
            return
        disk.wait()
        self._images = None  # room for the test images
        scoring = make_closing_scoring(plan, plan.splits.test)
        # The first process deletes checkpoints that are superfluous: what it finds is there.
        steps = [disk.checkpoints.find(w) if plan.layout.is_main else 0 for w in ("best", "last")]
        best, last = plan.layout.agree(*steps)[0]
        scores = {}
        for step in {best, last}:
            variables = disk.checkpoints.restore_weights(
                self.state.variables, step, sharding=plan.layout.replicated
            )
            with ProgressBar(f"test, step {step}", len(plan.splits.test), verbose) as bar:
                sums = scoring.run(variables, bar.advance, allow=self.allow)
            self._check_not_stopped()
            scores[step] = {
                "step": step,
                "validation_accuracy": self._validation_accuracy(disk, step, variables),
                "test": metrics.compute(sums),
            }
        if plan.layout.is_main:
            both = {"best": scores[best], "last": scores[last]}
            write_closing(plan, disk.run_dir, name, self.state, self.history, both, self.stopped)
            disk.curves.finish(_COMPLETE)

    def _validation_accuracy(self, disk: Disk, step: int, variables: PyTree) -> float:
        """That of a checkpoint; computed now if `on_epoch` stopped after an epoch without one."""
        stored = disk.checkpoints.validation_accuracy(step)
        if stored is not None:
            return stored
        scoring = make_closing_scoring(self.plan, self.plan.splits.validation)
        sums = scoring.run(variables, allow=self.allow)
        self._check_not_stopped()
        return metrics.compute(sums)["accuracy"]

    def check_finite(self) -> None:
        """Refuse to continue from numbers that are no longer finite.

        Raises:
            FloatingPointError: with what it was, where, and what may help.
        """
        recipe, epoch = self.plan.recipe, self.partial.epoch
        step, sums = int(self.state.step), jax.device_get(self.partial.known_sums)
        skips = recipe.on_nonfinite == "skip"
        broken = [] if skips else metrics.nonfinite_names(sums)
        if skips and step == epoch * recipe.steps_per_epoch and int(sums["count"]) == 0:
            broken = ["numbers of every step of the epoch"]
        elif not broken and not all_finite(self.state.variables):
            broken = ["weights"]
        if not broken:
            return
        self.disk.wait()
        saved = self.disk.saved_steps()
        kept = f"; the last good checkpoint is that of step {saved[-1]}" if saved else ""
        advice = "start a run with a lower learning rate, a warm-up or --clip-norm"
        if not skips and broken != ["weights"]:
            advice += ", or with --on-nonfinite skip, which skips such steps"
        known = self._rate_before(step)
        rate = "" if known is None else f", learning rate {known:.3g}"
        raise FloatingPointError(
            f"the {', '.join(broken)} are not finite after step {step} "
            + f"(epoch {epoch}"
            + rate
            + f"){kept}: {advice}"
        )

    def _rate_before(self, step: int) -> float | None:
        """The learning rate of the step that led to `step`; an own optimizer's is not known."""
        return None if self._schedule is None else float(self._schedule(step - 1))

    def _check_not_stopped(self) -> None:
        if self._signals.agreed:
            raise StopRequested

    def save_and_explain(self) -> Interrupted:
        """Save what is done of the epoch; the error that ends the run says where it stands."""
        recipe, step, number = self.plan.recipe, int(self.state.step), self._signals.agreed
        done = self.partial.epoch > recipe.epochs
        doing = "scoring the test images" if done else f"in epoch {self.partial.epoch}"
        where = f"{signal.Signals(number).name} {doing}, after step {step}"
        if not isinstance(self.disk, Disk):
            return Interrupted(f"{where}; nothing was saved: the run has no directory", number)
        if step == 0:
            return Interrupted(f"{where}: nothing was trained yet; --resume starts it", number)
        if step > self.partial.steps_before(recipe.steps_per_epoch):
            self.disk.save(self.state, validation_accuracy=None, progress=self.partial.to_dict())
        self.disk.wait()
        if self.plan.layout.is_main:
            self.disk.curves.finish("what was trained is saved; continuing with --resume draws it")
        return Interrupted(f"{where}, which is saved; --resume continues from there", number)


def make_schedule(plan: RunPlan) -> optax.Schedule:
    """The learning rate by step: the recipe's, or the user's."""
    return plan.parts.schedule or plan.recipe.make_schedule()


def make_allow(layout: Layout, signals: Interruption) -> Allow:
    """Build the `Allow` of all processes: the first one's steps, until any hears a signal."""

    def allow(count: int) -> int:
        heard = [Heard(*values) for values in layout.agree(count, signals.signal_number)]
        # Kept apart from what this process has heard, which may have come meanwhile.
        signals.agreed = max(process.signal_number for process in heard)
        return 0 if signals.agreed else heard[0].steps

    return allow
