import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.image import imread

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


def test_one_epoch_can_be_drawn():
    plot_curves(History(rows(1)), title="short")


def test_the_maps_of_a_layer_share_a_scale_which_is_stated():
    maps = np.zeros((48, 48, 3), np.float32)
    maps[0, 0, 1] = 2.5
    maps[47, 47, 2] = -1.0
    figure = plot_activations(IMAGE, {"conv1": maps, "layer1": 10 * maps[:24, :24]}, title="t")
    _, conv1, layer1 = figure.axes
    assert conv1.images[0].get_clim() == (-1.0, 2.5)
    assert conv1.get_title(loc="left") == ("conv1: 48x48, 3 of 3 channels, black -1 to white 2.5")
    assert layer1.images[0].get_clim() == (0.0, 25.0)
    assert figure.axes[0].get_title() == "input, 8x8 pixels"
    drawn = conv1.images[0].get_array()
    assert drawn.shape == (48, 8 * 50 - 2)  # eight maps with gaps of two
    np.testing.assert_array_equal(drawn[:, 50:98], maps[..., 1])
    np.testing.assert_array_equal(drawn[:, 100:148], maps[..., 2])
    assert drawn.mask[:, 48:50].all()
    assert drawn.mask[:, 148:].all()


@pytest.mark.parametrize("channels", [1, 8, 20])
def test_the_requested_channels_are_drawn_without_overlap(channels):
    maps = np.random.default_rng(0).normal(size=(16, 16, 20))
    layers = {"conv2_block2_3_conv (layer1.1.conv2)": maps, "layer1": maps[:2, :2, :5]}
    figure = plot_activations(
        np.zeros((40, 30, 3), np.uint8), layers, title="word " * 60, channels=channels
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
