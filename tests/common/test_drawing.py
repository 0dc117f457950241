"""Pictures are the same whatever the environment says, and leave matplotlib as it was."""

import os
import subprocess
import sys
import warnings

import matplotlib
import pytest
from matplotlib import pyplot
from matplotlib.font_manager import FontEntry, fontManager

from jaxcifar.common import drawing
from jaxcifar.common.errors import FigureError
from jaxcifar.common.figure import Page, drawn, save_figure
from jaxcifar.runs.curves import plot_curves
from jaxcifar.runs.history import History

ROW = dict.fromkeys(
    ("epoch", "train_loss", "validation_loss", "train_accuracy", "validation_accuracy"), 1.0
)
DRAW = """
import sys
from pathlib import Path
from jaxcifar.runs.curves import plot_curves
from jaxcifar.common.figure import save_figure
from jaxcifar.runs.history import History

names = "epoch train_loss validation_loss train_accuracy validation_accuracy"
row = dict.fromkeys(names.split(), 1.0)
save_figure(plot_curves(History([row]), title="a $1 title"), Path(sys.argv[1]))
"""


def draw(path):
    return save_figure(plot_curves(History([ROW]), title="a $1 title"), path).read_bytes()


def draw_in_a_process(folder, **environment):
    done = subprocess.run(
        [sys.executable, "-c", DRAW, "drawn.png"],
        cwd=folder,
        env={"PYTHONPATH": os.getcwd()} | os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return (folder / "drawn.png").read_bytes()


@pytest.mark.parametrize(
    "environment",
    [
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        {"MATPLOTLIBRC": "not-text", "MPLBACKEND": "TkAgg", "DISPLAY": ""},
        pytest.param({"MPLBACKEND": "nonsense"}, marks=pytest.mark.slow),
        pytest.param({"MPLBACKEND": "webagg"}, marks=pytest.mark.slow),
        pytest.param({"MPLCONFIGDIR": "/proc/nothing"}, marks=pytest.mark.slow),
    ],
    ids=["inline", "no text", "nonsense", "webagg", "no folder"],
)
def test_a_picture_does_not_depend_on_the_environment(tmp_path, environment):
    (tmp_path / "not-text").write_bytes(b"\xff\xfe\x00")
    assert draw_in_a_process(tmp_path, **environment) == draw(tmp_path / "here.png")


@pytest.mark.slow
def test_a_matplotlibrc_in_the_working_directory_changes_nothing(tmp_path):
    lines = ["text.usetex: True", "savefig.format: pdf", "savefig.dpi: 30", "a broken line"]
    (tmp_path / "matplotlibrc").write_text("\n".join([*lines, "savefig.bbox: tight"]))
    assert draw_in_a_process(tmp_path) == draw(tmp_path / "here.png")


@pytest.mark.parametrize(
    "settings",
    [
        {"text.usetex": True},
        {"savefig.format": "pdf", "savefig.dpi": 30, "savefig.bbox": "tight"},
        {"font.size": 30, "axes.facecolor": "red", "lines.linewidth": 9},
        {"axes.unicode_minus": False, "text.parse_math": False},
        {"figure.constrained_layout.use": True, "savefig.facecolor": "blue"},
    ],
)
def test_settings_of_the_user_change_nothing_and_are_kept(tmp_path, settings):
    plain = draw(tmp_path / "plain.png")
    with matplotlib.rc_context(settings):
        before = dict(matplotlib.rcParams)
        assert draw(tmp_path / "x.png") == plain
        assert dict(matplotlib.rcParams) == before


def test_the_backend_and_the_open_figures_of_the_user_are_kept(tmp_path):
    pyplot.switch_backend("svg")
    try:
        figure = pyplot.figure()
        page = Page(2, 1, drawn("title"))
        save_figure(page.figure, tmp_path / "x.png")
        assert matplotlib.get_backend() == "svg"
        assert pyplot.get_fignums() == [figure.number]
        assert type(figure.canvas).__module__.endswith("backend_svg")
    finally:
        pyplot.close("all")
        pyplot.switch_backend("agg")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ImportError("libfoo.so:\nmissing\x1b[31m"), "ImportError: libfoo.so:"),
        (OSError("no space"), "OSError: no space"),
        (ModuleNotFoundError("No module named 'x'"), "ModuleNotFoundError: No module named 'x'"),
    ],
)
def test_a_matplotlib_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch, error, reason):
    def fail(name):
        raise error

    monkeypatch.setattr(drawing, "import_module", fail)
    monkeypatch.setattr(drawing, "_forget", lambda package: None)
    with pytest.raises(FigureError) as raised:
        draw(tmp_path / "x.png")
    assert str(raised.value) == f"matplotlib cannot draw here ({reason})"


def test_a_failure_is_one_warning(tmp_path):
    def fail():
        raise KeyError("font\nx")

    path = tmp_path / "x\x1b.png"
    with pytest.warns(
        UserWarning, match=r"x\\x1b.png could not be drawn \(KeyError: 'font"
    ) as seen:
        assert not drawing.try_to_draw(path, fail, "all else is done")
    assert len(seen) == 1
    assert str(seen[0].message).endswith("; all else is done")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert drawing.try_to_draw(path, lambda: None, "")


def test_a_signal_is_no_failure_to_draw(tmp_path):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawing.try_to_draw(tmp_path, stop, "")


def test_characters_that_the_font_does_not_have_are_taken_from_others(monkeypatch, tmp_path):
    usual = drawing._font_families(matplotlib)
    assert usual[0] == "DejaVu Sans"
    with matplotlib.rc_context({"font.family": ["STIXGeneral", "sans-serif", "no such font"]}):
        families = drawing._font_families(matplotlib)
        assert families[:2] == ["DejaVu Sans", "STIXGeneral"]
        assert "no such font" not in families
        with drawing.own_settings():
            assert matplotlib.rcParams["font.family"] == families
    monkeypatch.setattr(drawing, "_FALLBACKS", ("no such font", "STIXGeneral"))
    assert "STIXGeneral" in drawing._font_families(matplotlib)
    damaged = tmp_path / "damaged.ttf"
    damaged.write_bytes(b"no font")
    entry = FontEntry(fname=str(damaged), name="Damaged", style="normal", size="scalable")
    monkeypatch.setattr(fontManager, "ttflist", [*fontManager.ttflist, entry])
    monkeypatch.setattr(drawing, "_FALLBACKS", ("Damaged", "STIXGeneral"))
    assert drawing._font_families(matplotlib) == ["DejaVu Sans", *usual[1:], "STIXGeneral"]
