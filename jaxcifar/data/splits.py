"""The splits of a dataset: what to train on, to make choices by, and to report."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxcifar.common.summaries import name_list, shortened, summary
from jaxcifar.data.arrays import Pair, read_arrays
from jaxcifar.data.dataset import Dataset, LabelledSource, Rows, images_in_words, kind_in_words
from jaxcifar.data.info import DatasetInfo, warn_absent


@dataclass(frozen=True, eq=False)
class Splits:
    """A dataset split into data to train on, to make choices by, and to report.

    Each split is a `Dataset`, or `Rows` if it was loaded lazily. Both have `labels` and `side`,
    `read(rows)`, and `load()`, which brings all of it into memory.

    Attributes:
        name: the name it was loaded by.
        class_names: one name per label, in label order.
        train, validation: disjoint rows of the official training data; or validation of a split of
            its own, if the dataset has one besides train and test.
        test: the official test data, complete.
        fingerprint: SHA-256 (hex) of the contents of the source data, before any split; of arrays,
            of the three splits as they are.
        seed, stratified: how the rows of train and validation were chosen.
        names_and_sizes: the fingerprint of the user's own data as earlier versions computed it,
            which runs have recorded; None if it is the same as today's, or if earlier versions
            used other images.
        data_dir: absolute path of the folder of TFDS data that it was found in, if it is such data.
        info: what a recipe must know of the data, if they are arrays (see `from_arrays`); None for
            data that have a name to look them up by.
        revision: the commit that it was read from, if it is from the Hugging Face hub.

    Example:
        >>> from jaxcifar import load_dataset
        >>> splits = load_dataset("digits", split=(120, 40))
        >>> len(splits.train), len(splits.validation), len(splits.test)
        (120, 40, 360)
        >>> splits.class_names[:3]
        ('0', '1', '2')
    """

    name: str
    class_names: tuple[str, ...]
    train: Dataset | Rows
    validation: Dataset | Rows
    test: Dataset | Rows
    fingerprint: str
    seed: int = 0
    stratified: bool = False
    names_and_sizes: str | None = None
    data_dir: str | None = None
    revision: str | None = None
    info: DatasetInfo | None = None

    @classmethod
    def from_arrays(
        cls,
        train: Pair,
        validation: Pair | int | None = None,
        test: Pair | None = None,
        *,
        class_names: Sequence[str] | None = None,
        name: str | None = None,
        seed: int = 0,
        stratified: bool = False,
    ) -> "Splits":
        """Splits of images and labels that are in memory, from any source.

        Images are uint8 in 0..255, or floats in [0, 1] that are not normalised (training normalises
        them): RGB `[n, h, w, 3]`, or gray `[n, h, w]` or `[n, h, w, 1]`; all of one size, and
        square. They may be whatever `numpy.asarray` takes: NumPy and JAX arrays, torch tensors on
        the CPU, lists. They are copied, and kept as uint8 `[n, h, w, 3]` as all images are here:
        floats are rounded to the nearest of 256 levels, gray is repeated three times.

        Args:
            train: images and labels. Labels are integers `[n]` from 0 on; or class names, if these
                are given.
            validation: images and labels; or how many of the training images to take for it; by
                default a fifth of them.
            test: images and labels. Without them, the validation images stand for the test data, so
                the test score is of images by which choices were made.
            class_names: one name per label, in label order; by default "0", "1", ... up to the
                largest label.
            name: what to call the data; the result's name is "arrays", or "arrays:NAME".
            seed, stratified: how validation images are taken, as in `data.split_indices`.

        Warns of classes that have no image to train or to validate on.

        Returns:
            Splits with an `info` for the recipe, whose fingerprint is of the images, labels and
            class names of the three splits: the same for uint8 as for the same images as floats.

        Raises:
            DataError: naming the split, the first rows and their values, what was expected, and the
                way out.

        Example:
            >>> import numpy as np
            >>> from jaxcifar import Splits
            >>> images = np.random.default_rng(0).random((50, 8, 8))
            >>> splits = Splits.from_arrays((images, np.arange(50) % 2), class_names=["cat", "dog"])
            >>> splits.name, splits.train.images.shape, len(splits.validation)
            ('arrays', (40, 8, 8, 3), 10)
        """
        arrays = read_arrays(
            {"train": train, "validation": validation, "test": test},
            class_names=class_names,
            name=name,
            seed=seed,
            stratified=stratified,
        )
        sources = {split: Dataset(*part) for split, part in arrays.parts.items()}
        warn_absent(
            arrays.info,
            {"training": sources["train"].labels, "validation": sources["validation"].labels},
            advice="use more images, or stratified=True",
            whole=("training", "validation") if isinstance(validation, tuple | list) else (),
            stacklevel=2,
        )
        return cls(
            name=arrays.info.name,
            class_names=arrays.info.class_names,
            train=sources["train"],
            validation=sources["validation"],
            test=sources.get("test", sources["validation"]),
            fingerprint=arrays.fingerprint,
            seed=seed,
            stratified=stratified,
            info=arrays.info,
        )

    def __repr__(self) -> str:
        train, validation = f"{len(self.train):,} train", f"{len(self.validation):,} validation"
        rows = f"seed {shortened(self.seed, 20)}" + (", stratified" if self.stratified else "")
        return summary(
            "Splits",
            [
                f"{train}, {validation}, {images_in_words(self.test, 'test ')}",
                _classes(self.class_names),
                rows,
                _fingerprint(self.fingerprint),
            ],
            name=self.name,
        )


class LazyText:
    """A field of a dataclass: a text, or a function that returns it and is called once."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, owner: object | None, kind: type) -> str:
        if owner is None:
            raise AttributeError(self._name)  # the field has no default
        value = vars(owner)[self._name]
        if not isinstance(value, str):
            value = vars(owner)[self._name] = value()
        return value

    def __set__(self, owner: object, value: str | Callable[[], str]) -> None:
        vars(owner)[self._name] = value


@dataclass(frozen=True, eq=False)
class LabelledData:
    """Images with labels that are scored, not trained on.

    Attributes:
        name: the dataset's.
        class_names: one name per label, in label order.
        source: the images, read when they are asked for.
        fingerprint: SHA-256 (hex) of the contents: of a folder, Parquet files and hub data, of this
            split; of other datasets, as in `Splits`. It may be given as a function, which is called
            when it is first asked for, also by `dataclasses.replace`: reading all files takes long,
            and raises DataError for one that cannot be read.
    """

    name: str
    class_names: tuple[str, ...]
    source: LabelledSource
    fingerprint: LazyText = LazyText()

    def __repr__(self) -> str:
        known = vars(self)["fingerprint"]
        return summary(
            "LabelledData",
            [
                images_in_words(self.source),
                _classes(self.class_names),
                f"from {kind_in_words(self.source)}",
                *([_fingerprint(known)] if isinstance(known, str) else []),
            ],
            name=self.name,
        )


def _classes(names: tuple[str, ...]) -> str:
    return f"{len(names):,} classes: {name_list(names, 70)}"


def _fingerprint(digest: str) -> str:
    return f"fingerprint {shortened(digest[:12], 40)}..."
