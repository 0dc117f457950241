"""Names in figures: drawn as they are, on one line, and never parsed as mathematics."""

import io
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text
from PIL import Image

from jaxcifar.common.drawing import new_figure
from jaxcifar.common.errors import RecipeError
from jaxcifar.common.figure import Page, drawn, fitted, png_path, save_figure
from jaxcifar.common.messages import escaped
from jaxcifar.runs.curves import plot_curves
from jaxcifar.runs.history import History
from jaxcifar.studies.reproduction.comparison import ComparisonPoint, plot_comparison
from jaxcifar.studies.sweeps.plot import plot_sweep
from jaxcifar.visualize.plots import (
    Overlay,
    plot_activations,
    plot_confusion,
    plot_grad_cam,
    plot_images,
)

# Mathematics that cannot be parsed, and that can; control characters and a lone surrogate; one
# escape of ours in front of a dollar; characters that the font does not have.
NAMES = (
    r"cost $\frac{$ of it",
    "$x^2$ and $y$",
    "cat\x1b[31m\nerror:\ud800",
    "a\\$b$",
    "猫 \U0001f600",
)
IMAGE = np.zeros((8, 8, 3), np.uint8)
ROW = {
    "epoch": 1,
    "train_loss": 2.0,
    "validation_loss": 2.5,
    "train_accuracy": 0.5,
    "validation_accuracy": 0.6,
}


def curves(name):
    return plot_curves(History([ROW]), title=name)


def sweep(name):
    return plot_sweep("width", [1, 64], {"test": [0.5, 0.6]}, title=name)


def comparison(name):
    points = [ComparisonPoint(name, 3, 0.5), ComparisonPoint(name, 3, 0.5)]
    return plot_comparison(points, title=name, ours_label=name)


def activations(name):
    return plot_activations(IMAGE, {name: np.zeros((4, 4, 2))}, title=name)


def confusion(name):
    return plot_confusion(np.eye(2, dtype=int), np.ones(2), [name, "dog"], title=name)


def images(name):
    return plot_images([IMAGE], [(name, "sure")], title=name)


def cam(name):
    return plot_grad_cam([Overlay(IMAGE, np.zeros((8, 8)), (name, name))], title=name)


PLOTS = (curves, sweep, comparison, activations, confusion, images, cam)


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
@pytest.mark.parametrize("plot", PLOTS)
def test_a_picture_is_drawn_whatever_the_names_are(plot, name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = plot(name)
        path = save_figure(figure, tmp_path / "x.png")
    assert imread(path).shape[2] == 4
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert all(line.isprintable() for text in texts for line in text.get_text().split("\n"))
    own = [text for text in texts if "mathdefault" not in text.get_text()]  # ticks of log axes
    assert not any(is_math_text(text.get_text()) for text in own)
    joined = [text.get_text().replace(r"\$", "$").replace("\n", " ") for text in own]
    wanted = escaped(name)
    assert any(wanted in text or wanted in text.replace(" ", "") for text in joined)


def extent(text, **settings):
    figure = Figure()
    renderer = FigureCanvasAgg(figure).get_renderer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return figure.text(0, 0, text, **settings).get_window_extent(renderer).bounds


@given(st.text("$\\ab{^ \n", min_size=1))
def test_text_is_drawn_as_without_mathematics(text):
    assert extent(drawn(text)) == extent(escaped(text), parse_math=False)


@given(st.text(st.characters(codec=None)), st.integers(3, 40))
def test_fitted_text_has_at_most_so_many_characters(text, length):
    shown = fitted(text, length).replace(r"\$", "$")
    assert len(shown) <= max(length, 0) or shown == escaped(text)
    assert shown.isprintable()
    line = escaped(text)
    assert shown == line or line.startswith(shown.partition("…")[0])
    assert ("…" in shown) >= (len(line) > length)


def test_a_title_is_wrapped_between_words_only():
    figure = Page(4, 1, "word " * 20 + "a\nb $1 " * 3).figure
    lines = figure.get_suptitle().split("\n")
    assert len(lines) == 3
    assert " ".join(lines) == ("word " * 20 + r"a\nb \$1 " * 3).strip()


@pytest.mark.parametrize("folder", ["elsewhere", "figures"])
def test_only_pictures_of_ours_are_replaced(tmp_path, folder):
    path = tmp_path / folder / "x.png"
    assert png_path(path) == path
    save_figure(new_figure(2, 2), path)
    assert png_path(path) == path
    photo = io.BytesIO()
    Image.fromarray(IMAGE).save(photo, "png")
    path.write_bytes(plotted_by_matplotlib())
    if folder == "figures":
        assert png_path(path) == path  # as earlier versions left it
    foreign = [photo.getvalue(), b"", *([path.read_bytes()] if folder == "elsewhere" else [])]
    for png in foreign:
        path.write_bytes(png)
        with pytest.raises(RecipeError, match="x.png exists and has no mark of a picture that"):
            png_path(path)
        assert path.read_bytes() == png


def plotted_by_matplotlib():
    png = io.BytesIO()
    new_figure(2, 2).savefig(png, format="png")
    return png.getvalue()
