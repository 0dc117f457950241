"""Datasets in Parquet files from the Hugging Face hub, by the names of their repositories.

"hf:OWNER/NAME", perhaps with "/CONFIG", "@REVISION" and the columns, as in `parquet_any`. The files
of the repository itself are used; where it has none, those that the hub has converted in its branch
`refs/convert/parquet`. They are downloaded into huggingface_hub's own cache, and only those of the
splits that are used.
"""

import re
from collections.abc import Sequence
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from jaxcifar.common.errors import DataError
from jaxcifar.common.files import is_full, is_of_disk
from jaxcifar.common.hub import import_hub, not_kept
from jaxcifar.common.messages import get_logger, printable, reason_of, warn
from jaxcifar.data import parquet_layout as layout
from jaxcifar.data.folder import MAX_NAME
from jaxcifar.data.fresh import Kept
from jaxcifar.data.parquet_any import (
    ParquetDataset,
    choose_files,
    open_dataset,
    renamed,
)
from jaxcifar.data.parquet_name import Name, parse_name

PREFIX = "hf:"
CONVERTED = "refs/convert/parquet"
_NAME = re.compile(
    r"(?P<repo>[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95})(?:/(?P<config>[^@#]+?))?"
    r"(?:@(?P<revision>[\w][\w./+-]{0,199}))?",
    re.ASCII,
)
_log = get_logger(__name__)


class _Place(NamedTuple):
    """What a name says.

    Attributes:
        name: as it was given, for messages.
        repo: "OWNER/NAME".
        config, revision: None if it has none.
        options: the columns that were asked for.
    """

    name: str
    repo: str
    config: str | None
    revision: str | None
    options: dict[str, str]

    @property
    def revisions(self) -> tuple[str | None, ...]:
        """Those to look into: the first that has Parquet files is used."""
        return (None, CONVERTED) if self.revision is None else (self.revision,)

    def copy_by_hand(self, revision: str | None) -> str:
        """How to get the data on another machine, and use them here."""
        folder = self.repo.partition("/")[2]
        at = f" --revision {revision}" if revision else ""
        here = f"parquet:{folder}" + (f"/{self.config}" if self.config else "")
        return (
            f"on a machine with access: hf download {self.repo} --repo-type dataset{at} "
            f'--include "*{layout.SUFFIX}" --local-dir {folder}; then copy the folder here and '
            f"name it {Name(here, self.options)}"
        )


class _Chosen(NamedTuple):
    """Files of a repository that are on disk.

    Attributes:
        root: the folder of one commit, which is its name.
        files: names below it by split.
    """

    root: Path
    files: dict[str, Sequence[str]]


_kept: Kept[ParquetDataset] = Kept()


def find_hub_dataset(name: str, *, split: str | None = None) -> ParquetDataset:
    """Look up "hf:OWNER/NAME" on the hub, download what is not in the local cache, and open it.

    Without a connection, what is in the local cache is used.

    Args:
        name: the dataset's.
        split: one of its splits, if only that is wanted; the others are not downloaded.

    Raises:
        DataError: the name is not valid; the repository is not there or not open to the user, or
            has no Parquet files with images and labels; or the hub cannot be reached and the files
            are not in the cache.
    """
    return _kept.keep((name, split), _find(name, split))


def known_hub_dataset(name: str) -> ParquetDataset:
    """As `find_hub_dataset`, but the hub is asked only once, unless files have changed since."""
    return _kept.get((name, None), lambda: _find(name, None))


def _find(name: str, split: str | None) -> ParquetDataset:
    place = _parse(name)
    chosen = _fetch(place, split)
    paths = {ours: [chosen.root / file for file in files] for ours, files in chosen.files.items()}
    dataset = open_dataset(name, chosen.root, paths, place.options, ())
    return renamed(dataset, name, chosen.root.name)


def _parse(name: str) -> _Place:
    if len(name) > MAX_NAME:
        raise DataError(
            f"the dataset's name has {len(name):,} characters, more than the limit of {MAX_NAME:,}"
        )
    parsed = parse_name(name)
    words = _NAME.fullmatch(parsed.place.removeprefix(PREFIX))
    parts = words and [words["repo"], words["config"] or "", words["revision"] or ""]
    if words is None or any(".." in part or "--" in part for part in parts or ()):
        raise DataError(
            f"name a dataset of the Hugging Face hub hf:OWNER/NAME, hf:OWNER/NAME/CONFIG or "
            f"hf:OWNER/NAME@REVISION, not {printable(name)!r}"
        )
    return _Place(name, words["repo"], words["config"], words["revision"], parsed.options)


def _fetch(place: _Place, split: str | None) -> _Chosen:
    try:
        hub, errors = import_hub()
    except ImportError as error:
        raise DataError(
            f"reading {place.name} from the Hugging Face hub needs the package huggingface_hub "
            f"({error}): pip install huggingface-hub, or {place.copy_by_hand(place.revision)}"
        ) from None
    try:
        return _fetch_online(hub, errors, place, split)
    except DataError:
        raise
    except errors.GatedRepoError:
        raise DataError(
            f"{place.repo} gives its files only to users that have accepted its terms: accept them "
            f"on https://huggingface.co/datasets/{place.repo}, then log in with `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise DataError(
            f"the Hugging Face hub has no dataset {place.repo}, or it is private; check the "
            "spelling, or log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise DataError(
            f"{place.repo} on the Hugging Face hub has no revision {place.revision}; check the "
            "spelling, or leave out the revision"
        ) from None
    except errors.HFValidationError as error:
        raise DataError(f"{place.name} is no valid name on the Hugging Face hub: {error}") from None
    # The library has changed its HTTP client twice, and each client has its own exceptions.
    except Exception as error:
        reason = reason_of(error)
        if is_full(error):  # what is there is a part
            raise DataError(not_kept(place.name, error)) from error
        chosen = _fetch_offline(hub, place, split, reason)
        if chosen is not None:
            _log.info("%s: the hub cannot be reached; using %s", place.name, chosen.root)
            return chosen
        if is_of_disk(error):
            raise DataError(not_kept(place.name, error)) from error
        converted = (
            f" (if it has no Parquet files of its own, add --revision {CONVERTED})"
            if place.revision is None
            else ""
        )
        raise DataError(
            f"{place.name} is not in the local cache, and the Hugging Face hub could not be "
            f"reached ({reason}); {place.copy_by_hand(place.revision)}{converted}"
        ) from error


def _fetch_online(hub: Any, errors: Any, place: _Place, split: str | None) -> _Chosen:
    for revision in place.revisions:
        try:
            info = hub.dataset_info(place.repo, revision=revision)
        except errors.RevisionNotFoundError:
            if revision != CONVERTED or place.revision is not None:
                raise
            break
        names = [file.rfilename for file in info.siblings or ()]
        files = _choose(place, names, split)
        if files is None:
            continue
        patterns = [escape(name) for several in files.values() for name in several]
        root = hub.snapshot_download(
            place.repo, repo_type="dataset", revision=revision, allow_patterns=patterns
        )
        return _Chosen(Path(root), files)
    raise DataError(
        f"{place.repo} on the Hugging Face hub has no Parquet files, nor has the hub converted it; "
        "save its images as a folder of pictures, and name that folder:PATH"
    )


def _fetch_offline(hub: Any, place: _Place, split: str | None, reason: str) -> _Chosen | None:
    """What is in the local cache, which an interrupted download leaves with a part of the files."""
    for revision in place.revisions:
        try:
            # Without patterns, newer versions refuse a cache that has not all other files, too.
            folder = hub.snapshot_download(
                place.repo,
                repo_type="dataset",
                revision=revision,
                allow_patterns=[],
                local_files_only=True,
            )
        except Exception:  # the library's own, of several kinds
            continue
        root = Path(folder)
        names = _names_of_commit(hub, place.repo, root.name)
        if names is None:
            chosen = _choose_from_part(place, root, split, reason)
        else:
            files = _choose(place, names, split)
            chosen = None if files is None else _Chosen(root, files)
        if chosen is None:
            continue
        needed = [name for several in chosen.files.values() for name in several]
        absent = [name for name in needed if not (root / name).is_file()]
        if absent:
            more = f" and {len(absent) - 1:,} more are" if len(absent) > 1 else " is"
            raise DataError(
                f"{place.name} is only partly in the local cache ({printable(absent[0])}{more} "
                f"not), and the Hugging Face hub could not be reached ({reason}); try again with a "
                f"connection, or {place.copy_by_hand(revision)}"
            )
        return chosen
    return None


def _names_of_commit(hub: Any, repo: str, commit: str) -> list[str] | None:
    """All files of a commit, where the library has kept their names, as newer versions do."""
    if not hasattr(hub, "get_cached_repo_tree"):
        return None
    try:
        tree = hub.get_cached_repo_tree(repo, repo_type="dataset", revision=commit)
    except Exception:  # an earlier version of the library made the cache
        return None
    return [file.path for file in tree]


def _choose_from_part(place: _Place, root: Path, split: str | None, reason: str) -> _Chosen | None:
    """The files of what is there, where it is not known whether that is all."""
    unknown = (
        f"the Hugging Face hub could not be reached ({reason}), and perhaps the local cache has "
        f"only a part of {place.name}"
    )
    try:
        files = _choose(place, layout.list_files(root, follow_links=True).names, split)
    except DataError as error:
        raise DataError(*error.args, f"  {unknown}: try again with a connection") from None
    if files is None:
        return None
    warn(f"{unknown}: {', '.join(f'{ours} is {names[0]}' for ours, names in files.items())}")
    return _Chosen(root, files)


def _choose(
    place: _Place, names: Sequence[str], split: str | None
) -> dict[str, Sequence[str]] | None:
    """The names of the files of each split; None if there is no Parquet file."""
    safe = layout.in_order(name for name in names if _is_safe(name))
    if not safe:
        return None
    advice = f"{PREFIX}{place.repo}/CONFIG" + (f"@{place.revision}" if place.revision else "")
    there = layout.choose_config(layout.group(safe), place.config, place.repo, advice)
    return choose_files(there, split, place.repo)


def _is_safe(name: Any) -> bool:
    """A Parquet file below the folder, whatever the hub says."""
    if not isinstance(name, str) or not name.lower().endswith(layout.SUFFIX):
        return False
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name
