"""Whether a run begins or continues, and with which recipe: decided before anything is planned."""

from pathlib import Path
from typing import Literal

from jaxcifar.common.errors import RunError
from jaxcifar.common.messages import shown
from jaxcifar.devices.processes import DeviceOptions, explain_lost_process, make_layout
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.extending import with_stored_schedule

Resume = bool | Literal["auto"]


def decide(
    recipe: Recipe,
    workdir: str | Path | None,
    devices: DeviceOptions | None,
    *,
    resume: Resume,
    overwrite: bool,
) -> tuple[Recipe, bool]:
    """The recipe to train by, and whether the run in `workdir` continues.

    "auto" continues a run that has trained anything; the first process decides for all of them.

    Raises:
        RunError: `resume` is another text; `resume` or `overwrite` without a directory, or "auto"
            with `overwrite`; or more epochs whose rate is not known, see
            `extending.with_stored_schedule`.
    """
    if isinstance(resume, str) and resume != "auto":
        raise RunError(f'resume must be True, False or "auto", not {shown(resume)}')
    if workdir is None and (resume or overwrite):
        given = f"resume={resume!r}" if resume else "overwrite=True"
        raise RunError(f"{given} needs a directory: name one with workdir")
    if resume == "auto":
        resume = _has_trained(recipe, workdir, devices, overwrite=overwrite)
    if resume and workdir is not None:
        recipe = with_stored_schedule(recipe, RunDirectory(Path(workdir)))
    return recipe, bool(resume)


def _has_trained(
    recipe: Recipe, workdir: str | Path | None, devices: DeviceOptions | None, *, overwrite: bool
) -> bool:
    """What "auto" means here."""
    if overwrite:
        raise RunError(
            "resume auto and overwrite exclude each other: continue the run or replace it"
        )
    assert workdir is not None
    found = RunDirectory(Path(workdir)).holds_training()
    layout = make_layout(DeviceOptions() if devices is None else devices, recipe.batch_size)
    with explain_lost_process():
        return bool(layout.agree(int(found))[0][0])


def name_of_run(workdir: str | Path) -> str | None:
    """The experiment that the run in a directory is of; None if it is not there or does not say."""
    run_dir = RunDirectory(Path(workdir))
    name: str | None = run_dir.read_config().get("experiment") if run_dir.holds_run() else None
    return name
