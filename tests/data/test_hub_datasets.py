"""Datasets from a made-up hub, which has the functions and errors of huggingface_hub."""

import errno
import fnmatch
import importlib
import inspect
import os
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from jaxcifar.common.errors import DataError
from jaxcifar.data import check_split, dataset_info, load_dataset, load_labelled, located
from jaxcifar.data.hub_datasets import CONVERTED
from tests.data import made_parquet as made

SIDE = 6
REPO = "made/pets"
COMMITS = {"main": "a" * 40, "v2": "b" * 40, CONVERTED: "c" * 40}
FUNCTIONS = ("dataset_info", "snapshot_download", "get_cached_repo_tree")


def real(name):
    """A function of the real library, or None if it is not installed."""
    try:
        return getattr(importlib.import_module("huggingface_hub"), name)
    except ImportError:
        return None


REAL = {name: real(name) for name in FUNCTIONS}


class FakeHub(types.ModuleType):
    """A hub with repositories {name: {revision: folder}}, and a cache in its layout on disk."""

    def __init__(self, cache):
        super().__init__("huggingface_hub")
        self.cache, self.repositories, self.trees = cache, {}, {}
        self.failure, self.gated, self.calls = None, False, []
        self.errors = types.ModuleType("huggingface_hub.errors")
        for name, base in (
            ("RepositoryNotFoundError", OSError),
            ("GatedRepoError", "RepositoryNotFoundError"),
            ("RevisionNotFoundError", OSError),
            ("HFValidationError", ValueError),
            ("LocalEntryNotFoundError", FileNotFoundError),
        ):
            base = getattr(self.errors, base) if isinstance(base, str) else base
            setattr(self.errors, name, type(name, (base,), {}))
        for name in FUNCTIONS:
            setattr(self, name, self._checked(name))

    def _checked(self, name):
        def call(*args, **kwargs):
            if REAL[name] is not None:  # it would accept the call, too
                inspect.signature(REAL[name]).bind(*args, **kwargs)
            self.calls.append((name, kwargs))
            return getattr(self, f"_{name}")(*args, **kwargs)

        return call

    def _folder(self, repo, revision):
        if self.failure:
            raise self.failure
        if repo not in self.repositories:
            raise self.errors.RepositoryNotFoundError("404 for https://...")
        if (revision or "main") not in self.repositories[repo]:
            raise self.errors.RevisionNotFoundError("404 for https://...")
        return self.repositories[repo][revision or "main"]

    def _dataset_info(self, repo, *, revision=None):
        folder = self._folder(repo, revision)
        names = [str(p.relative_to(folder)) for p in sorted(folder.rglob("*")) if p.is_file()]
        files = [types.SimpleNamespace(rfilename=name) for name in [*names, "../x/train.parquet"]]
        return types.SimpleNamespace(sha=COMMITS[revision or "main"], siblings=files)

    def _snapshot_download(
        self, repo, *, repo_type, revision=None, allow_patterns, local_files_only=False
    ):
        assert repo_type == "dataset"
        home = self.cache / f"datasets--{repo.replace('/', '--')}"
        root = home / "snapshots" / COMMITS[revision or "main"]
        if local_files_only:
            if not root.is_dir():
                raise self.errors.LocalEntryNotFoundError("not in the cache")
            return str(root)
        folder = self._folder(repo, revision)
        if self.gated:
            raise self.errors.GatedRepoError("403")
        names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        self.trees[repo, root.name] = names
        for path in folder.rglob("*"):
            name = str(path.relative_to(folder))
            if not any(fnmatch.fnmatch(name, pattern) for pattern in allow_patterns):
                continue
            blob = home / "blobs" / str(abs(hash((name, path.read_bytes()))))
            blob.parent.mkdir(parents=True, exist_ok=True)
            if not blob.exists():
                blob.write_bytes(path.read_bytes())
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if not (root / name).is_symlink():
                os.symlink(os.path.relpath(blob, (root / name).parent), root / name)
        return str(root)

    def _get_cached_repo_tree(self, repo, *, repo_type, revision):
        assert repo_type == "dataset"
        return [types.SimpleNamespace(path=name) for name in self.trees[repo, revision]]

    @property
    def downloads(self):
        return [kwargs for name, kwargs in self.calls if name == "snapshot_download"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", fake.errors)
    folder = made.write_dataset(tmp_path / "pets")
    (folder / "README.md").write_text("pets")
    made.write_hub(folder / "data/extra-00000-of-00001.parquet", made.pictures(2), [0, 1])
    fake.repositories[REPO] = {"main": folder}
    return fake


def load(name=f"hf:{REPO}", **options):
    return load_dataset(name, **({"side": SIDE} | options))


def test_a_repository_is_a_dataset(hub):
    info = dataset_info(f"hf:{REPO}")
    assert (info.name, info.class_names, info.pool, info.test) == (
        f"hf:{REPO}",
        made.NAMES,
        20,
        5,
    )
    assert check_split(f"hf:{REPO}") == (16, 4)
    splits = load()
    assert splits.name == located(f"hf:{REPO}") == f"hf:{REPO}"
    assert np.array_equal(splits.test.images, made.pictures(5, seed=1))
    assert splits.revision == COMMITS["main"]


def test_the_fingerprint_is_that_of_the_same_data_in_a_folder(hub):
    folder = hub.repositories[REPO]["main"]
    assert load().fingerprint == load(f"parquet:{folder}").fingerprint


def test_only_the_files_that_are_used_are_downloaded(hub, tmp_path):
    data = load_labelled(f"hf:{REPO}", side=SIDE)
    assert len(data.source) == 5
    there = sorted(path.name for path in (tmp_path / "hub").rglob("*.parquet"))
    assert there == ["test-00000-of-00001.parquet"]
    load()
    there = sorted(path.name for path in (tmp_path / "hub").rglob("*") if path.is_symlink())
    assert there == [
        "test-00000-of-00001.parquet",
        "train-00000-of-00002.parquet",
        "train-00001-of-00002.parquet",
    ]


def test_what_is_known_asks_the_hub_once(hub):
    dataset_info(f"hf:{REPO}")
    for path in hub.cache.rglob("*"):
        if not path.is_symlink():
            os.utime(path, ns=(1, 1))
    dataset_info(f"hf:{REPO}")
    count = len(hub.calls)
    for _ in range(3):
        dataset_info(f"hf:{REPO}")
    assert len(hub.calls) == count


def test_a_revision_is_used_and_recorded(hub, tmp_path):
    second = made.write_dataset(tmp_path / "second", train=10)
    hub.repositories[REPO]["v2"] = second
    splits = load(f"hf:{REPO}@v2")
    assert (len(splits.train), splits.revision) == (8, COMMITS["v2"])
    with pytest.raises(DataError, match="has no revision v3; check the spelling"):
        load(f"hf:{REPO}@v3")


def test_without_parquet_files_those_that_the_hub_converted_are_used(hub, tmp_path):
    for name in ("main", "converted"):
        (tmp_path / name).mkdir()
    hub.repositories[REPO] = {"main": tmp_path / "main"}
    with pytest.raises(DataError, match="has no Parquet files, nor has the hub converted it"):
        load()
    hub.repositories[REPO][CONVERTED] = tmp_path / "converted"
    with pytest.raises(DataError, match="has no Parquet files, nor has the hub converted it"):
        load()
    for split in ("train", "test"):
        path = tmp_path / "converted" / "default" / split / "0000.parquet"
        made.write_hub(path, made.pictures(6), [0, 1, 2] * 2)
    assert load().revision == COMMITS[CONVERTED]
    hub.failure = OSError("no network")
    assert load().revision == COMMITS[CONVERTED]


def test_several_configurations_are_refused_and_one_is_named(hub, tmp_path):
    folder = hub.repositories[REPO]["main"]
    made.write_dataset(tmp_path / "more", train=10)
    for config in ("full", "small"):
        for split in ("train", "test"):
            path = folder / config / f"{split}.parquet"
            made.write_hub(path, made.pictures(len(config)), [0, 1, 2, 0, 1][: len(config)])
    with pytest.raises(DataError, match=f"data, full, small; name one, as in hf:{REPO}/data"):
        load()
    assert len(load(f"hf:{REPO}/small").test) == 5
    assert len(load(f"hf:{REPO}/full").test) == 4
    with pytest.raises(DataError, match="no configuration tiny; it has data, full, small"):
        load(f"hf:{REPO}/tiny")


FAILURES = [OSError("Name or service not known"), type("ConnectError", (Exception,), {})("no way")]


@pytest.mark.parametrize("failure", FAILURES, ids=str)
def test_offline_the_cache_is_used(hub, failure):
    online = load()
    hub.failure = failure
    offline = load()
    assert (offline.fingerprint, offline.revision) == (online.fingerprint, online.revision)


def test_offline_without_a_copy_the_message_says_how_to_get_one(hub):
    hub.failure = FAILURES[0]
    expected = (
        r"hf:made/pets@v2#label=x is not in the local cache, and the Hugging Face hub could not be "
        r"reached \(Name or service not known\); on a machine with access: hf download made/pets "
        r'--repo-type dataset --revision v2 --include "\*\.parquet" --local-dir pets; then copy '
        r"the folder here and name it parquet:pets#label=x"
    )
    with pytest.raises(DataError, match=expected) as caught:
        load(f"hf:{REPO}@v2#label=x")
    assert "\n" not in str(caught.value)


def test_offline_the_files_that_the_hub_converted_are_named(hub, tmp_path):
    hub.failure = FAILURES[0]
    message = r"name it parquet:pets \(if it has no .*, add --revision refs/convert/parquet\)$"
    with pytest.raises(DataError, match=message):
        load()
    hub.failure = None
    (tmp_path / "main").mkdir()
    hub.repositories[REPO] = {"main": tmp_path / "main", CONVERTED: tmp_path / "converted"}
    for split in ("train", "test"):
        path = tmp_path / "converted" / "default" / split / "0000.parquet"
        made.write_hub(path, made.pictures(6), [0, 1, 2] * 2)
    load()
    next(hub.cache.rglob("train/0000.parquet")).unlink()
    hub.failure = FAILURES[0]
    with pytest.raises(DataError, match="only partly .*--revision refs/convert/parquet --include"):
        load()


FULL = OSError(errno.ENOSPC, "No space left")
REFUSED = PermissionError(errno.EACCES, "denied", "/cache")


@pytest.mark.parametrize("failure", [FULL, REFUSED], ids=str)
def test_a_disk_that_cannot_be_written_is_not_a_hub_that_cannot_be_reached(hub, failure):
    hub.failure = failure
    with pytest.raises(DataError, match="cannot be kept in the cache .*: make room, or name"):
        load()
    hub.failure = None
    load()
    hub.failure = REFUSED  # of a cache that is there and may only be read
    load()
    hub.cache = hub.cache / "another"
    hub.failure = PermissionError(errno.EACCES, "denied by a firewall")
    with pytest.raises(DataError, match="could not be reached"):
        load()


@pytest.mark.parametrize("lost", ["train-00001-of-00002", "train-0000*", "test-00000-of-00001"])
def test_offline_a_part_is_not_taken_for_the_whole(hub, lost):
    load()
    for path in list(hub.cache.rglob(f"{lost}.parquet")):
        path.unlink()
    hub.failure = FAILURES[0]
    message = "hf:made/pets is only partly in the local cache .* could not be reached"
    with pytest.raises(DataError, match=message):
        load()


def test_offline_a_validation_split_that_was_not_fetched_is_missed(hub):
    folder = hub.repositories[REPO]["main"] / "data"
    made.write_hub(folder / "validation-00000-of-00001.parquet", made.pictures(4), [0, 1, 2, 0])
    for split in ("train", "test"):
        load_labelled(f"hf:{REPO}", split, side=SIDE)
    hub.failure = FAILURES[0]
    with pytest.raises(DataError, match=r"partly in the local cache \(data/validation.* is not\)"):
        load()
    assert len(load_labelled(f"hf:{REPO}", "test", side=SIDE).source) == 5


@pytest.mark.parametrize("version", ["older library", "older cache"])
def test_offline_where_the_files_of_a_commit_are_not_known_a_warning_says_so(hub, version):
    load()
    hub.failure = FAILURES[0]
    if version == "older library":
        del hub.get_cached_repo_tree
    else:
        hub.trees.clear()
    message = "perhaps the local cache has only a part of hf:made/pets: train is data/train-00000"
    with pytest.warns(UserWarning, match=message):
        load()
    for path in list(hub.cache.rglob("train-*.parquet")):
        path.unlink()
    message = r"(?s)has the splits test; .*hub could not be reached .* has only a part of hf:made"
    with pytest.raises(DataError, match=message):
        load()


def test_repositories_that_are_not_there_or_not_open_are_one_line(hub):
    with pytest.raises(DataError, match="the Hugging Face hub has no dataset made/pts, or it is"):
        load("hf:made/pts")
    hub.gated = True
    message = "made/pets gives its files only .* https://huggingface.co/datasets/made/pets, then"
    with pytest.raises(DataError, match=message):
        load()


def test_a_repository_without_images_is_one_line(hub, tmp_path):
    import pyarrow as pa

    for split in ("train", "test"):
        made.write(tmp_path / "text" / f"{split}.parquet", {"text": pa.array(["a"])})
    hub.repositories["made/text"] = {"main": tmp_path / "text"}
    message = r"has the columns text, .* the image; name it, as in hf:made/text#image=COLUMN"
    with pytest.raises(DataError, match=message):
        load("hf:made/text")


@pytest.mark.parametrize(
    "name",
    [
        "hf:",
        "hf:mnist",
        "hf:a/b@",
        "hf:a/../b",
        "hf:../b",
        "hf:a/b@../x",
        "hf:a b/c",
        "hf:a/b\x1b[31m\nerror: forged",
        "hf:/etc/passwd",
        "hf:https://huggingface.co/datasets/a/b",
    ],
)
def test_invalid_names_are_refused_before_the_hub_is_asked(hub, name):
    with pytest.raises(DataError, match="name a dataset of the Hugging Face hub hf:") as caught:
        load(name)
    assert str(caught.value).isprintable()
    assert not hub.calls


def test_without_the_library_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DataError, match="pip install huggingface-hub, or on a machine with"):
        load()


def test_the_library_is_imported_only_for_its_names(hub, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    dataset_info("digits")
    dataset_info(f"parquet:{hub.repositories[REPO]['main']}")


def test_names_of_files_that_lead_out_of_the_repository_are_ignored(hub):
    """The made-up hub lists one such file with each repository."""
    load()
    patterns = [pattern for call in hub.downloads for pattern in call["allow_patterns"]]
    assert patterns
    assert not any(".." in pattern for pattern in patterns)
    assert all(Path(pattern).parts[0] == "data" for pattern in patterns)
