"""Weights from the Hugging Face hub (https://huggingface.co/docs/huggingface_hub).

The hub stores large files in Git LFS, which names a file by its SHA-256. The hub reports it as the
file's `etag`, and the local cache uses it as the name of its copy. So a file can be verified online
and offline.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcifar.common.digest import sha256_of
from jaxcifar.common.errors import WeightsError
from jaxcifar.common.files import Unusable, is_of_disk, read_json
from jaxcifar.common.hub import import_hub, not_kept
from jaxcifar.common.messages import get_logger, reason_of

_log = get_logger(__name__)
_FILES = ("model.safetensors", "pytorch_model.bin")
_CONFIG = "config.json"
_MAX_CONFIG = 1 << 20
_MAX_WEIGHTS = 4 << 30  # as for a local file


@dataclass(frozen=True)
class HubFile:
    """The weights of a repository, in the local cache.

    Attributes:
        path: of the file.
        name: of the file in the repository, such as "model.safetensors".
        sha256: in hex; verified against the hub's.
        config: the repository's config.json; empty if there is none.
    """

    path: Path
    name: str
    sha256: str
    config: dict[str, Any]


@dataclass(frozen=True)
class _CachedFile:
    path: Path
    name: str
    sha256: str | None  # the expected one; None if the cache could not create links
    online: bool


@dataclass(frozen=True)
class _Repository:
    """A repository, and the library to access it, which is imported only when needed."""

    hub: Any
    errors: Any
    requested: str
    name: str
    revision: str | None

    @property
    def advice(self) -> str:
        return (
            f"download {_FILES[0]} from https://huggingface.co/{self.name} on a machine with "
            "access, and pass its path"
        )


def fetch(name: str) -> HubFile:
    """The weights of "owner/repository" or "owner/repository@revision", and their config.json.

    The file is `model.safetensors` or, if there is none, `pytorch_model.bin`. Files in the local
    cache are not downloaded again, and are used if the hub cannot be reached.

    Raises:
        WeightsError: the hub's library cannot be imported, the repository or revision does not
            exist or has neither file, the hub cannot be reached and the file is not in the cache,
            or the file's SHA-256 is not the expected one.
    """
    repository = _open(name)
    file = _find(repository)
    digest = sha256_of(file.path)
    if file.sha256 is None:
        _log.warning("%s: no SHA-256 is known offline; %s was not verified", name, file.path)
    elif digest != file.sha256:
        raise WeightsError(
            f"{file.path.resolve()} has SHA-256 {digest}, but {name} on the hub has "
            f"{file.sha256}; remove the file and try again."
        )
    return HubFile(file.path, file.name, digest, _read_config(repository, file.online))


def _open(name: str) -> _Repository:
    repo, _, revision = name.partition("@")
    try:
        hub, errors = import_hub()
    except ImportError as error:
        raise WeightsError(
            f"{name} is not a file, and huggingface_hub, which is installed with jaxcifar and "
            f"reads the Hugging Face hub, cannot be imported ({error}): pip install "
            f"huggingface-hub, or download a file from https://huggingface.co/{repo} and pass its "
            "path."
        ) from None
    return _Repository(hub, errors, name, repo, revision or None)


def _find(repository: _Repository) -> _CachedFile:
    errors = repository.errors
    try:
        return _find_online(repository)
    except WeightsError:
        raise
    except errors.GatedRepoError:
        raise WeightsError(
            f"{repository.requested} gives its files only to users that have accepted its terms; "
            f"log in with `hf auth login`, or {repository.advice}."
        ) from None
    except errors.RepositoryNotFoundError:
        raise WeightsError(
            f"{repository.requested} is not a file, and the Hugging Face hub has no repository "
            f"{repository.name}, or it is private; check the spelling."
        ) from None
    except errors.RevisionNotFoundError:
        raise WeightsError(
            f"{repository.name} on the Hugging Face hub has no revision {repository.revision}; "
            "check the spelling, or leave out the revision."
        ) from None
    except errors.HFValidationError as error:
        raise WeightsError(
            f"{repository.requested} is not a file, nor a valid name on the Hugging Face hub "
            f"({error}); give the path of a file, or owner/name."
        ) from None
    # The library has changed its HTTP client twice, and each client has its own exceptions.
    except Exception as error:
        cached = _find_in_cache(repository)
        if cached is None:
            consequence = "and its weights are not in the local cache"
            raise _unreachable(repository, consequence, error) from error
        return cached


def _find_online(repository: _Repository) -> _CachedFile:
    hub, errors = repository.hub, repository.errors
    for name in _FILES:
        try:
            url = hub.hf_hub_url(repository.name, name, revision=repository.revision)
            metadata = hub.get_hf_file_metadata(url)
            size = getattr(metadata, "size", None) or 0
            if size > _MAX_WEIGHTS:
                raise WeightsError(
                    f"{name} of {repository.requested} has {size:,} bytes, more than the limit of "
                    f"{_MAX_WEIGHTS:,}: these are not the weights of a ResNet."
                )
            path = hub.hf_hub_download(repository.name, name, revision=repository.revision)
        except errors.LocalEntryNotFoundError:  # the connection was lost between the two calls
            raise
        except errors.EntryNotFoundError:
            continue
        if not _is_sha256(metadata.etag):
            raise WeightsError(
                f"The hub has no SHA-256 of {name} in {repository.requested}; {repository.advice}."
            )
        return _CachedFile(Path(path), name, metadata.etag, online=True)
    raise WeightsError(
        f"{repository.requested} on the Hugging Face hub has neither {' nor '.join(_FILES)}; "
        "download the file that has its weights, and pass its path."
    )


def _find_in_cache(repository: _Repository) -> _CachedFile | None:
    for name in _FILES:
        path = repository.hub.try_to_load_from_cache(
            repository.name, name, revision=repository.revision
        )
        if not isinstance(path, str):  # None, or a marker that the repository has no such file
            continue
        # Only the first link has that name; its target may link to a store shared between caches.
        blob = Path(os.readlink(path)).name if os.path.islink(path) else None
        return _CachedFile(Path(path), name, blob if _is_sha256(blob) else None, online=False)
    return None


def _read_config(repository: _Repository, online: bool) -> dict[str, Any]:
    """The config.json as a dictionary; empty if there is none, or offline none in the cache."""
    errors = repository.errors
    try:
        path = repository.hub.hf_hub_download(
            repository.name, _CONFIG, revision=repository.revision, local_files_only=not online
        )
    except errors.EntryNotFoundError as error:
        if online and isinstance(error, errors.LocalEntryNotFoundError):
            consequence = f"and its {_CONFIG} was not downloaded"
            raise _unreachable(repository, consequence, error) from None
        return {}
    except Exception as error:
        raise _unreachable(repository, f"and its {_CONFIG} was not downloaded", error) from error
    try:
        config = read_json(Path(path), _MAX_CONFIG)
    except Unusable:
        config = None
    if not isinstance(config, dict):
        raise WeightsError(
            f"{_CONFIG} of {repository.requested} is not a JSON object of at most {_MAX_CONFIG:,} "
            f"bytes; {repository.advice}."
        )
    return config


def _unreachable(repository: _Repository, consequence: str, error: Exception) -> WeightsError:
    if is_of_disk(error):
        return WeightsError(f"{not_kept(repository.requested, error)}.")
    return WeightsError(
        f"{repository.requested} is not a file, the Hugging Face hub could not be reached "
        f"({reason_of(error)}), {consequence}; {repository.advice}."
    )


def _is_sha256(text: str | None) -> bool:
    return text is not None and re.fullmatch("[0-9a-f]{64}", text) is not None
