"""Make a `TrainedNetwork` of a run's checkpoint, or of a file of weights."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxcifar.common.errors import RecipeError, RunError, WeightsError
from jaxcifar.common.files import Unusable, absolute_path
from jaxcifar.common.messages import did_you_mean
from jaxcifar.data import (
    DatasetInfo,
    Splits,
    located,
    shown_info,
)
from jaxcifar.data.class_names import difference_lines
from jaxcifar.devices.backend import find_devices
from jaxcifar.inference.labelled import NO_DATASET, RunData, WeightsData
from jaxcifar.inference.network import TrainedNetwork, check_size, evaluation_batch_size
from jaxcifar.models.preprocessing import Preprocessing
from jaxcifar.models.pretrained import fill_model, model_of
from jaxcifar.models.resnet import ARCHITECTURES
from jaxcifar.models.weights import WeightFile, read_weights
from jaxcifar.runs.checkpoints import Which
from jaxcifar.runs.description import ScoringSettings, class_names_of, stored_data_dir
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import restore_run
from jaxcifar.runs.transfer import preprocessing_of, run_metadata
from jaxcifar.step.augment import NORMALIZATIONS

USUAL_DATASET = "cifar10"  # whose images the network of a file of weights is shown


def load(
    source: str | Path,
    *,
    which: Which = "best",
    architecture: str | None = None,
    normalization: str | None = None,
    size: int | None = None,
    class_names: Sequence[str] | None = None,
    model: nn.Module | None = None,
    splits: Splits | None = None,
) -> TrainedNetwork:
    """A trained network from a run, a weights file, or a name on the hub.

    Nothing of the data it was trained on needs to be there.

    Args:
        source: a run directory; a `.safetensors` or `.pth` file; or "owner/name" on the Hugging
            Face hub.
        which: the checkpoint of a run: "best", "last" or a step.
        architecture, normalization, size, class_names: what a file of weights does not say itself:
            one of `resnet.ARCHITECTURES` (by default that of its keys), one of
            `augment.NORMALIZATIONS`, height and width of the input in pixels, and the names of its
            classes in order (by default numbers).
        model: the own network of a run, which was given to `fit`.
        splits: the data of a run that was trained on arrays; only `split` needs them.

    Raises:
        RunError, RecipeError, CheckpointError: the run cannot be used; or an option contradicts
            what the run or the file says.
        WeightsError: the file cannot be read or does not fit.

    Example:
        Weights of ones, in a file that does not describe itself. A run needs no more than
        ``jaxcifar.load("runs/pets")``.

        >>> import jax, jaxcifar, os, tempfile
        >>> model, images = jaxcifar.resnet18(width=1), jax.numpy.zeros((1, 8, 8, 3))
        >>> shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
        >>> ones = jax.tree.map(lambda leaf: jax.numpy.ones(leaf.shape), shapes)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = os.path.join(folder, "w.safetensors")
        ...     jaxcifar.export_weights(ones, file)
        ...     network = jaxcifar.load(file, normalization="half", size=32)
        >>> network.class_names[:3], network.image_size
        (('0', '1', '2'), 32)
    """
    options = {
        "architecture": architecture,
        "normalization": normalization,
        "size": size,
        "class_names": class_names,
    }
    given = {name: value for name, value in options.items() if value is not None}
    return network_of(source, which, given, model=model, splits=splits)


def network_of(
    source: str | Path,
    which: Which,
    options: Mapping[str, Any],
    *,
    model: nn.Module | None = None,
    splits: Splits | None = None,
    dataset: str | None = None,
    data_dir: str | Path | None = None,
    follow_links: bool = False,
) -> TrainedNetwork:
    """The network of a run or of a file, as `load`, with the data that it is shown.

    Args:
        source, which, model, splits: see `load`.
        options: those for a file of weights that were given.
        dataset, data_dir, follow_links: see `network_of_run`.

    Raises:
        RunError, RecipeError, CheckpointError, WeightsError: as `load`.
        DataError: unknown dataset of a file of weights.
    """
    if str(source).startswith("~"):  # not `Path.expanduser`, which takes ./~x for ~x
        try:
            source = absolute_path(source)
        except Unusable as error:
            raise RunError(str(error)) from None
    where: Any = {"dataset": dataset, "data_dir": data_dir, "follow_links": follow_links}
    if Path(source).is_dir():
        if options:
            raise RecipeError(
                f"{next(iter(options))} is for a file of weights: the run {source} knows its own"
            )
        return network_of_run(source, which, model=model, splits=splits, **where)
    what = "is a file of weights" if os.path.exists(source) else "is no run here"
    for name, of_a_run in (
        ("model", model is not None),
        ("splits", splits is not None),
        (f"which={which!r} (--checkpoint)", which != "best"),
    ):
        if of_a_run:
            raise RecipeError(f"{name} is for a run: {source} {what}")
    try:
        return network_of_weights(source, **options, **where)
    except WeightsError as error:
        if os.path.exists(source):
            raise
        first, *others = error.args
        raise WeightsError(f"there is no run {source}. {first}", *others) from None


def network_of_run(
    run: str | Path,
    which: Which = "best",
    data_dir: str | Path | None = None,
    *,
    dataset: str | None = None,
    follow_links: bool = False,
    model: nn.Module | None = None,
    splits: Splits | None = None,
) -> TrainedNetwork:
    """The network of a run's checkpoint.

    Args:
        run: the run directory.
        which: the checkpoint: "best", "last" or a step.
        data_dir: where TFDS keeps its data.
        dataset: where its data are now, or other data of the same classes; by default the data that
            the recipe names. They are looked for only when they are needed.
        follow_links: follow links in the folder of that dataset.
        model, splits: see `load`.

    Raises:
        RunError, RecipeError, CheckpointError: naming the part of the run that cannot be used, and
            why.
    """
    run_dir = RunDirectory(Path(run))
    config = run_dir.read_config()
    find_devices()
    recipe, network, variables = restore_run(run, which, dataset=dataset, model=model)
    info = recipe.dataset_info
    name = f"step {which}" if isinstance(which, int) else f"{which} checkpoint"
    suffix = "" if which == "best" else f"_{which}"
    if dataset is not None and located(dataset) != recipe.dataset:
        name += f", on {dataset}"
        suffix += f"_{_digest(dataset)}"
    links = recipe.follow_links or follow_links
    if dataset is None:
        data_dir = data_dir or stored_data_dir(config)
    data = RunData(run_dir, recipe, dataset, data_dir, links, splits)
    return TrainedNetwork(
        name=f"run {run_dir.path.resolve().name}, {name}",
        model=network,
        variables=variables,
        class_names=info.class_names,
        preprocessing=preprocessing_of(recipe),
        batch_size=recipe.eval_batch_size,
        mirror=recipe.test_mirror,
        metadata=run_metadata(recipe, config),
        dataset=info if dataset is None else replace(info, name=dataset),
        split=cache(data.split),
        figures=run_dir.figures,
        file_suffix=suffix,
        shift=recipe.test_shift_pixels,
        precision=recipe.precision,
    )


def _digest(dataset: str) -> str:
    """A short word for a dataset, the same however its path is spelled."""
    return f"data={hashlib.sha256(os.fsencode(located(dataset))).hexdigest()[:8]}"


def network_of_weights(
    weights: str | Path,
    *,
    architecture: str | None = None,
    normalization: str | None = None,
    size: int | None = None,
    class_names: Sequence[str] | None = None,
    dataset: str | None = USUAL_DATASET,
    data_dir: str | Path | None = None,
    follow_links: bool = False,
) -> TrainedNetwork:
    """The network in a file of weights, which decides its stem, width, head and classes.

    Args:
        weights: a `.safetensors` or `.pth` file, or "owner/name" on the Hugging Face hub.
        architecture, normalization, size, class_names: see `load`.
        dataset: its test images are shown. If the file says neither a size nor its classes, those
            of the dataset are taken, where the head has as many. None for no dataset.
        data_dir: where TFDS keeps its data.
        follow_links: follow links in the folder of the dataset.

    Raises:
        WeightsError: the file cannot be read or does not fit the architecture.
        RecipeError: the architecture or normalization is unknown, missing or not the file's.
        DataError: unknown dataset.
    """
    _check_known("architecture", architecture, ARCHITECTURES)
    _check_known("normalization", normalization, NORMALIZATIONS)
    where: Any = {"data_dir": data_dir, "follow_links": follow_links}
    info = None if dataset is None else shown_info(dataset, **where)
    file = read_weights(weights)
    find_devices()
    model = model_of(file.tensors, architecture or _architecture_of(file))
    variables, _ = fill_model(model, file.tensors, source=file.source, sha256=file.sha256)
    preprocessing = _preprocessing_of(file, normalization, size, info)
    names = _class_names_of(file, class_names, model.num_classes, info)
    if info is None:
        info = DatasetInfo(NO_DATASET, names, 0, 0, _side_of(file), (0, 0))
    elif set(info.class_names) <= set(names):
        info = replace(info, class_names=names)  # its labels are matched by name
    side = preprocessing.size
    assert side is not None
    data = WeightsData(str(weights), info, side, data_dir, follow_links)
    scoring = ScoringSettings.from_metadata(file.metadata, file.source, side)
    name, suffix = f"weights {Path(weights).name}", ""
    if dataset is not None:
        name += f", on {dataset}"
        suffix += "" if dataset == USUAL_DATASET else f"_{_digest(dataset)}"
    for option in (normalization, size):  # the network sees the same images in another way
        suffix += "" if option is None else f"_{option}"
    return TrainedNetwork(
        name=name,
        model=model.clone(dtype=jnp.dtype(scoring.dtype)),
        variables=variables,
        class_names=names,
        preprocessing=preprocessing,
        batch_size=evaluation_batch_size(side),
        mirror=scoring.mirror,
        metadata=file.metadata | {"class_names": json.dumps(names, ensure_ascii=False)},
        dataset=info,
        split=cache(data.split),
        figures=Path("figures") / f"{Path(weights).stem}-{file.sha256[:8]}",
        file_suffix=suffix,
        shift=scoring.shift,
        precision=scoring.precision,
    )


def _check_known(name: str, value: str | None, known: Iterable[str]) -> None:
    if value is not None and value not in known:
        raise RecipeError(f"unknown {name} {value!r}{did_you_mean(value, known)}")


def _architecture_of(file: WeightFile) -> str | None:
    """The architecture that the file names, if it is a known one."""
    named = file.metadata.get("arch")
    return named if named in ARCHITECTURES else None


def _side_of(file: WeightFile) -> int | None:
    """The side of the images that the network was trained on, before they were resized."""
    text = file.metadata.get("side", "")
    return int(text) if text.isdecimal() and len(text) < 6 else None


def _class_names_of(
    file: WeightFile, given: Sequence[str] | None, count: int, info: DatasetInfo | None
) -> tuple[str, ...]:
    """The names in the file, or else the given ones, or else those of the dataset, or numbers."""
    stated = class_names_of(file.metadata, file.source)
    for names, whose in ((stated, "metadata"), (given, "class_names")):
        if names is not None and len(names) != count:
            raise RecipeError(
                f"{file.source} has {count} classes, and its {whose} {len(names)} names"
            )
    if stated is not None and given is not None and tuple(given) != stated:
        raise RecipeError(
            f"{file.source} says its classes itself: leave out class_names",
            *difference_lines(stated, given, of_known="the file", of_found="class_names"),
        )
    if stated is not None or given is not None:
        return stated or tuple(given or ())
    if info is not None and info.num_classes == count:
        return info.class_names
    return tuple(map(str, range(count)))


def _preprocessing_of(
    file: WeightFile, normalization: str | None, size: int | None, info: DatasetInfo | None
) -> Preprocessing:
    """What the file states, or else the options; they must not contradict."""
    stated = Preprocessing.from_metadata(file.metadata, file.source)
    if stated is None:
        if normalization is None:
            raise RecipeError(
                f"{file.source} does not say which mean and standard deviation it was trained "
                f"with: give --normalization {', '.join(NORMALIZATIONS)} (torchvision's weights: "
                "imagenet)"
            )
        stated = Preprocessing(*NORMALIZATIONS[normalization])
    mean, std = stated.mean, stated.std
    if normalization is not None and not np.allclose(
        (mean, std), NORMALIZATIONS[normalization], atol=5e-4
    ):
        raise RecipeError(
            f"normalization {normalization}: {file.source} was trained with mean {mean}, std "
            f"{std}; leave out --normalization"
        )
    if size is not None and stated.size not in (None, size):
        raise RecipeError(
            f"size {size}: {file.source} was trained at {stated.size} pixels; leave out --size "
            "(visualize: --input-size)"
        )
    side = stated.size if size is None else size
    if side is None and info is not None:
        side = info.side
    if side is None:
        raise RecipeError(
            f"{file.source} does not say the size of the images it was trained on: give --size "
            "(visualize: --input-size), the height and width of the network's input in pixels"
        )
    check_size(side)
    return replace(stated, size=side)
