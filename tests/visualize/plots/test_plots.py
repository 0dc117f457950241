import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.figure import save_figure
from jaxcifar.runs.curves import plot_curves
from jaxcifar.runs.history import History
from jaxcifar.visualize.plots import (
    Overlay,
    plot_activations,
    plot_confusion,
    plot_grad_cam,
    plot_images,
)
from jaxcifar.visualize.plots.maps import chosen_channels

IMAGE = np.zeros((8, 8, 3), np.uint8)
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def rows(count):
    return [
        {
            "epoch": e,
            "train_loss": 2.0 / e,
            "validation_loss": 2.5 / e,
            "train_accuracy": 1 - 0.5 / e,
            "validation_accuracy": 0.7 if e in (2, 3) else 0.6,
        }
        for e in range(1, count + 1)
    ]


def boxes(figure):
    """Every axes with its labels and every title, in pixels."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    pairs = [
        (axes.get_title(loc="left") or axes.get_label(), axes.get_tightbbox(renderer))
        for axes in figure.axes
    ]
    return [*pairs, ("title", figure._suptitle.get_window_extent(renderer))]


def assert_nothing_overlaps(figure):
    pairs = boxes(figure)
    width, height = figure.canvas.get_width_height()
    for i, (name, box) in enumerate(pairs):
        assert box.x0 >= 0, name
        assert box.y0 >= 0, name
        assert box.x1 <= width, name
        assert box.y1 <= height, name
        for other, second in pairs[i + 1 :]:
            overlap = (
                min(box.x1, second.x1) - max(box.x0, second.x0),
                min(box.y1, second.y1) - max(box.y0, second.y0),
            )
            assert min(overlap) <= 0.5, (name, other, overlap)


def test_curves_show_the_history_with_named_axes():
    figure = plot_curves(History(rows(4)), title="a run")
    loss, accuracy = figure.axes
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("epoch", "loss (nats)")
    assert accuracy.get_ylabel() == "accuracy (fraction)"
    train, validation = loss.get_lines()
    assert list(train.get_ydata()) == [2.0 / e for e in range(1, 5)]
    assert list(validation.get_ydata()) == [2.5 / e for e in range(1, 5)]
    assert "0.700 in epoch 3" in accuracy.get_title()


def test_an_own_loss_has_no_unit_and_may_be_negative():
    history = History([row | {"train_loss": -row["train_loss"]} for row in rows(4)])
    loss, _ = plot_curves(history, title="own", loss_unit=None).axes
    assert loss.get_ylabel() == "loss"
    assert loss.get_ylim()[0] < -2
    assert plot_curves(History(rows(4)), title="cross-entropy").axes[0].get_ylim()[0] == 0


def test_one_epoch_can_be_drawn():
    plot_curves(History(rows(1)), title="short")


def drawn_maps(axes, count, side=48):
    """The maps of the first row, cut out of their picture between the gaps."""
    picture = axes.images[0].get_array()
    step = side + 2
    return [picture[-side:, i * step : i * step + side] for i in range(count)]


def labels(axes):
    return [text.get_text() for text in axes.texts]


@pytest.fixture
def hand_made():
    """Channels [48, 48, 4] whose order by activity is known: 2, 1, 3, and 0, which is constant."""
    maps = np.zeros((48, 48, 4), np.float32)
    maps[..., 0] = 100
    maps[:24, :, 1] = 2  # half 2 and half 0: standard deviation 1
    maps[:24, :, 2] = -8  # 4
    maps[:24, :, 3] = 0.02  # 0.01
    return maps


def test_the_most_active_channels_come_first_and_are_named(hand_made):
    assert list(chosen_channels(hand_made, 3, "active")) == [2, 1, 3]
    assert list(chosen_channels(hand_made, 9, "active")) == [2, 1, 3, 0]
    assert list(chosen_channels(hand_made, 3, "first")) == [0, 1, 2]
    axes = plot_activations(IMAGE, {"conv1": hand_made}, title="t", channels=3).axes[1]
    assert labels(axes) == ["2, std 4", "1, std 1", "3, std 0.01"]
    assert axes.get_title(loc="left") == "conv1: 48x48, 3 of 4 channels, the most active first"
    axes = plot_activations(IMAGE, {"conv1": hand_made}, title="t", order="first").axes[1]
    assert labels(axes) == ["0, std 0", "1, std 1", "2, std 4", "3, std 0.01"]
    assert axes.get_title(loc="left") == "conv1: 48x48, 4 of 4 channels, in order"


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from(["float16", "float32"]))
def test_channels_are_ordered_by_numpys_standard_deviation(seed, count, dtype):
    rng = np.random.default_rng(seed)
    maps = (100 * rng.normal(size=(5, 7, 20)) * rng.uniform(size=20)).astype(dtype)
    maps[..., 4] = maps[..., 3]
    deviations = [np.std(maps[..., c].astype(np.float64)) for c in range(20)]
    expected = np.argsort(-np.array(deviations), kind="stable")[:count]
    np.testing.assert_array_equal(chosen_channels(maps, count, "active"), expected)


def test_each_map_has_its_own_scale(hand_made):
    figure = plot_activations(IMAGE, {"conv1": hand_made}, title="t")
    _, axes, bar = figure.axes
    assert axes.images[0].get_clim() == (0, 1)
    assert axes.images[0].get_cmap().name == "viridis"
    two, one, three, constant = drawn_maps(axes, 4)
    half = np.repeat([[1.0], [0.0]], 24, axis=0) * np.ones(48)
    np.testing.assert_array_equal(two, 1 - half)
    np.testing.assert_array_equal(one, half)
    np.testing.assert_array_equal(three, half)
    np.testing.assert_array_equal(constant, 0 * half)
    assert bar.get_xlabel().startswith("colours: from each map's own minimum\nto its own maximum")
    assert "by which the most active are chosen" in bar.get_xlabel()


def test_the_maps_of_a_layer_share_a_scale_which_is_stated(hand_made):
    layers = {"conv1": hand_made, "layer1": 10 * hand_made[:24, :24]}
    figure = plot_activations(IMAGE, layers, title="t", order="first", scale="layer")
    _, conv1, layer1, bar = figure.axes
    assert conv1.images[0].get_clim() == (-8, 100)
    assert conv1.get_title(loc="left") == (
        "conv1: 48x48, 4 of 4 channels, in order; colours from -8 (dark) to 100 (bright)"
    )
    assert layer1.images[0].get_clim() == (-80, 1000)
    assert figure.axes[0].get_title() == "input, 8x8 pixels"
    for channel, drawn in enumerate(drawn_maps(conv1, 4)):
        np.testing.assert_array_equal(drawn, hand_made[..., channel])
    picture = conv1.images[0].get_array()
    assert picture.shape[1] == 8 * 50 - 2  # eight maps with gaps of two
    assert picture.mask[:, 48:50].all()
    assert picture.mask[:, 198:].all()
    assert picture.mask[:-48].all()
    assert bar.get_xlabel().startswith("colours: from the layer's minimum\nto its maximum")
    assert "most active" not in bar.get_xlabel()


@pytest.mark.parametrize("scale", ["channel", "layer"])
@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (2, 2), (60, 60)])
def test_maps_of_any_shape_lie_below_their_labels(shape, scale):
    maps = np.random.default_rng(0).normal(scale=1e-5, size=(*shape, 20))  # with long labels
    figure = plot_activations(IMAGE, {"layer1": maps}, title="t", channels=20, scale=scale)
    FigureCanvasAgg(figure).draw()
    axes = figure.axes[1]
    picture = axes.images[0].get_array()
    assert len(axes.texts) == 20
    for text in axes.texts:
        box = text.get_window_extent().transformed(axes.transData.inverted())
        column = picture.mask[:, round(box.x0 + 0.5)]
        top, bottom = math.ceil(box.y1), math.floor(box.y0)  # rows are counted downwards
        assert top >= 0
        assert column[top : bottom + 1].all(), "a label covers no map"
        assert not column[bottom + 3 : bottom + 20].any(), "its own begins just below"
        assert box.x1 - box.x0 < picture.shape[1] / 8, "and ends before the next one"


def test_an_unknown_order_or_scale_is_refused():
    layers = {"conv1": np.zeros((4, 4, 2))}
    with pytest.raises(RecipeError, match=r"unknown order 'activ'; did you mean 'active'\?"):
        plot_activations(IMAGE, layers, title="t", order="activ")
    with pytest.raises(RecipeError, match="unknown scale 7; choose from channel, layer"):
        plot_activations(IMAGE, layers, title="t", scale=7)


@pytest.mark.parametrize("order", ["active", "first"])
@pytest.mark.parametrize("scale", ["channel", "layer"])
@pytest.mark.parametrize("channels", [1, 8, 20])
def test_the_requested_channels_are_drawn_without_overlap(channels, order, scale):
    maps = np.random.default_rng(0).normal(size=(16, 16, 20))
    layers = {"conv2_block2_3_conv (layer1.1.conv2)": maps, "layer1": maps[:2, :2, :5]}
    image = np.zeros((40, 30, 3), np.uint8)
    figure = plot_activations(
        image, layers, title="word " * 60, channels=channels, order=order, scale=scale
    )
    assert f"{channels} of 20 channels" in figure.axes[1].get_title(loc="left")
    assert f"{min(channels, 5)} of 5 channels" in figure.axes[2].get_title(loc="left")
    shown = figure.axes[1].images[0].get_array()
    assert (~shown.mask).sum() == channels * 48 * 48
    assert_nothing_overlaps(figure)


@pytest.mark.parametrize("count", [1, 10])
def test_a_map_lies_over_a_copy_of_its_image(count):
    heat = np.zeros((8, 8))
    heat[2, 3] = 1
    caption = ("test image 9999: automobile", "predicted automobile (p = 1.000)", "map of cat")
    figure = plot_grad_cam([Overlay(IMAGE, heat, caption)] * count, title="word " * 40)
    image, overlay = figure.axes[:2]
    assert len(image.images) == 1
    np.testing.assert_array_equal(overlay.images[0].get_array(), IMAGE)
    np.testing.assert_array_equal(overlay.images[1].get_array(), heat)
    assert overlay.images[1].get_clim() == (0, 1)
    assert image.texts[0].get_text() == "\n".join(caption)
    bar = figure.axes[-1]
    assert bar.get_xlabel() == "Grad-CAM (fraction of the map's maximum)"
    # The colour bar means the colours of the maps, which are perceptually uniform.
    assert overlay.images[1].get_cmap().name == bar.collections[-1].get_cmap().name == "inferno"
    assert overlay.images[1].get_alpha() == bar.collections[-1].get_alpha()
    assert len(figure.axes) == 2 * count + 1
    assert_nothing_overlaps(figure)


def test_images_of_any_shape_and_name_do_not_overlap():
    wide, tall = np.zeros((8, 90, 3), np.uint8), np.zeros((90, 8, 3), np.uint8)
    name = "a_very_long_file_name_of_a_camera_20261124.jpg"
    figure = plot_images([wide, tall, IMAGE, IMAGE, IMAGE], [(name, "predicted")] * 5, title="t")
    assert figure.axes[0].texts[0].get_text().splitlines()[0] == "a_very_long_file…era_20261124.jpg"
    assert_nothing_overlaps(figure)


@pytest.mark.parametrize("names", [CIFAR, [f"class number {i}" for i in range(40)], ["a", "b"]])
def test_a_confusion_matrix_has_its_counts_and_accuracies(names):
    count = len(names)
    confusion = np.random.default_rng(0).integers(0, 1000, (count, count))
    confusion[0] = 0
    accuracy = np.diag(confusion) / np.maximum(confusion.sum(axis=1), 1)
    accuracy[0] = np.nan
    figure = plot_confusion(confusion, accuracy, names, title="test accuracy; a run")
    matrix, bars = figure.axes
    assert matrix.get_xlabel().startswith("predicted class")
    assert matrix.get_ylabel() == "true class"
    assert bars.get_xlabel() == "accuracy of the class (fraction)"
    np.testing.assert_allclose([bar.get_width() for bar in bars.patches][1:], accuracy[1:])
    if count <= 10:
        counts = {text.get_position(): text.get_text() for text in matrix.texts}
        assert counts == {(p, t): str(n) for (t, p), n in np.ndenumerate(confusion)}
        assert [text.get_text() for text in bars.texts][:2] == ["no images", f"{accuracy[1]:.3f}"]
        assert [label.get_text() for label in matrix.get_yticklabels()] == names
    else:
        assert not matrix.texts
    assert_nothing_overlaps(figure)


def test_figures_are_saved_as_png(tmp_path):
    path = save_figure(plot_curves(History(rows(2)), title="x"), tmp_path / "new" / "curves.png")
    assert imread(path).shape[2] == 4
