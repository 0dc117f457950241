"""The library of the Hugging Face hub, and a cache that cannot be written."""

import errno
import sys
import types

import pytest

from jaxcifar.common.hub import import_hub, not_kept


def test_the_library_comes_with_its_errors(monkeypatch):
    hub, errors = types.ModuleType("huggingface_hub"), types.ModuleType("huggingface_hub.errors")
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    assert import_hub() == (hub, errors)


def test_a_library_that_is_not_there_is_an_import_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError):
        import_hub()


def test_what_the_disk_did_not_take_is_named_with_the_reason_and_a_way_out():
    message = not_kept("hf:some/pets", OSError(errno.ENOSPC, "No space left on device"))
    assert "hf:some/pets" in message
    assert "No space left on device" in message
    assert message.endswith("name another folder by HF_HUB_CACHE")
