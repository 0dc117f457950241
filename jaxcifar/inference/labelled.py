"""The labelled images that a trained network is shown: its own data, or others of its classes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jaxcifar.common.errors import DataNotThereError, RunError
from jaxcifar.common.messages import warn
from jaxcifar.data import DatasetInfo, LabelledSource, Relabelled, Splits, load_labelled
from jaxcifar.data.class_names import listed, match_classes
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.splits import Cut, check_side, load_splits
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.opening import check_same_data, moved_data
from jaxcifar.training.evaluation import SplitName

NO_DATASET = "no dataset"  # the name of that of weights without any


@dataclass(frozen=True)
class RunData:
    """The data that a run's network is shown: its own, perhaps in another place, or others."""

    run_dir: RunDirectory
    recipe: Recipe
    dataset: str | None
    data_dir: str | Path | None
    follow_links: bool
    splits: Splits | None = None

    def split(self, name: SplitName) -> LabelledSource:
        """See `TrainedNetwork.split`.

        Raises:
            DataError: the data are not there, or have other classes.
            RunError: train and validation images of other data than those it was trained on.
        """
        if self.splits is not None:
            check_same_data(self.run_dir, self.run_dir.read_config(), self.splits)
            check_side(self.recipe, self.splits)
            if name != "test":
                self._check_same_split(self.splits)
            source: LabelledSource = getattr(self.splits, name)
            return source
        try:
            return self._test() if name == "test" else getattr(self._own_splits(), name)
        except DataNotThereError as error:
            if self.dataset is not None:
                raise
            raise moved_data(error) from None

    def _check_same_split(self, splits: Splits) -> None:
        """Refuse the same images split in another way: some may have been trained on."""
        if differing := Cut.of(splits).differences(Cut.of(self.recipe)):
            raise RunError(
                f"the images of {splits.name} are split in another way than those of "
                f"{self.run_dir.path} ({', '.join(differing)}): load them with "
                "load_splits(recipe), or score the test images"
            )

    def _test(self) -> LabelledSource:
        images = _test_images(
            self.dataset or self.recipe.dataset,
            self.recipe.dataset_info.class_names,
            self.recipe.image_size,
            self.data_dir,
            self.follow_links,
            of_known=f"the run {self.run_dir.path}",
        )
        before = self.recipe.dataset_info.test
        if self.dataset is None and len(images) != before:
            warn(
                f"{self.recipe.dataset} has {len(images):,} test images now; {before:,} were there "
                f"when {self.run_dir.path} was trained"
            )
        return images

    def _own_splits(self) -> Splits:
        dataset = self.dataset or self.recipe.dataset
        recipe = replace(self.recipe, dataset=dataset, follow_links=self.follow_links)
        splits = load_splits(recipe, self.data_dir, lazy=True)
        try:
            check_same_data(self.run_dir, self.run_dir.read_config(), splits)
        except RunError as error:
            way_out = "only their test images can be scored: use --split test"
            raise RunError(*error.args, f"  {way_out}") from None
        return splits


@dataclass(frozen=True)
class WeightsData:
    """The data that the network in a file of weights is shown."""

    source: str
    info: DatasetInfo
    side: int
    data_dir: str | Path | None
    follow_links: bool

    def split(self, name: SplitName) -> LabelledSource:
        """See `TrainedNetwork.split`.

        Raises:
            DataError: the data are not there.
            RunError: not the test split: which images it was trained on is not known.
        """
        if self.info.name == NO_DATASET:
            raise RunError(f"{self.source} is shown no data: name them with --dataset")
        if name != "test":
            raise RunError(
                f"{self.source}: it is not known which images it was trained on, so there is no "
                f"{name} split; use --split test"
            )
        return _test_images(
            self.info.name,
            self.info.class_names,
            self.side,
            self.data_dir,
            self.follow_links,
            of_known=self.source,
        )


def _test_images(
    dataset: str,
    known: Sequence[str],
    side: int,
    data_dir: str | Path | None,
    follow_links: bool,
    *,
    of_known: str,
) -> LabelledSource:
    """The test images of a dataset, with labels that are positions in `known`."""
    data = load_labelled(dataset, "test", side=side, data_dir=data_dir, follow_links=follow_links)
    lookup = match_classes(known, data.class_names, of_known=of_known, of_found=dataset)
    if lookup is None:
        return data.source
    absent = [name for name in known if name not in data.class_names]
    if absent:
        warn(f"{dataset} has no images of {listed(absent)}; the other classes are matched by name")
    else:
        warn(
            f"the classes of {dataset} have another order than those of {of_known}: matched by name"
        )
    return Relabelled(data.source, lookup)
