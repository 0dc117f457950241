import errno
import hashlib
import importlib
import inspect
import json
import os
import sys
import tomllib
import types

import numpy as np
import pytest
from safetensors.numpy import save

from jaxcifar.common.errors import WeightsError
from jaxcifar.models.weights import read_weights
from jaxcifar.models.weights.hub import fetch

WEIGHTS = save({"w": np.arange(3.0)}, {"format": "pt"})
CONFIG = {
    "architecture": "resnet18",
    "num_classes": 1000,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
}
FUNCTIONS = ("hf_hub_url", "get_hf_file_metadata", "hf_hub_download", "try_to_load_from_cache")
ERRORS = {  # the exceptions that are caught, and their base classes
    "HfHubHTTPError": OSError,
    "EntryNotFoundError": Exception,
    "LocalEntryNotFoundError": "EntryNotFoundError",
    "RepositoryNotFoundError": "HfHubHTTPError",
    "GatedRepoError": "RepositoryNotFoundError",
    "RevisionNotFoundError": "HfHubHTTPError",
    "HFValidationError": ValueError,
}


def real(name):
    """A member of the real library, or None if it is not installed."""
    try:
        module = importlib.import_module("huggingface_hub")
    except ImportError:
        return None
    return getattr(module, name)


REAL = {name: real(name) for name in FUNCTIONS}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class FakeHub(types.ModuleType):
    """A hub with repositories {name: {revision: {file: bytes}}}, and a cache on disk."""

    def __init__(self, cache):
        super().__init__("huggingface_hub")
        self.cache, self.repositories = cache, {}
        self.failure, self.calls, self.links = None, [], True
        self.etags, self.fails_at = {}, None
        self.errors = types.ModuleType("huggingface_hub.errors")
        for name, base in ERRORS.items():
            base = getattr(self.errors, base) if isinstance(base, str) else base
            setattr(self.errors, name, type(name, (base,), {}))
        for name in FUNCTIONS:
            setattr(self, name, self._checked(name))

    def _checked(self, name):
        """Check that the real library would accept each call."""

        def call(*args, **kwargs):
            if REAL[name] is not None:
                inspect.signature(REAL[name]).bind(*args, **kwargs)
            self.calls.append((name, *args))
            return getattr(self, f"_{name}")(*args, **kwargs)

        return call

    def _hf_hub_url(self, repo_id, filename, *, revision=None):
        return (repo_id, filename, revision)

    def _look_up(self, repo_id, filename, revision):
        if self.failure or self.fails_at == filename:
            raise self.failure or OSError("Connection reset")
        if repo_id not in self.repositories:
            raise self.errors.RepositoryNotFoundError("404 for https://...")
        if (revision or "main") not in self.repositories[repo_id]:
            raise self.errors.RevisionNotFoundError("404 for https://...")
        if filename not in self.repositories[repo_id][revision or "main"]:
            raise self.errors.EntryNotFoundError("404 for https://...")
        return self.repositories[repo_id][revision or "main"][filename]

    def _get_hf_file_metadata(self, url):
        data = self._look_up(*url)
        return types.SimpleNamespace(etag=self.etags.get(url[1], sha256(data)))

    def _path(self, repo_id, filename, revision):
        return self.cache / repo_id / "snapshots" / (revision or "main") / filename

    def _hf_hub_download(self, repo_id, filename, *, revision=None, local_files_only=False):
        path = self._path(repo_id, filename, revision)
        try:
            if local_files_only:
                raise OSError("offline")
            data = self._look_up(repo_id, filename, revision)
        except OSError as error:
            if path.exists():
                return str(path)
            raise self.errors.LocalEntryNotFoundError(str(error)) from error
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            blob = self.cache / repo_id / "blobs" / sha256(data)
            blob.parent.mkdir(exist_ok=True)
            blob.write_bytes(data)
            if self.links:
                path.symlink_to(os.path.relpath(blob, path.parent))
            else:
                path.write_bytes(data)
        return str(path)

    def _try_to_load_from_cache(self, repo_id, filename, *, revision=None):
        path = self._path(repo_id, filename, revision)
        return str(path) if path.is_file() else None


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "cache")
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", fake.errors)
    fake.repositories["timm/resnet18.a1_in1k"] = {
        "main": {"model.safetensors": WEIGHTS, "config.json": json.dumps(CONFIG).encode()}
    }
    return fake


NAME = "timm/resnet18.a1_in1k"


def test_weights_come_with_their_digest_and_configuration(hub):
    file = fetch(NAME)
    assert file.path.read_bytes() == WEIGHTS
    assert (file.name, file.sha256, file.config) == ("model.safetensors", sha256(WEIGHTS), CONFIG)


def test_the_old_file_name_is_the_second_choice(hub):
    files = hub.repositories[NAME]["main"]
    files["pytorch_model.bin"] = b"old"
    assert fetch(NAME).name == "model.safetensors"
    del files["model.safetensors"]
    assert fetch(NAME).name == "pytorch_model.bin"


def test_a_revision_is_selected_by_name(hub):
    hub.repositories[NAME]["v2"] = {"model.safetensors": b"second"}
    file = fetch(NAME + "@v2")
    assert file.path.read_bytes() == b"second"
    assert file.config == {}
    with pytest.raises(WeightsError, match=f"{NAME} on the Hugging Face hub has no revision v3"):
        fetch(NAME + "@v3")


@pytest.mark.parametrize("damage", ["changed", "shorter"])
def test_a_file_with_another_digest_is_refused(hub, damage):
    path = fetch(NAME).path
    path.write_bytes(WEIGHTS[:-1] + (b"x" if damage == "changed" else b""))
    with pytest.raises(WeightsError, match=r"blobs/[0-9a-f]{64} has SHA-256 .* remove the file"):
        fetch(NAME)
    hub.failure = OSError("Name or service not known")
    with pytest.raises(WeightsError, match="remove the file and try again"):
        fetch(NAME)


def test_a_file_without_a_digest_on_the_hub_is_refused(hub):
    hub.etags["model.safetensors"] = "7cb18dc9bafbfcf74629a4b760af1b160957a83e"  # of git
    with pytest.raises(WeightsError, match="has no SHA-256 of model.safetensors"):
        fetch(NAME)


FAILURES = [OSError("Name or service not known"), type("ConnectError", (Exception,), {})("no way")]


def test_a_full_disk_is_not_a_hub_that_cannot_be_reached(hub):
    hub.failure = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(WeightsError, match="cannot be kept in the cache .*No space left.*: make"):
        read_weights(NAME)


@pytest.mark.parametrize("failure", FAILURES)
def test_offline_the_cache_is_used(hub, failure):
    online = fetch(NAME)
    hub.failure = failure
    assert fetch(NAME) == online


def test_offline_a_cached_file_in_a_store_shared_between_caches_is_checked_by_its_first_link(hub):
    """The blob may itself be a link, to a file with another name."""
    blob = fetch(NAME).path.resolve()
    store = blob.rename(blob.parent / "another-hash")
    blob.symlink_to(store)
    hub.failure = FAILURES[0]
    assert fetch(NAME).sha256 == sha256(WEIGHTS)
    store.write_bytes(b"else")
    with pytest.raises(WeightsError, match="remove the file"):
        fetch(NAME)


def test_offline_a_cache_without_links_is_used_with_a_warning(hub, caplog):
    hub.links = False
    fetch(NAME)
    hub.failure = FAILURES[0]
    assert fetch(NAME).sha256 == sha256(WEIGHTS)
    assert "no SHA-256 is known offline" in caplog.text


def test_offline_a_missing_config_is_empty(hub):
    fetch(NAME).path.with_name("config.json").unlink()
    hub.failure = FAILURES[0]
    assert fetch(NAME).config == {}


@pytest.mark.parametrize("failure", FAILURES)
def test_offline_without_the_file_is_one_clear_error(hub, failure):
    hub.failure = failure
    with pytest.raises(
        WeightsError,
        match=rf"could not be reached \({failure}\), and its weights are not in the local cache; "
        rf"download model.safetensors from https://huggingface.co/{NAME} .* pass its path",
    ):
        fetch(NAME)


def test_a_connection_lost_during_the_download_is_one_clear_error(hub):
    hub._get_hf_file_metadata = lambda url: types.SimpleNamespace(etag="0" * 64)
    hub.failure = FAILURES[0]
    with pytest.raises(WeightsError, match="and its weights are not in the local cache"):
        fetch(NAME)


def test_a_config_that_cannot_be_downloaded_is_an_error(hub):
    hub.fails_at = "config.json"
    with pytest.raises(WeightsError, match="and its config.json was not downloaded"):
        fetch(NAME)


@pytest.mark.parametrize(
    "text",
    [b"{", b"[]", b"3", b"\xff\xfe{", b"[" * 100_000, b'{"a": "' + b"x" * (1 << 20) + b'"}'],
)
def test_a_config_that_is_not_an_object_is_refused(hub, text):
    hub.repositories[NAME]["main"]["config.json"] = text
    with pytest.raises(WeightsError, match="config.json of timm/resnet18.a1_in1k is not a JSON"):
        fetch(NAME)


def test_an_unknown_repository_is_an_error_that_names_it(hub):
    with pytest.raises(WeightsError, match="is not a file, and .* no repository timm/resnet19"):
        fetch("timm/resnet19")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("GatedRepoError", "only to users that have accepted its terms"),
        ("HFValidationError", "nor a valid name on the Hugging Face hub"),
    ],
)
def test_other_answers_of_the_hub_are_explained(hub, error, message):
    hub.failure = getattr(hub.errors, error)("why")
    with pytest.raises(WeightsError, match=message):
        fetch(NAME)


def test_a_repository_without_weights_is_an_error_that_names_the_files(hub):
    hub.repositories["a/b"] = {"main": {"README.md": b""}}
    with pytest.raises(WeightsError, match="neither model.safetensors nor pytorch_model.bin"):
        fetch("a/b")


def test_without_the_library_the_error_explains_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(
        WeightsError,
        match=r"is installed with jaxcifar .* cannot be imported .*: pip install huggingface-hub, "
        r"or download a file from https://hugg",
    ):
        fetch(NAME)


def test_the_library_is_a_dependency_and_the_former_extra_stays(root):
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert any(each.startswith("huggingface-hub") for each in project["dependencies"])
    assert project["optional-dependencies"]["hub"] == []  # `pip install jaxcifar[hub]` works on
    assert not any("scikit" in each for each in project["dependencies"])


# Through read_weights.


def test_a_name_gives_the_tensors_and_timms_preprocessing(hub):
    weights = read_weights(NAME)
    assert weights.source == NAME
    assert weights.sha256 == sha256(WEIGHTS)
    np.testing.assert_array_equal(weights.tensors["w"], [0, 1, 2])
    assert weights.metadata == {
        "mean": "0.485 0.456 0.406",
        "std": "0.229 0.224 0.225",
        "size": "224",
        "format": "pt",
    }


def test_the_metadata_of_the_file_takes_precedence(hub):
    files = hub.repositories[NAME]["main"]
    files["model.safetensors"] = save({"w": np.zeros(1)}, {"mean": "0 0 0"})
    metadata = read_weights(NAME).metadata
    assert (metadata["mean"], metadata["size"]) == ("0 0 0", "224")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, {}),
        ({"pretrained_cfg": None}, {}),
        ({"pretrained_cfg": {"mean": [0.5, 0.5, 0.5]}}, {"mean": "0.5 0.5 0.5"}),
        ({"mean": [0, 0, 0], "input_size": [3, 32, 32]}, {"mean": "0.0 0.0 0.0", "size": "32"}),
        ({"mean": 0.5, "std": [0.5], "input_size": [3, 224]}, {}),
        ({"mean": ["0", "0", "0"], "std": [True] * 3, "input_size": [3, 224, 192]}, {}),
        ({"mean": [float("nan")] * 3, "std": [float("inf")] * 3, "input_size": [3, -1, -1]}, {}),
        ({"mean": [10**400] * 3, "input_size": [3, 2.0, 2.0]}, {}),
    ],
)
def test_only_the_valid_entries_of_a_config_are_used(hub, config, expected):
    files = hub.repositories[NAME]["main"]
    files["config.json"] = json.dumps(config).encode()
    files["model.safetensors"] = save({"w": np.zeros(1)})
    assert read_weights(NAME).metadata == expected


# With the real library, offline.


def test_the_real_exceptions_have_the_base_classes_of_the_fake_ones():
    errors = pytest.importorskip("huggingface_hub.errors")
    for name, base in ERRORS.items():
        base = getattr(errors, base) if isinstance(base, str) else base
        assert issubclass(getattr(errors, name), base)


@pytest.fixture
def library(tmp_path, monkeypatch):
    """The real library, offline, with a cache in its own layout."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_the_librarys_own_cache_is_used_offline(library):
    commit = "2439f60ef33a0d46d85da5001d52aeda5b00ce9f"
    repo = library / "models--timm--resnet18.a1_in1k"
    snapshot = repo / "snapshots" / commit
    for folder in (repo / "refs", repo / "blobs", snapshot):
        folder.mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    config = json.dumps(CONFIG).encode()
    git_name = hashlib.sha1(b"blob %d\0" % len(config) + config).hexdigest()
    for name, blob, data in (
        ("model.safetensors", sha256(WEIGHTS), WEIGHTS),
        ("config.json", git_name, config),
    ):
        (repo / "blobs" / blob).write_bytes(data)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    assert read_weights(NAME).metadata["size"] == "224"
    assert fetch(f"{NAME}@{commit}").config == CONFIG
    (repo / "blobs" / sha256(WEIGHTS)).write_bytes(WEIGHTS[:-1] + b"x")
    with pytest.raises(WeightsError, match="remove the file and try again"):
        fetch(NAME)


def test_the_library_offline_without_the_file_is_one_clear_error(library):
    with pytest.raises(WeightsError, match="could not be reached .*offline.* not in the local"):
        fetch(NAME)


def test_an_absurdly_large_file_is_not_downloaded(hub):
    metadata = hub.get_hf_file_metadata

    def large(url):
        return types.SimpleNamespace(etag=metadata(url).etag, size=1 << 40)

    hub.get_hf_file_metadata = large
    with pytest.raises(WeightsError, match=r"model.safetensors of .* has 1,099,511,627,776 bytes"):
        fetch(NAME)
    assert not any(call[0] == "hf_hub_download" for call in hub.calls)
