"""The one wrapper of tqdm: every progress bar of the library is made here."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, cast

from jaxcifar.common.messages import escaped
from jaxcifar.common.notebook import Display, in_notebook


class Bar(Protocol):
    """The part of tqdm's bar that is used."""

    total: int
    n: int  # where it stands
    disable: bool

    def update(self, n: int, /) -> object:
        """Advance by `n` units."""

    def set_postfix_str(self, s: str = "", refresh: bool = True) -> object:
        """Set the text behind the bar."""


def progress_bar(
    label: str,
    total: int,
    *,
    unit: str,
    enabled: bool,
    initial: int = 0,
    leave: bool = True,
    **options: Any,
) -> AbstractContextManager[Bar]:
    """A bar in a notebook, or on standard error if it is a terminal: a log file gets none.

    In a notebook with ipywidgets it is a widget; without, it is the terminal's line of text.

    Args:
        label: the text before the bar.
        total, initial: in `unit`; bytes (unit "B") are scaled to kB and MB.
        unit: what is counted.
        enabled: False for no bar even on a terminal.
        leave: keep the bar when it is done.
        options: of `tqdm`.
    """
    tqdm, notebook = _load_tqdm(), in_notebook()
    shown = enabled and (notebook or _is_terminal(sys.stderr))
    in_widget = shown and notebook and _is_widget(tqdm)
    bar = tqdm(
        desc=escaped(label),
        total=total,
        initial=initial,
        unit=unit,
        unit_scale=unit == "B",
        leave=leave,
        # Of a notebook, the stream of the printed lines: on another, each bar that is cleared
        # leaves an empty box between two of them.
        file=sys.stdout if notebook else sys.stderr,
        disable=not shown,
        **options,
        **({"display": False} if in_widget else {}),
    )
    return cast("AbstractContextManager[Bar]", _in_notebook(bar, leave) if in_widget else bar)


@contextmanager
def _in_notebook(bar: Any, leave: bool) -> Iterator[Any]:
    """Show tqdm's widget, and take it out of the output at the end.

    tqdm only hides it: a notebook that is opened again has an error in place of each.
    """
    display = Display()
    display.show(bar.container)
    try:
        with bar:
            yield bar
    finally:
        if not leave:
            display.clear()


def _is_terminal(stream: Any) -> bool:
    """Whether a stream is one; standard error may be None, or an object of the program's own."""
    is_terminal = getattr(stream, "isatty", None)
    return is_terminal is not None and bool(is_terminal())


def _load_tqdm() -> Any:
    """`tqdm.auto`, which chooses between text and a widget when it is first imported.

    Its advice to install ipywidgets is left out: the text says as much as the widget.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")
        from tqdm.auto import tqdm
    return tqdm


def _is_widget(tqdm: Any) -> bool:
    """Whether it is tqdm's bar of ipywidgets; Qt's console is a kernel that has none."""
    from tqdm.notebook import tqdm_notebook

    return issubclass(tqdm, tqdm_notebook)
