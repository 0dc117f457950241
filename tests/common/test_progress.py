"""Progress bars on a terminal, in a notebook with and without ipywidgets, and in a log file."""

import contextlib
import io
import sys
import types

import pytest

from jaxcifar.common.messages import escaped
from jaxcifar.common.progress import progress_bar
from tests import fake_ipython


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Widget:
    """ipywidgets: whatever is asked of it."""

    def __init__(self, *_, children=(), **settings):
        self.children, self.value, self.bar_style = children, "", ""
        self.layout = types.SimpleNamespace()
        self.style = types.SimpleNamespace()
        self.__dict__.update(settings)

    def close(self):
        pass


def take_streams(monkeypatch):
    """Standard output and error of a log file or of a kernel: neither is a terminal.

    Not a fixture: pytest puts its own streams in place after the fixtures.
    """
    found = types.SimpleNamespace(out=io.StringIO(), err=io.StringIO())
    monkeypatch.setattr(sys, "stdout", found.out)
    monkeypatch.setattr(sys, "stderr", found.err)
    return found


def give_widgets(monkeypatch):
    widgets = types.ModuleType("ipywidgets")
    widgets.HTML = widgets.FloatProgress = widgets.HBox = Widget
    monkeypatch.setitem(sys.modules, "ipywidgets", widgets)


@pytest.fixture
def new_tqdm(monkeypatch):
    """tqdm chooses anew, as in a new process, and forgets its choice afterwards."""
    names = ("tqdm.auto", "tqdm.autonotebook", "tqdm.notebook")
    tqdm = sys.modules.get("tqdm") or __import__("tqdm")
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr(tqdm, name.split(".")[1], raising=False)
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", types.ModuleType("zmqshell"))
    yield
    for name in names:
        sys.modules.pop(name, None)
        with contextlib.suppress(AttributeError):
            delattr(tqdm, name.split(".")[1])


def advance(**options):
    with progress_bar("Decoding", 10, unit=" images", enabled=True, **options) as bar:
        bar.update(4)
        bar.update(6)


def test_a_log_file_gets_no_bar(monkeypatch):
    streams = take_streams(monkeypatch)
    advance()
    assert streams.out.getvalue() == streams.err.getvalue() == ""


@pytest.mark.parametrize("leave", [True, False])
def test_a_terminal_gets_a_bar_on_standard_error(monkeypatch, leave):
    streams = take_streams(monkeypatch)
    monkeypatch.setattr(sys, "stderr", Terminal())
    advance(leave=leave)
    text = sys.stderr.getvalue()
    assert "Decoding" in text
    assert streams.out.getvalue() == ""
    assert ("10/10" in text.split("\r")[-1]) == leave


def test_a_bar_can_be_left_out_on_a_terminal_and_in_a_notebook(monkeypatch):
    streams = take_streams(monkeypatch)
    monkeypatch.setattr(sys, "stderr", Terminal())
    shown = fake_ipython.kernel(monkeypatch)
    with progress_bar("Decoding", 10, unit="B", enabled=False) as bar:
        bar.update(10)
    assert streams.out.getvalue() == sys.stderr.getvalue() == ""
    assert not shown


@pytest.mark.parametrize("stderr", [None, object()], ids=["none", "no isatty"])
def test_a_program_without_standard_error_gets_no_bar(monkeypatch, stderr):
    monkeypatch.setattr(sys, "stderr", stderr)
    advance()


def test_a_notebook_without_ipywidgets_gets_text_and_no_advice(monkeypatch, new_tqdm):
    streams = take_streams(monkeypatch)
    fake_ipython.kernel(monkeypatch)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # its import fails
    advance(leave=False)  # a warning would be an error here
    assert "Decoding" in streams.out.getvalue()
    assert streams.out.getvalue().endswith("\r")  # where the next line begins
    assert streams.err.getvalue() == ""


def test_a_notebook_with_ipywidgets_gets_a_widget(monkeypatch, new_tqdm):
    streams = take_streams(monkeypatch)
    shown = fake_ipython.kernel(monkeypatch)
    give_widgets(monkeypatch)
    advance()
    (kept,) = shown
    assert len(kept) == 1
    assert "Decoding" in kept[0].children[0].value
    advance(leave=False)
    assert repr(shown[1][-1]) == ""  # nothing is left that a later session could not find
    assert streams.out.getvalue() == streams.err.getvalue() == ""


def test_a_failed_pass_takes_its_widget_away(monkeypatch, new_tqdm):
    shown = fake_ipython.kernel(monkeypatch)
    give_widgets(monkeypatch)

    def decode():
        with progress_bar("epoch", 10, unit="img", enabled=True, leave=False) as bar:
            bar.update(3)
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        decode()
    assert repr(shown[0][-1]) == ""


@pytest.mark.parametrize("label", ["digits\x1b[31m\nerror: forged", "a\r\u202eb\udcff"])
def test_a_label_is_one_printable_line(label, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bar(label, 10, unit="B", enabled=True) as bar:
        bar.update(3)
    shown = sys.stderr.getvalue()
    assert escaped(label) in shown
    assert label not in shown
