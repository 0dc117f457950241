"""What a run will do, checked before it costs anything: data, devices, memory, weights."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxcifar.common.errors import DeviceError, RecipeError
from jaxcifar.data import Dataset, Rows, Splits
from jaxcifar.devices.compilation_cache import enable_compilation_cache
from jaxcifar.devices.layout import ONE_DEVICE, Input, Layout
from jaxcifar.devices.memory import on_host
from jaxcifar.devices.processes import DeviceOptions, explain_lost_process, make_layout
from jaxcifar.models.resnet import ResNet
from jaxcifar.recipes.own import check_augmented, check_reached, with_parts
from jaxcifar.recipes.parts import NO_PARTS, Parts, name_of
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.splits import Cut, check_side
from jaxcifar.recipes.stage import make_stage
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.opening import check_origin
from jaxcifar.runs.transfer import StartingWeights, starting_weights
from jaxcifar.step.state import state_shapes
from jaxcifar.training.cautions import warn_of_doubts
from jaxcifar.training.evaluation import too_large_somewhere
from jaxcifar.training.features import check_memory, cut_point


@dataclass(frozen=True)
class RunPlan:
    """What a run is made of.

    Attributes:
        recipe: every setting.
        splits: the data, cut by `limit_batches`.
        layout: the devices.
        input: whether the images are kept on the devices ("resident") or read from the host.
        weights: those the run starts from; None for random ones, and for a run that is resumed.
        run_dir: where it is written, or None.
        parts: the user's own.
        whole: the data before they were cut; None if they were not.
    """

    recipe: Recipe
    splits: Splits
    layout: Layout = ONE_DEVICE
    input: Input = "resident"
    weights: StartingWeights | None = None
    run_dir: RunDirectory | None = None
    parts: Parts = NO_PARTS
    whole: Splits | None = None

    @property
    def all_splits(self) -> Splits:
        """The data without `limit_batches`."""
        return self.whole or self.splits


def plan_run(
    recipe: Recipe,
    splits: Splits,
    devices: DeviceOptions | None = None,
    workdir: str | Path | None = None,
    *,
    resume: bool = False,
    parts: Parts = NO_PARTS,
) -> RunPlan:
    """Check everything that can be checked before anything is written, in this order.

    Raises:
        DeviceError, FeatureError: devices or memory that are not there.
        RunError, WeightsError, RecipeError: weights that are not available or do not fit.
    """
    devices = DeviceOptions() if devices is None else devices
    enable_compilation_cache()
    recipe = recipe.on(splits)
    check_splits(recipe, splits)
    # As the data are now: a folder that changes meanwhile does not change the length of an epoch.
    recipe = replace(recipe, info=recipe.dataset_info)
    recipe, parts = with_parts(recipe, parts)
    if parts.model is not None and not resume:
        check_reached(parts.model, recipe)
    if parts.augment is not None:
        few = splits.train.read(np.arange(min(4, len(splits.train)))).images
        check_augmented(recipe, parts, few, resume=resume)
    whole, splits = splits, limit_splits(recipe, splits)
    layout = make_layout(devices, recipe.batch_size)
    check_pmap(layout, parts)
    with explain_lost_process():
        input = choose_input(recipe, splits, devices.input, layout)
    check_stages(recipe, splits, layout, parts)
    if layout.is_main:
        warn_of_doubts(recipe, parts)
    # Before the directory is touched: weights that do not fit leave everything as it was.
    run_dir = None if workdir is None else RunDirectory(Path(workdir))
    if run_dir is not None:
        check_origin(run_dir, recipe)
    weights = None if recipe.weights is None or resume else starting_weights(recipe, splits)
    return RunPlan(recipe, splits, layout, input, weights, run_dir, parts, whole)


def limit_splits(recipe: Recipe, splits: Splits) -> Splits:
    """The images that `limit_batches` leaves of each split: evenly spaced rows, in order.

    Evenly, because the pictures of a folder lie in the order of their classes.
    """
    if recipe.limit_batches is None:
        return splits

    def cut(source: Dataset | Rows) -> Dataset | Rows:
        size = recipe.limited(len(source))
        rows = np.arange(size, dtype=np.int64) * len(source) // size
        return source if size == len(source) else Rows(source, rows)

    return replace(
        splits,
        train=cut(splits.train),
        validation=cut(splits.validation),
        test=cut(splits.test),
    )


def check_splits(recipe: Recipe, splits: Splits) -> None:
    """Refuse data that are not those of the recipe.

    Raises:
        RecipeError: with the data's values and the recipe's; or they were loaded at another side.
    """
    differing = Cut.of(splits).differences(Cut.of(recipe))
    if splits.name != recipe.dataset:
        differing.insert(0, f"dataset: {splits.name}, not {recipe.dataset}")
    if differing:
        raise RecipeError(
            f"the data are not those of the recipe ({', '.join(differing)}): load them with "
            "load_splits(recipe)"
        )
    check_side(recipe, splits)


def check_stages(
    recipe: Recipe, splits: Splits, layout: Layout = ONE_DEVICE, parts: Parts = NO_PARTS
) -> None:
    """Refuse a run that its devices cannot do.

    Raises:
        FeatureError: cached features do not fit; the message says what they need and what there is.
        DeviceError: BatchNorm groups that pmap cannot share out.
    """
    groups = recipe.batch_norm_groups
    if layout.axis_name is not None and groups > 1 and groups % layout.size:
        raise DeviceError(
            f"{groups} BatchNorm groups cannot be shared out over {layout.size} devices by pmap: "
            "use --parallel jit, or --devices that divide them"
        )
    epoch = 1
    while recipe.cache_features and epoch <= recipe.epochs:
        stage = make_stage(recipe, epoch, parts)
        assert isinstance(stage.model, ResNet)  # which alone can be cut
        cut = cut_point(stage.model, stage.labels)
        if cut is not None:
            shapes = state_shapes(stage.model, stage.tx, image_size=recipe.image_size)
            images = count_views(recipe) * len(splits.train) + len(splits.validation)
            check_memory(
                stage.model,
                shapes.variables,
                cut,
                images=images if on_host() else layout.share(images),
                image_size=recipe.image_size,
            )
        epoch = stage.last_epoch + 1


def check_pmap(layout: Layout, parts: Parts) -> None:
    """Refuse own parts that would see a device's share of a batch as the whole.

    Raises:
        DeviceError: naming the part.
    """
    if layout.axis_name is None:
        return
    if parts.augment is not None:
        raise DeviceError(
            "under pmap an augmentation of your own would mix each device's images among "
            "themselves: use --parallel jit"
        )
    if parts.model is not None and not hasattr(parts.model, "axis_name"):
        raise DeviceError(
            f"under pmap the model {name_of(parts.model)} needs a field axis_name, over which its "
            "BatchNorms and dropout see the whole batch: use --parallel jit"
        )


def choose_input(recipe: Recipe, splits: Splits, asked: Input, layout: Layout) -> Input:
    """Whether the images are kept on the devices ("resident") or read as needed ("stream").

    Raises:
        DeviceError: the input asked for is not possible.
    """
    if asked == "stream" and recipe.cache_features:
        raise DeviceError(
            "--input stream: cached features are kept on the device; use --no-cache-features"
        )
    reason = too_large_somewhere(splits.train, splits.validation, layout=layout)
    if asked == "resident" and reason is not None:
        raise DeviceError(f"--input resident: {reason}; use --input stream")
    if asked != "auto":
        return asked
    return "stream" if reason is not None and not recipe.cache_features else "resident"


def stored_views(recipe: Recipe) -> int | None:
    """How many augmentations of an image there are, or None where each epoch has a new one."""
    return None if recipe.views is None else count_views(recipe)


def count_views(recipe: Recipe) -> int:
    """Stored augmentations of an image; a run has no use for more than its epochs."""
    return min(recipe.views or 1, recipe.epochs)
