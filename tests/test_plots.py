import numpy as np
from matplotlib.image import imread

from jaxcifar.plots import plot_activations, plot_curves, save_figure
from jaxcifar.run_files import History


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


def test_activations_share_a_scale_in_a_layer_and_state_it():
    maps = np.zeros((4, 4, 3), np.float32)
    maps[0, 0, 1] = 2.5
    maps[1, 1, 2] = -1.0
    figure = plot_activations(
        np.zeros((8, 8, 3), np.uint8), {"conv1": maps, "layer1": maps}, title="t"
    )
    images = [axes.images[0] for axes in figure.axes[1:] if axes.images]
    assert len(images) == 6
    assert {image.get_clim() for image in images} == {(-1.0, 2.5)}
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert "conv1: 4x4, 3 of 3 channels, black -1.00 to white 2.50" in titles


def test_figures_are_saved_as_png(tmp_path):
    path = save_figure(plot_curves(History(rows(2)), title="x"), tmp_path / "new" / "curves.png")
    assert imread(path).shape[2] == 4
