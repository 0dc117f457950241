import itertools

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from jaxcifar.studies.reproduction.comparison import ComparisonPoint, plot_comparison

APART = [ComparisonPoint("scratch", 48, 0.737), ComparisonPoint("freeze_b", 10, 0.709)]
THEIRS = [ComparisonPoint("scratch", 6.1, 0.730), ComparisonPoint("finetune", 6.0, 0.805)]
CROWDED = [ComparisonPoint(f"a_long_name_{n}", 0.3 + n / 1000, 0.2) for n in range(8)]


def test_points_are_where_they_belong_and_axes_have_units():
    figure = plot_comparison(APART, THEIRS, title="t", ours_label="us", others_label="them")
    (axes,) = figure.axes
    ours, theirs = axes.collections
    assert ours.get_offsets().tolist() == [[48, 0.737], [10, 0.709]]
    assert theirs.get_offsets().tolist() == [[6.1, 0.730], [6.0, 0.805]]
    assert len(theirs.get_facecolors()) == 0, "points of another machine are hollow"
    assert "minutes" in axes.get_xlabel()
    assert axes.get_ylabel() == "test accuracy (fraction)"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["us", "them"]


@pytest.mark.parametrize("points", [APART, CROWDED, APART[:1]])
def test_labels_overlap_neither_each_other_nor_the_frame(points):
    figure = plot_comparison(points, THEIRS, title="t")
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    (axes,) = figure.axes
    labels = [Text.get_window_extent(label, renderer) for label in axes.texts]
    assert [label.get_text() for label in axes.texts] == [p.label for p in (*points, *THEIRS)]
    for one, other in itertools.combinations(labels, 2):
        assert not one.overlaps(other)
    frame = axes.get_window_extent(renderer)
    assert all(frame.contains(*box.min) and frame.contains(*box.max) for box in labels)
    assert axes.get_xticks().size
