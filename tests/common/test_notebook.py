"""Kernels are told from terminals without importing IPython."""

import subprocess
import sys

import pytest

from jaxcifar.common.notebook import Display, Picture, in_notebook
from tests import fake_ipython


@pytest.mark.parametrize(
    ("bases", "expected"),
    [
        ((), False),  # imported, but no shell runs
        (("InteractiveShell", "TerminalInteractiveShell"), False),
        (("InteractiveShell", "ZMQInteractiveShell"), True),
        (("InteractiveShell", "ZMQInteractiveShell", "Shell"), True),  # Colab's
    ],
)
def test_a_kernel_is_told_from_a_terminal(monkeypatch, bases, expected):
    fake_ipython.install(monkeypatch, *bases)
    assert in_notebook() is expected


def test_a_half_imported_ipython_is_no_kernel(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", type(sys)("IPython"))
    assert not in_notebook()


def test_the_question_imports_nothing():
    code = (
        "import sys; from jaxcifar.common.notebook import in_notebook; "
        "assert not in_notebook(); assert 'IPython' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_display_is_one_place_whose_contents_change(monkeypatch):
    shown = fake_ipython.kernel(monkeypatch)
    display = Display()
    display.show(Picture(b"1", "one"))
    display.show(Picture(b"2", "two"))
    display.clear()
    assert [[repr(thing) for thing in contents] for contents in shown] == [["one", "two", ""]]
    assert shown[0][1]._repr_png_() == b"2"
