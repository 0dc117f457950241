"""Runs of `muon` that were begun with optax's, which did not normalise kernels."""

from contextlib import suppress

from jaxcifar.common.errors import RunError
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs.checkpoint_items import optimizer_leaves
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.stored_steps import StoredSteps
from jaxcifar.step.muon import is_state_of_optax


def check_muon(run_dir: RunDirectory, recipe: Recipe) -> None:
    """Refuse to continue a run of muon with another muon than it was begun with.

    Its weights alone are as good as before: they can be evaluated, exported and started from.

    Raises:
        RunError: naming the run, a checkpoint and the ways out.
    """
    if recipe.optimizer != "muon":
        return
    for step in reversed(StoredSteps(run_dir.checkpoints).numbers()):
        # Of a damaged one nothing is known; it is set aside later.
        with suppress(Exception):  # Orbax raises many kinds
            if is_state_of_optax(optimizer_leaves(run_dir.checkpoints / str(step))):
                break
    else:
        return
    random = recipe.init != "kaiming" or recipe.whiten
    raise RunError(
        f"{run_dir.path} cannot be continued: optimizer muon of an earlier version trained it "
        f"(checkpoint {step}), without normalising the kernels; start anew in another --workdir, "
        f"also from its weights by --weights {run_dir.path}"
        + (" --init kaiming --no-whiten" if random else "")
    )
