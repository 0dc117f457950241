"""Which Parquet files hold which split, by their names, in the layouts of the Hugging Face hub.

`train-00000-of-00002.parquet`, `train.parquet` or `train/0000.parquet`, directly in a folder or in
folders of it. Each folder with such files is one configuration.
"""

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxcifar.common.errors import DataError
from jaxcifar.common.messages import escaped
from jaxcifar.data.fresh import Mark, mark
from jaxcifar.data.listing import WAY_IN

SUFFIX = ".parquet"
TRAIN, TEST, VALIDATION = "train", "test", "validation"
_NAMES_OF_VALIDATION = (VALIDATION, "val", "valid")
_KNOWN = (TRAIN, TEST, *_NAMES_OF_VALIDATION)
LAYOUT = (
    f"it must hold {TRAIN}{SUFFIX}, {TRAIN}-00000-of-00001{SUFFIX} or {TRAIN}/*{SUFFIX}, and as "
    f"much of {TEST} or {VALIDATION}"
)
_SHARD = re.compile(r"(.+?)-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?", re.ASCII | re.DOTALL)
_NUMBER_AT_END = re.compile(r"[-_.]\d+$", re.ASCII)
_DEEPEST = 3  # folders below the first: data/CONFIG/train/0000.parquet
_MAX_FILES = 10_000  # ImageNet has 300
Groups = dict[str, dict[str, list[str]]]  # configuration -> split -> names


class _Place(NamedTuple):
    """What the name of a file says.

    Attributes:
        config: the folders above it; "" for none.
        split: as it is written, in small letters if it is a known one.
        shard, of: its number and how many there are; None if the name does not say.
    """

    config: str
    split: str
    shard: int | None
    of: int | None


class Listed(NamedTuple):
    """The Parquet files below a folder.

    Attributes:
        names: their paths below it, with "/".
        marks: the folders that were listed.
    """

    names: tuple[str, ...]
    marks: tuple[Mark, ...]


def list_files(root: Path, *, follow_links: bool = False) -> Listed:
    """The Parquet files in a folder and at most three folders below; hidden ones are skipped.

    Args:
        root: an existing folder.
        follow_links: whether links to folders, and links out of the folder, are followed.

    Raises:
        DataError: a folder cannot be read, a link may not be followed, or there are too many files.
    """
    marks: list[Mark] = []
    names = []
    for name in _walk(root, root.resolve(), "", 0, follow_links, marks):
        names.append(name)
        if len(names) > _MAX_FILES:
            raise DataError(
                f"{root} has more than {_MAX_FILES:,} Parquet files; name the folder of one dataset"
            )
    return Listed(in_order(names), tuple(marks))


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sorted by name, file 2 before file 10: the order of their rows."""
    return tuple(sorted(names, key=_natural))


def _walk(
    root: Path, inside: Path, below: str, depth: int, follow_links: bool, marks: list[Mark]
) -> Iterator[str]:
    folder = root / below
    try:
        marks.append(mark(folder))
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror or error}") from None
    for entry in entries:
        name = f"{below}{entry.name}"
        is_folder = _is_folder(entry)
        if not is_folder and not entry.name.lower().endswith(SUFFIX):
            continue
        if entry.is_symlink() and not follow_links:
            leaves = not Path(os.path.realpath(entry.path)).is_relative_to(inside)
            if is_folder or leaves:
                kind = "to a folder" if is_folder else f"that leaves {root}"
                raise DataError(f"{entry.path} is a link {kind}; to follow links, {WAY_IN}")
        if not is_folder:
            yield name
        elif depth < _DEEPEST:
            yield from _walk(root, inside, f"{name}/", depth + 1, follow_links, marks)


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError as error:  # a link to itself, or through a folder that may not be entered
        raise DataError(
            f"{entry.path} cannot be read: {error.strerror or error}; remove it, or mend the link"
        ) from None


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"([0-9]+)", name)
    return [(int(part) if i % 2 else 0, part) for i, part in enumerate(parts)]


def group(names: Iterable[str]) -> Groups:
    """The files by configuration and split.

    Args:
        names: paths with "/", in the order of their rows.
    """
    groups: Groups = defaultdict(lambda: defaultdict(list))
    for name in names:
        place = _place(name)
        groups[place.config][place.split].append(name)
    return {config: dict(splits) for config, splits in groups.items()}


def _place(name: str) -> _Place:
    *folders, file = name.split("/")
    stem = file[: -len(SUFFIX)]
    shard = _SHARD.fullmatch(stem)
    if folders and (folders[-1].lower() in _KNOWN or stem.isdecimal()):
        split = folders.pop()
    else:
        split = shard[1] if shard else _NUMBER_AT_END.sub("", stem) or stem
    split = split.lower() if split.lower() in _KNOWN else split
    numbers = (int(shard[2]), int(shard[3])) if shard else (None, None)
    return _Place("/".join(folders), split, *numbers)


def choose_config(
    groups: Groups, wanted: str | None, where: str, advice: str
) -> dict[str, list[str]]:
    """The splits of one configuration: names of files by split.

    Without `wanted`, files that lie directly in the folder are taken before those in folders.

    Args:
        groups: from `group`.
        wanted: the name of the configuration; None for the only one.
        where: what messages call the folder or repository.
        advice: how one is named; "CONFIG" in it becomes the first one there is.

    Raises:
        DataError: there is no such configuration, or there are several.
    """
    if wanted is not None:
        if wanted not in groups:
            there = ", ".join(map(escaped, sorted(filter(None, groups)))) or "none"
            raise DataError(f"{where} has no configuration {wanted}; it has {there}")
        return groups[wanted]
    usable = {config: splits for config, splits in groups.items() if set(splits) & set(_KNOWN)}
    usable = usable or groups
    if "" in usable or len(usable) == 1:
        return usable.get("") or next(iter(usable.values()))
    configs = sorted(usable)
    raise DataError(
        f"{where} has the configurations {_some(configs)}; name one, as in "
        f"{advice.replace('CONFIG', configs[0])}"
    )


def choose_splits(splits: Mapping[str, Sequence[str]], where: str) -> dict[str, str]:
    """The names of "train", "test" and perhaps "validation" among the splits of a dataset.

    Without test, validation stands for it.

    Raises:
        DataError: one is missing, or two could be the validation split.
    """
    validation = _validation_name(splits, where)
    test = TEST if TEST in splits else validation
    if TRAIN not in splits or test is None:
        raise DataError(f"{where} has the splits {_some(sorted(splits))}; {LAYOUT}")
    chosen = {TRAIN: TRAIN, TEST: test}
    if test == TEST and validation is not None:
        chosen[VALIDATION] = validation
    return chosen


def choose_split(splits: Mapping[str, Sequence[str]], split: str, where: str) -> str:
    """The name of one split; for "test" that of what stands for it where there is none.

    Raises:
        DataError: there is no such split.
    """
    if split in splits:
        return split
    stands_in = split == TEST and TRAIN in splits
    validation = _validation_name(splits, where) if stands_in or split == VALIDATION else None
    if validation is not None:
        return validation
    if split == TEST and len(splits) == 1 and not set(splits) & set(_KNOWN):
        return next(iter(splits))
    raise DataError(f"{where} has no split {split}; it has the splits {_some(sorted(splits))}")


def _validation_name(splits: Iterable[str], where: str) -> str | None:
    there = [name for name in _NAMES_OF_VALIDATION if name in splits]
    if len(there) > 1:
        raise DataError(f"{where} has both {' and '.join(there)}; only one can be validated on")
    return there[0] if there else None


def check_complete(split: str, names: Sequence[str], where: str) -> None:
    """Refuse a split of which a shard is missing or is there twice.

    Raises:
        DataError: naming the shard.
    """
    places = [_place(name) for name in names]
    counts = {place.of for place in places}
    again = f"get all files of {split} again, into an empty folder"
    if counts == {None}:
        _check_numbered(split, names, where, again)
        return
    shards = sorted(place.shard for place in places if place.shard is not None)
    if len(counts) > 1 or len(set(shards)) < len(shards):
        raise DataError(f"{where} has {split} twice: {_some(names)}; {again}")
    count = counts.pop() or 0
    missing = next((i for i in range(count) if i not in shards), None)
    if missing is not None:
        raise DataError(f"{where} lacks shard {missing} of the {count} of {split}; {again}")


def _check_numbered(split: str, names: Sequence[str], where: str, again: str) -> None:
    """The hub's converted files are called 0000.parquet, 0001.parquet, ..."""
    stems = [name.split("/")[-1][: -len(SUFFIX)] for name in names]
    folders = {name.rpartition("/")[0] for name in names}
    merged = split in [stem.lower() for stem in stems]
    if merged and len(folders) > 1:  # such as train.parquet beside train/0000.parquet
        raise DataError(f"{where} has {split} twice: {_some(names)}; {again}")
    if not all(re.fullmatch(r"[0-9]{4}", stem) for stem in stems):
        return
    missing = next((i for i, stem in enumerate(sorted(stems)) if int(stem) != i), None)
    if missing is not None:
        raise DataError(f"{where} lacks file {missing:04}{SUFFIX} of {split}; {again}")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 20:,} more" if len(names) > 20 else ""
    return (", ".join(names[:20]) or "none") + more
