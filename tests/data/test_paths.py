"""A path that leads nowhere is one clear line."""

import os
import pwd
import subprocess
import sys

import numpy as np
import pytest

from jaxcifar.common.errors import DataError
from jaxcifar.common.files import cache_folder
from jaxcifar.data import dataset_info, load_dataset, load_labelled, located
from jaxcifar.data.cache import cached_digests
from jaxcifar.data.tfds_layout import data_root


def homeless(monkeypatch):
    """HOME is not set, and the user has no entry, as in many containers."""
    monkeypatch.delenv("HOME")

    def unknown(_):
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)


BAD = {
    "no such user": ("~nouser-at-all/pets", "there is no home folder of that user"),
    "no such user alone": ("~nouser-at-all", "begins with ~nouser-at-all"),
    "NUL": ("pe\0ts", "has a NUL"),
    "too long a part": ("x" * 300, "cannot be opened: File name too long"),
    "too long": ("x/" * 3_000, "characters, more than the limit of 4,096"),
    "no text": ("\ud800", "cannot be opened"),
    "gone": ("gone", "there is no folder"),
    "a file": (__file__, "is not a folder; it must hold"),
    "below a file": (f"{__file__}/x", "cannot be opened: Not a directory"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("ask", [dataset_info, load_dataset, load_labelled])
def test_a_folder_that_is_none_is_one_line(kind, ask):
    path, message = BAD[kind]
    with pytest.raises(DataError, match=message) as caught:
        ask(f"folder:{path}")
    assert len(caught.value.args) == 1
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("path", ["~", "~/pets", "~root/pets"])
def test_a_home_that_is_not_known_is_one_line(monkeypatch, path):
    homeless(monkeypatch)
    for ask in (dataset_info, located):
        with pytest.raises(DataError, match="there is no home folder of that user"):
            ask(f"folder:{path}")


def test_a_working_directory_that_is_gone_is_one_line(tmp_path):
    code = """
import os, sys
# Before the folder goes: after that, Python 3.13.0 cannot import NumPy.
from jaxcifar.data import dataset_info, located
from jaxcifar.common.errors import DataError
from jaxcifar.data.tfds_layout import data_root
os.mkdir("gone"); os.chdir("gone"); os.rmdir("../gone")
for ask in (lambda: dataset_info("folder:pets"), lambda: located("folder:pets"),
            lambda: data_root("data")):
    try:
        ask()
    except DataError as error:
        assert "working directory cannot be found" in str(error), error
        assert len(error.args) == 1
    else:
        sys.exit("no error")
"""
    env = os.environ | {"PYTHONPATH": os.getcwd()}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_tfds_folder_says_what_to_set_without_a_home(monkeypatch):
    homeless(monkeypatch)
    with pytest.raises(DataError, match="HOME is not set: set TFDS_DATA_DIR, or give --data-dir"):
        data_root(None)
    with pytest.raises(DataError, match="set TFDS_DATA_DIR"):
        dataset_info("tfds:made")


@pytest.mark.parametrize("path", ["~nouser-at-all", "x" * 300, "a\0b"])
@pytest.mark.parametrize("by_variable", [False, True])
def test_a_tfds_folder_that_is_none_is_one_line(monkeypatch, path, by_variable):
    if by_variable and "\0" in path:
        return  # no variable holds one
    if by_variable:
        monkeypatch.setenv("TFDS_DATA_DIR", path)
    with pytest.raises(DataError) as caught:
        data_root(None if by_variable else path)
    assert ("TFDS_DATA_DIR" if by_variable else "the data folder") in str(caught.value)
    assert len(caught.value.args) == 1


@pytest.mark.parametrize("own", [None, "~nouser-at-all/cache"])
def test_without_a_home_there_is_no_cache_but_a_warning(monkeypatch, own):
    monkeypatch.delenv("JAXCIFAR_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if own:
        monkeypatch.setenv("JAXCIFAR_CACHE_DIR", own)
    homeless(monkeypatch)
    with pytest.raises(OSError, match="JAXCIFAR_CACHE_DIR"):
        cache_folder()
    with pytest.warns(UserWarning, match="set JAXCIFAR_CACHE_DIR to a writable folder"):
        kept = cached_digests("a" * 64, lambda: np.zeros((2, 32), np.uint8))
    assert kept.shape == (2, 32)


def test_a_home_of_its_own_is_used_as_before(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("JAXCIFAR_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "jaxcifar"
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert str(cache_folder()) == "/x/jaxcifar"
    monkeypatch.setenv("JAXCIFAR_CACHE_DIR", "~/own")
    assert cache_folder() == tmp_path / "own"
    assert data_root(None) == tmp_path / "tensorflow_datasets"
