"""Drawing returns the figure and writes nothing unasked; saving writes into the run's figures."""

import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.image import imread

import jaxcifar
from jaxcifar.common.errors import RecipeError, RunError
from jaxcifar.runs.curves import draw_curves
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.history import History
from jaxcifar.visualize.saving import save_picture

ROW = {
    "epoch": 1,
    "step": 3,
    "train_loss": 1.5,
    "train_accuracy": 0.5,
    "validation_loss": 1.6,
    "validation_accuracy": 0.4,
}
SETTINGS = {
    "draw_activations": {"layers": ["conv1"], "image": "8", "channels": 2},
    "draw_grad_cam": {"images": ["8"]},
    "draw_mistakes": {"count": 2},
    "draw_confusion": {},
}


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_public_drawing_returns_its_figure_and_writes_nothing(stored_run, name, monkeypatch):
    monkeypatch.chdir(stored_run)
    before = files_of(stored_run)
    figure = getattr(jaxcifar, name)(stored_run, **SETTINGS[name])
    assert isinstance(figure, Figure)
    assert files_of(stored_run) == before
    assert not pyplot.get_fignums()
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_drawing_is_written_where_it_is_asked_to_be(stored_run, tmp_path):
    network = jaxcifar.load(stored_run)
    path = tmp_path / "new" / "a.png"
    figure = jaxcifar.draw_confusion(network, out=path)
    assert path.read_bytes() == figure._repr_png_()
    assert path.with_suffix(".json").is_file()
    assert not (stored_run / "figures").exists()


def test_saving_writes_the_same_picture_into_the_runs_figures(stored_run, tmp_path):
    path = save_picture(jaxcifar.draw_confusion, stored_run)
    assert path == stored_run / "figures" / "confusion.png"
    jaxcifar.draw_confusion(stored_run, out=tmp_path / "a.png")
    assert path.read_bytes() == (tmp_path / "a.png").read_bytes()


def test_layers_given_in_order_are_the_default_whatever_their_type(stored_run):
    from jaxcifar.visualize.feature_maps import REPORT_LAYERS
    from jaxcifar.visualize.pictures import draw_mistakes
    from jaxcifar.visualize.saving import _NAMES, draw_activations

    network = jaxcifar.load(stored_run)
    given = {"layers": list(REPORT_LAYERS), "image": "8", "size": None, "channels": 8}
    given |= {"order": "active", "scale": "channel"}
    assert _NAMES[draw_activations](network, given) == "activations_8"
    given |= {"order": "first", "scale": "layer"}
    assert _NAMES[draw_activations](network, given) == "activations_8_order=first_scale=layer"
    assert _NAMES[draw_mistakes](network, {"count": 16, "split": "test"}) == "mistakes"


def test_curves_are_of_a_history_or_of_a_run(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.create({"recipe": {}, "experiment": "my $1 run"})
    with pytest.raises(RunError, match="before the first epoch is complete"):
        draw_curves(run.path)
    run.append_row(ROW)
    before = files_of(tmp_path)
    figure = draw_curves(run.path)
    assert figure.get_suptitle() == r"my \$1 run"
    assert draw_curves(History([ROW]), title="mine").get_suptitle() == "mine"
    assert files_of(tmp_path) == before
    draw_curves(str(run.path), out=str(tmp_path / "curves.png"))
    assert imread(tmp_path / "curves.png").shape[:2] == (456, 1152)
    for out, message in (("x.pdf", r"end in \.png, not 'x\.pdf'"), (tmp_path / "run", "end in")):
        with pytest.raises(RecipeError, match=message):
            draw_curves(run.path, out=out)


def test_curves_of_nothing_are_refused(tmp_path):
    with pytest.raises(RunError, match="before the first epoch"):
        draw_curves(History())
    with pytest.raises(RunError):
        draw_curves(tmp_path / "nothing")
