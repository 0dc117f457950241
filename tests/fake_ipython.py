"""A kernel without Jupyter: what the library asks IPython, and what it displays."""

import sys
import types


class Handle:
    def __init__(self, shown, thing):
        self._contents = [thing]
        shown.append(self._contents)

    def update(self, thing):
        self._contents.append(thing)


def install(monkeypatch, *bases):
    """Modules IPython and IPython.display; returns the list of displays, each a list of contents.

    Args:
        bases: names of the shell's class and of its bases, from the last one on.
    """
    shell = object
    for name in bases:
        shell = type(name, (shell,), {})
    shown = []
    package, display = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    package.version_info = (9, 0)  # matplotlib asks for it
    package.get_ipython = shell if bases else lambda: None
    display.display = lambda thing, display_id: Handle(shown, thing)
    package.display = display
    monkeypatch.setitem(sys.modules, "IPython", package)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return shown


def kernel(monkeypatch):
    return install(monkeypatch, "InteractiveShell", "ZMQInteractiveShell")
