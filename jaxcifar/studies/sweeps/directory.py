"""The directory of a sweep: which files it holds and when it may be written.

::

    sweep.json            the recipe, the field and its values; how it runs, and why
    dropout_rate=0.1/     a run directory for each member, see `runs.directory`
    table.md
    figures/sweep.png     accuracy against the value
    .lock                 exists while a process writes the sweep
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcifar.common.errors import DataNotThereError, RunError
from jaxcifar.common.json_shape import AnyText, Shape
from jaxcifar.common.lock import hold, in_use, surely_free
from jaxcifar.common.writing import (
    is_empty,
    is_left_by_us,
    make_folder,
    remove,
    remove_at_once,
    write_atomically,
)
from jaxcifar.data import Splits
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs.description import stored_data_dir
from jaxcifar.runs.directory import RunDirectory, check_path
from jaxcifar.runs.opening import check_same_data, check_same_weights, moved_data
from jaxcifar.runs.restore import read_recipe, recipe_of_file
from jaxcifar.runs.shapes import check_shape, read_object
from jaxcifar.runs.transfer import weights_sha256
from jaxcifar.studies.sweeps.members import Member, Number, numeric_fields

DESCRIPTION: Shape = {
    "experiment": AnyText,
    "field": str,
    "values": [float],
    "recipe": dict,
    "mode": str,
    "why": str,
    "measured": (None, dict),
    "failures": {"*": str},
}


@dataclass(frozen=True)
class SweepDirectory:
    """The paths inside a sweep's directory."""

    path: Path

    @property
    def description(self) -> Path:
        """sweep.json."""
        return self.path / "sweep.json"

    @property
    def table(self) -> Path:
        """table.md."""
        return self.path / "table.md"

    @property
    def figure(self) -> Path:
        """The plot."""
        return self.path / "figures" / "sweep.png"

    def run(self, name: str) -> RunDirectory:
        """A member's run directory."""
        return RunDirectory(self.path / name)

    def holds_sweep(self) -> bool:
        """Whether a sweep was started here."""
        try:
            return isinstance(read_object(self.description).get("values"), list)
        except RunError:
            return False

    def holds_training(self) -> bool:
        """Whether a sweep was started here, and something was trained or else is to be lost."""
        return self.holds_sweep() and not self._is_untrained()

    def _is_untrained(self) -> bool:
        """Whether nothing but sweep.json and members is here in which nothing was trained."""
        if not surely_free(self.path):
            return False
        try:
            before = self.read()
            if before["failures"]:
                return False
            members = {f"{before['field']}={value}" for value in before["values"]}
            for name in os.listdir(self.path):
                path = self.path / name
                if path == self.description or is_left_by_us(name):
                    continue
                if name not in members or path.is_symlink() or not path.is_dir():
                    return False
                member = self.run(name)
                if member.holds_training() or not (member.holds_run() or is_empty(path)):
                    return False
        except (OSError, RunError):  # it cannot be read: nothing is known about it
            return False
        return True

    def check_usable(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse a directory in which a sweep cannot continue, or cannot start.

        Raises:
            RunError: naming the directory and the way out. Nothing is changed.
        """
        if resume and overwrite:
            raise RunError(
                "resume and overwrite exclude each other: continue the sweep or replace it"
            )
        if resume:
            self.read()
            check_path(self.path)
        else:
            self.check_free(overwrite=overwrite)

    def check_free(self, *, overwrite: bool) -> None:
        """Refuse a directory that holds a sweep (unless `overwrite`) or anything else.

        A sweep in which nothing was trained is free, too.

        Raises:
            RunError: naming the directory and the way out. Nothing is changed.
        """
        check_path(self.path)
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file, not a directory: choose another --workdir")
        if self.holds_sweep():
            if not overwrite and (used := in_use(self.path)):
                raise RunError(used)
            if not overwrite and self.holds_training():
                raise RunError(
                    f"{self.path} holds a sweep: continue it with resume=True (--resume), replace "
                    "it with overwrite=True (--overwrite), or choose another --workdir"
                )
        elif self.path.is_dir() and not is_empty(self.path):
            raise RunError(
                f"{self.path} is not empty and holds no sweep (no sweep.json): nothing was "
                "changed: choose another --workdir"
            )

    def lock(self) -> AbstractContextManager[None]:
        """Keep other processes from writing the sweep, see `lock.hold`."""
        return hold(self.path)

    def read(self) -> dict[str, Any]:
        """sweep.json.

        Raises:
            RunError: there is none, or it is damaged.
        """
        if not self.path.is_dir():
            raise RunError(f"there is no directory {self.path} with a sweep to resume")
        if is_empty(self.path):
            raise RunError(
                f"{self.path} is empty: no sweep was started in it; start one without --resume"
            )
        if not self.holds_sweep():
            raise RunError(f"{self.path} holds no sweep (no readable sweep.json)")
        description = read_object(self.description)
        check_shape(description, DESCRIPTION, self.description)
        # The members' directories, which `clear` removes, are named after the field and the values.
        if description["field"] not in numeric_fields():
            raise RunError(f"{self.description} is damaged: its field is no number of a recipe")
        return description

    def write(self, description: dict[str, Any]) -> None:
        """Write sweep.json, atomically."""
        make_folder(self.path)
        write_atomically(self.description, json.dumps(description, indent=2) + "\n")

    def clear(self) -> None:
        """Remove an earlier sweep's members, table and plot, and nothing else.

        sweep.json stays until it is replaced: killed at any point, the directory still counts as a
        sweep, which --overwrite and --resume can deal with.
        """
        try:
            before = self.read()
        except RunError as error:
            raise RunError(f"{error}; remove {self.path}, or choose another --workdir") from None
        for value in before["values"]:
            run_dir = self.run(f"{before['field']}={value}")
            if run_dir.holds_run():
                remove_at_once(run_dir.path)
        remove(self.table)
        remove(self.figure)


def read_sweep(
    workdir: str | Path, *, dataset: str | None = None, follow_links: bool | None = None
) -> Recipe:
    """The recipe that a sweep was started with.

    Args:
        workdir: the sweep's.
        dataset: where its data are now, if they are not where they were.
        follow_links: whether links are followed there, if not as before.

    Raises:
        RunError: not a sweep, or a damaged one.
        RecipeError: a recipe with a field this version does not know.
        DataError: the data are not there.
    """
    sweep_dir = SweepDirectory(Path(workdir))
    given = {"dataset": dataset, "follow_links": follow_links}
    values = sweep_dir.read()["recipe"] | {k: v for k, v in given.items() if v is not None}
    try:
        return recipe_of_file(values, sweep_dir.description)
    except DataNotThereError as error:
        raise error if dataset is not None else moved_data(error) from None


def stored_data_folder(workdir: str | Path) -> str | None:
    """The folder of TFDS data that the first run in a sweep was trained from, if it is there.

    Raises:
        RunError: not a sweep, or a damaged one; or config.json of that run is damaged.
    """
    sweep_dir = SweepDirectory(Path(workdir))
    before = sweep_dir.read()
    for value in before["values"]:
        run_dir = sweep_dir.run(f"{before['field']}={value}")
        if run_dir.holds_run():
            return stored_data_dir(run_dir.read_config())
    return None


def check_origin(sweep_dir: SweepDirectory, recipe: Recipe) -> None:
    """Refuse to let a sweep replace the run that its weights come from.

    Raises:
        RunError: naming the directory.
    """
    # A name on the hub looks like a path, too.
    if recipe.weights is None or not os.path.exists(recipe.weights):
        return
    # Not Path.resolve, which fails on a loop of links.
    origin = Path(os.path.realpath(recipe.weights))
    if origin.is_relative_to(os.path.realpath(sweep_dir.path)):
        raise RunError(
            f"the weights come from {recipe.weights}, inside {sweep_dir.path}: choose another "
            "--workdir"
        )


def is_finished(run_dir: RunDirectory, member: Member) -> bool:
    """Whether a run of the member's own recipe is complete, perhaps on data that lay elsewhere."""
    if not run_dir.holds_run() or run_dir.read_summary() is None:
        return False
    before = read_recipe(run_dir, dataset=member.recipe.dataset)
    return not _differences(member.recipe, before, "dataset", "follow_links", "eval_batch_size")


def check_resumable(
    sweep_dir: SweepDirectory,
    recipe: Recipe,
    name: str | None,
    field: str,
    members: Sequence[Member],
) -> dict[str, Any]:
    """sweep.json, if the sweep can continue as asked: with the same recipe (but for the size of
    the batches that are scored) and all of its values, perhaps more; and by the same name, if one
    is given.

    Raises:
        RunError: naming what differs.
    """
    before = sweep_dir.read()
    if name is not None and before["experiment"] != name:
        raise RunError(f"{sweep_dir.path} is a sweep of {before['experiment']!r}, not of {name!r}")
    if before["field"] != field:
        raise RunError(f"{sweep_dir.path} is a sweep over {before['field']}, not over {field}")
    ours, theirs = recipe.located().dataset, before["recipe"].get("dataset")
    if ours != theirs and not any(sweep_dir.run(member.name).holds_run() for member in members):
        raise RunError(
            f"{sweep_dir.path} was started with another recipe (dataset: {ours}, not {theirs}), "
            "and no run in it has recorded what its data held: name the same data, or start a "
            "sweep in another --workdir"
        )
    # Of the data given: they may lie in another place now, or be arrays, which no name finds.
    values = before["recipe"] | {"dataset": recipe.dataset, "follow_links": recipe.follow_links}
    stored = recipe_of_file(values, sweep_dir.description, recipe.dataset_info)
    differing = _differences(recipe, stored, field, "eval_batch_size")
    if differing:
        raise RunError(
            f"{sweep_dir.path} was started with another recipe ({'; '.join(differing)}): resume it "
            "without these options, or start a sweep in another --workdir"
        )
    given: list[Number] = [member.value for member in members]
    left_out = [value for value in before["values"] if value not in given]
    if left_out:
        raise RunError(
            f"{sweep_dir.path} has {field} {', '.join(map(str, left_out))}, too: name all of its "
            "values (more are welcome), or start a sweep in another --workdir"
        )
    return before


def _differences(recipe: Recipe, other: Recipe, *allowed: str) -> list[str]:
    """How a recipe differs from another one, but for the fields that may."""
    ways = tuple(f"{name}: " for name in allowed)
    return [text for text in recipe.differences(other) if not text.startswith(ways)]


def check_same_start(
    sweep_dir: SweepDirectory,
    members: Sequence[Member],
    pending: Sequence[Member],
    data: Mapping[str, Splits],
) -> None:
    """Refuse to compare members with those that were started on other data or weights.

    Raises:
        RunError: naming the member.
    """
    runs = {member.name: sweep_dir.run(member.name) for member in members}
    started = [member for member in members if runs[member.name].holds_run()]
    for member in started:
        run_dir = runs[member.name]
        back = (
            "give the same data as then, wherever they lie, or start a sweep in another --workdir"
        )
        check_same_data(run_dir, run_dir.read_config(), data[member.name], back)
    fresh = [member for member in pending if member not in started]
    if fresh and fresh[0].recipe.weights is not None:  # the others need them no more
        sha256 = weights_sha256(fresh[0].recipe.weights)
        for member in started:
            check_same_weights(runs[member.name], member.recipe.weights, sha256)
