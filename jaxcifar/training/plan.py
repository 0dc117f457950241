"""What is refused before a run costs anything: data, devices and memory that do not fit."""

from jaxcifar.common.errors import DeviceError
from jaxcifar.data import Splits
from jaxcifar.devices.layout import ONE_DEVICE, Input, Layout
from jaxcifar.devices.memory import on_host
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.step.state import state_shapes
from jaxcifar.training.evaluation import too_large
from jaxcifar.training.features import check_memory, cut_point


def check_splits(recipe: Recipe, splits: Splits) -> None:
    """Refuse data that are not those of the recipe.

    Raises:
        ValueError: saying what was given and what is wanted.
    """
    given = (
        splits.name,
        (len(splits.train), len(splits.validation)),
        splits.seed,
        splits.stratified,
    )
    wanted = (recipe.dataset, recipe.split_sizes, recipe.split_seed, recipe.stratified)
    if given != wanted:
        raise ValueError(
            f"the data (name, sizes, seed, stratified) is {given}, the recipe wants {wanted}: "
            "load it with load_splits(recipe)"
        )


def check_stages(recipe: Recipe, splits: Splits, layout: Layout = ONE_DEVICE) -> None:
    """Refuse a run that its devices cannot do, before anything is spent on it.

    Raises:
        FeatureError: cached features do not fit, naming what they need and what there is.
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
        _, last_epoch = recipe.stage_of(epoch)
        model = recipe.make_model(epoch)
        cut = cut_point(model, recipe.make_labels(epoch))
        if cut is not None:
            shapes = state_shapes(model, recipe.make_optimizer(epoch), image_size=recipe.image_size)
            images = _views(recipe) * len(splits.train) + len(splits.validation)
            check_memory(
                model,
                shapes.variables,
                cut,
                images=images if on_host() else layout.share(images),
                image_size=recipe.image_size,
            )
        epoch = last_epoch + 1


def choose_input(recipe: Recipe, splits: Splits, wanted: Input, layout: Layout) -> Input:
    """Whether the images are kept on the devices ("resident") or read as needed ("stream").

    Raises:
        DeviceError: what is asked for cannot be.
    """
    if wanted == "stream" and recipe.cache_features:
        raise DeviceError(
            "--input stream: cached features are kept on the device; use --no-cache-features"
        )
    reason = too_large(splits.train, splits.validation, layout=layout)
    somewhere = any(too_much for (too_much,) in layout.agree(int(reason is not None)))
    if wanted == "resident" and somewhere:
        why = reason or "the images do not fit on the devices of another process"
        raise DeviceError(f"--input resident: {why}; use --input stream")
    if wanted != "auto":
        return wanted
    return "stream" if somewhere and not recipe.cache_features else "resident"


def stored_views(recipe: Recipe) -> int | None:
    """How many augmentations of an image there are, or None where each epoch has a new one."""
    return None if recipe.views is None else _views(recipe)


def _views(recipe: Recipe) -> int:
    """Stored augmentations of an image; a run has no use for more than its epochs."""
    return min(recipe.views or 1, recipe.epochs)
