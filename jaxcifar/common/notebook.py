"""A Jupyter kernel, and what is shown in the notebook above it.

IPython is looked for among the modules that are loaded already: a kernel has loaded it, and a
program that has not is no kernel. So nothing is imported for the question.
"""

import sys
from importlib import import_module
from typing import Any

# The shell of every kernel in Python, and the base of Colab's. A terminal's IPython has another.
_KERNEL_SHELL = "ZMQInteractiveShell"


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook, of Jupyter or of Colab."""
    get_shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    if get_shell is None:
        return False
    return any(base.__name__ == _KERNEL_SHELL for base in type(get_shell()).__mro__)


class Display:
    """One place in a notebook's output, whose contents can be replaced.

    Make one in a kernel only, see `in_notebook`.
    """

    def __init__(self) -> None:
        """Nothing is shown yet."""
        self._handle: Any = None

    def show(self, thing: object) -> None:
        """Show something in place of what was shown last."""
        if self._handle is None:
            display = import_module("IPython.display").display
            self._handle = display(thing, display_id=True)
        else:
            self._handle.update(thing)

    def clear(self) -> None:
        """Show nothing."""
        self.show(Text(""))


class Text:
    """A text that a notebook shows without quotes."""

    def __init__(self, text: str) -> None:
        """Keep it."""
        self._text = text

    def __repr__(self) -> str:
        return self._text


class Picture(Text):
    """A PNG that a notebook shows."""

    def __init__(self, png: bytes, text: str) -> None:
        """`text` stands for the picture where none can be shown."""
        super().__init__(text)
        self._png = png

    def _repr_png_(self) -> bytes:
        return self._png
