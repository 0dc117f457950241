import os

import jax
import pytest

from jaxcifar.devices.compilation_cache import enable_compilation_cache


@pytest.fixture(autouse=True)
def settings():
    """Restores JAX's settings."""
    names = (
        "jax_enable_compilation_cache",
        "jax_compilation_cache_dir",
        "jax_persistent_cache_min_compile_time_secs",
    )
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_cache_folder_depends_on_the_processor(tmp_path, monkeypatch):
    monkeypatch.setenv("JAXCIFAR_CACHE_DIR", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    folder = enable_compilation_cache()
    assert folder is not None
    assert folder.parent == tmp_path / "xla"
    assert folder.is_dir()
    assert jax.config.jax_compilation_cache_dir == str(folder)


def test_the_users_settings_win(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert enable_compilation_cache() == tmp_path / "mine"
    jax.config.update("jax_enable_compilation_cache", False)
    assert enable_compilation_cache() is None


def test_an_unwritable_home_is_no_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXCIFAR_CACHE_DIR", str(tmp_path / "file"))
    jax.config.update("jax_compilation_cache_dir", None)
    assert enable_compilation_cache() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_a_home_that_is_not_known_is_no_error(monkeypatch):
    monkeypatch.setenv("JAXCIFAR_CACHE_DIR", "~nouser-at-all/cache")
    jax.config.update("jax_compilation_cache_dir", None)
    assert enable_compilation_cache() is None


def test_a_folder_that_cannot_be_written_is_not_used(tmp_path, monkeypatch):
    """Root may write everywhere, so the answer is made up."""
    monkeypatch.setenv("JAXCIFAR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    jax.config.update("jax_compilation_cache_dir", None)
    assert enable_compilation_cache() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_a_filled_folder_that_cannot_be_written_is_read(tmp_path, monkeypatch):
    """As in an image for containers that was made with its programs."""
    monkeypatch.setenv("JAXCIFAR_CACHE_DIR", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    folder = enable_compilation_cache()
    (folder / "a program").touch()
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    jax.config.update("jax_compilation_cache_dir", None)
    assert enable_compilation_cache() == folder
