"""Weights from the Hugging Face hub (https://huggingface.co/docs/huggingface_hub).

The hub keeps large files in Git LFS, whose name for a file is its SHA-256: the hub answers a
question about the file with it (`etag`), and the local cache names its copy by it. So a file is
checked whether or not the hub can be reached.
"""

import importlib
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxcifar.common.digest import sha256_of
from jaxcifar.common.errors import WeightsError
from jaxcifar.common.files import Unusable, read_json
from jaxcifar.common.messages import printable

_log = logging.getLogger(__name__)
_FILES = ("model.safetensors", "pytorch_model.bin")
_CONFIG = "config.json"
_MOST_CONFIG = 1 << 20
_MOST_WEIGHTS = 4 << 30  # as of a local file


@dataclass(frozen=True)
class HubFile:
    """A repository's weights in the local cache.

    Attributes:
      path: the file.
      name: its name in the repository, such as "model.safetensors".
      sha256: its SHA-256 in hex, which is the one that the hub has for it.
      config: the repository's config.json; empty if there is none.
    """

    path: Path
    name: str
    sha256: str
    config: dict[str, Any]


@dataclass(frozen=True)
class _Found:
    path: Path
    name: str
    sha256: str | None  # what it should be; None where the cache could not make links
    online: bool


@dataclass(frozen=True)
class _Repository:
    """One repository seen through the library, which is not imported before it is needed."""

    hub: Any
    errors: Any
    given: str
    name: str
    revision: str | None

    @property
    def way_out(self) -> str:
        return (
            f"download {_FILES[0]} from https://huggingface.co/{self.name} where that works, and "
            "pass its path"
        )


def fetch(name: str) -> HubFile:
    """The weights of "owner/repository" or "owner/repository@revision", and their config.json.

    `model.safetensors` is taken, else `pytorch_model.bin`; from the local cache when they are in
    it, and also if the hub cannot be reached.

    Raises:
      WeightsError: the library is missing, there is no such repository or revision, it has neither
        file, the hub cannot be reached and the cache does not help, or the file has another
        SHA-256 than it should have.
    """
    repository = _open(name)
    found = _find(repository)
    digest = sha256_of(found.path)
    if found.sha256 is None:
        _log.warning("%s: no SHA-256 is known offline; %s was not checked", name, found.path)
    elif digest != found.sha256:
        raise WeightsError(
            f"{found.path.resolve()} has SHA-256 {digest}, where {name} on the hub has "
            f"{found.sha256}: remove the file and try again."
        )
    return HubFile(found.path, found.name, digest, _read_config(repository, found.online))


def _open(name: str) -> _Repository:
    repo, _, revision = name.partition("@")
    try:
        hub = importlib.import_module("huggingface_hub")
        errors = importlib.import_module("huggingface_hub.errors")
    except ImportError as error:
        raise WeightsError(
            f"{name} is no file here, and taking it for a repository of the Hugging Face hub needs "
            f"the package huggingface_hub ({error}): pip install 'jaxcifar[hub]', or download a "
            f"file from https://huggingface.co/{repo} and pass its path."
        ) from None
    return _Repository(hub, errors, name, repo, revision or None)


def _find(repository: _Repository) -> _Found:
    errors = repository.errors
    try:
        return _find_online(repository)
    except WeightsError:
        raise
    except errors.GatedRepoError:
        raise WeightsError(
            f"{repository.given} gives its files only to users that have accepted its terms: log "
            f"in with `hf auth login`, or {repository.way_out}."
        ) from None
    except errors.RepositoryNotFoundError:
        raise WeightsError(
            f"{repository.given} is no file here, and the Hugging Face hub has no repository "
            f"{repository.name} (or keeps it private): check the spelling."
        ) from None
    except errors.RevisionNotFoundError:
        raise WeightsError(
            f"{repository.name} on the Hugging Face hub has no revision {repository.revision}."
        ) from None
    except errors.HFValidationError as error:
        raise WeightsError(
            f"{repository.given} is no file here, and no name on the Hugging Face hub ({error})."
        ) from None
    # The library's HTTP client has changed twice, and each has its own exceptions.
    except Exception as error:
        found = _find_in_cache(repository)
        if found is None:
            so = "and its weights are not in the local cache"
            raise _unreachable(repository, so, error) from error
        return found


def _find_online(repository: _Repository) -> _Found:
    hub, errors = repository.hub, repository.errors
    for name in _FILES:
        try:
            url = hub.hf_hub_url(repository.name, name, revision=repository.revision)
            about = hub.get_hf_file_metadata(url)
            size = getattr(about, "size", None) or 0
            if size > _MOST_WEIGHTS:
                raise WeightsError(
                    f"{name} of {repository.given} has {size:,} bytes, where at most "
                    f"{_MOST_WEIGHTS:,} are read: these are not the weights of a ResNet."
                )
            path = hub.hf_hub_download(repository.name, name, revision=repository.revision)
        except errors.LocalEntryNotFoundError:  # the hub went out of reach between the two
            raise
        except errors.EntryNotFoundError:
            continue
        if not _is_sha256(about.etag):
            raise WeightsError(
                f"The hub has no SHA-256 of {name} in {repository.given}: {repository.way_out}."
            )
        return _Found(Path(path), name, about.etag, online=True)
    raise WeightsError(
        f"{repository.given} on the Hugging Face hub has neither {' nor '.join(_FILES)}: download "
        "the file that has its weights, and pass its path."
    )


def _find_in_cache(repository: _Repository) -> _Found | None:
    for name in _FILES:
        path = repository.hub.try_to_load_from_cache(
            repository.name, name, revision=repository.revision
        )
        if not isinstance(path, str):  # None, or a mark that the repository has no such file
            continue
        # One link only: the file of that name may be a link in turn, to a store of all caches.
        blob = Path(os.readlink(path)).name if os.path.islink(path) else None
        return _Found(Path(path), name, blob if _is_sha256(blob) else None, online=False)
    return None


def _read_config(repository: _Repository, online: bool) -> dict[str, Any]:
    """The config.json as a dictionary; empty where there is none, or none that is at hand."""
    errors = repository.errors
    try:
        path = repository.hub.hf_hub_download(
            repository.name, _CONFIG, revision=repository.revision, local_files_only=not online
        )
    except errors.EntryNotFoundError as error:
        if online and isinstance(error, errors.LocalEntryNotFoundError):
            raise _unreachable(repository, f"and its {_CONFIG} was not fetched", error) from None
        return {}
    except Exception as error:
        raise _unreachable(repository, f"and its {_CONFIG} was not fetched", error) from error
    try:
        config = read_json(Path(path), _MOST_CONFIG)
    except Unusable:
        config = None
    if not isinstance(config, dict):
        raise WeightsError(
            f"{_CONFIG} of {repository.given} is not a JSON object of at most {_MOST_CONFIG:,} "
            f"bytes: {repository.way_out}."
        )
    return config


def _unreachable(repository: _Repository, so: str, error: Exception) -> WeightsError:
    reason = printable((str(error) or type(error).__name__).splitlines()[0])
    return WeightsError(
        f"{repository.given} is no file here, the Hugging Face hub could not be reached "
        f"({reason}), {so}: {repository.way_out}."
    )


def _is_sha256(text: str | None) -> bool:
    return text is not None and re.fullmatch("[0-9a-f]{64}", text) is not None
