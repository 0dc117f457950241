import os
import shutil
from functools import partial

import numpy as np
import pytest
from matplotlib.figure import Figure

from jaxcifar.common.errors import RecipeError
from jaxcifar.common.figure import save_figure
from jaxcifar.studies.reproduction import galleries
from jaxcifar.studies.reproduction.drawings import Drawing, comparison_drawing, pictures
from jaxcifar.studies.reproduction.entries import Entry
from jaxcifar.studies.reproduction.galleries import gallery_drawings
from jaxcifar.visualize.pictures import draw_grad_cam, draw_mistakes
from tests.studies.reproduction.test_report import write_run


@pytest.fixture
def drawing(tmp_path):
    source = tmp_path / "summary.json"
    source.write_text("{}")

    def draw(*, out, data_dir):
        save_figure(Figure(figsize=(1, 1)), out)
        out.with_suffix(".json").write_text(str(data_dir))

    return Drawing(tmp_path / "pictures" / "x.png", "alt", "caption", source, draw)


def test_a_drawing_is_made_with_its_numbers_and_is_stale_if_its_source_is_newer(drawing):
    assert not drawing.is_done()
    assert pictures([drawing]) == ()
    drawing.make("there")
    assert drawing.is_done()
    assert sorted(p.name for p in drawing.path.parent.iterdir()) == ["x.json", "x.png"]
    assert drawing.path.with_suffix(".json").read_text() == "there"
    (picture,) = pictures([drawing])
    assert (picture.path, picture.alt, picture.caption) == (drawing.path, "alt", "caption")
    later = drawing.path.stat().st_mtime + 1
    os.utime(drawing.source, (later, later))
    assert not drawing.is_done()
    assert pictures([drawing]) == ()


def test_a_drawing_of_something_that_is_gone_is_not_shown(drawing):
    drawing.make()
    drawing.source.unlink()
    assert not drawing.is_done()
    assert pictures([drawing]) == ()


def test_the_comparison_is_drawn_again_when_a_run_was_removed(tmp_path):
    runs = [write_run(tmp_path / "runs" / name) for name in ("scratch", "finetune")]
    entries = [Entry(run.name, "", run.name, run.name, None, (run,)) for run in runs]
    compared = comparison_drawing(tmp_path / "pictures", entries)
    compared.make()
    assert compared.is_done()
    later = compared.path.stat().st_mtime + 1
    shutil.rmtree(runs[0])
    os.utime(tmp_path / "runs", (later, later))
    assert not comparison_drawing(tmp_path / "pictures", entries).is_done()


def test_a_drawing_that_fails_leaves_the_old_picture_and_nothing_else(drawing, monkeypatch):
    drawing.make()
    before = drawing.path.read_bytes()

    def fail(*_):
        raise OSError("no space")

    for function in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, function, fail)
            with pytest.raises(OSError, match="no space"):
                drawing.make()
    assert drawing.path.read_bytes() == before
    assert sorted(p.name for p in drawing.path.parent.iterdir()) == ["x.json", "x.png"]


def test_galleries_show_finetune_or_else_the_first_complete_run(tmp_path):
    runs, folder = tmp_path / "runs", tmp_path / "pictures"

    def entry(name):
        return Entry(name, "", "scratch", "scratch", None, (runs / name,))

    entries = [entry(name) for name in ("scratch", "freeze_a", "finetune")]
    assert gallery_drawings("activations", folder, entries) == []
    write_run(runs / "freeze_a")
    names = [d.path.name for d in gallery_drawings("activations", folder, entries)]
    assert names == [
        "activations_ship_freeze_a.png",
        "activations_cat_freeze_a.png",
        "activations_ship_224_freeze_a.png",
        "activations_cat_224_freeze_a.png",
    ]
    write_run(runs / "finetune")
    (drawing,) = gallery_drawings("grad_cam", folder, entries)
    assert drawing.path.name == "grad_cam_finetune.png"
    assert drawing.draw.args == (draw_grad_cam, runs / "finetune", "grad_cam")


@pytest.mark.parametrize(
    ("draw", "name", "problem", "option"),
    [
        (draw_grad_cam, "grad_cam", "no test image is predicted", "--image"),
        (draw_mistakes, "mistakes", "makes no mistake on the test images", "--split"),
    ],
)
def test_without_an_image_to_show_the_way_out_is_one_of_reproduce(
    stored_run, tmp_path, monkeypatch, draw, name, problem, option
):
    def all_right(network, split):
        data = network.split(split)
        return data, np.eye(10)[data.labels]

    monkeypatch.setattr("jaxcifar.visualize.scoring.CONFIDENT", 2.0)
    monkeypatch.setattr("jaxcifar.visualize.pictures.score_split", all_right)
    with pytest.raises(RecipeError, match=f"{problem}.*{option}"):
        draw(stored_run)
    picture = partial(galleries._draw_found, draw, stored_run, name, data_dir=None)
    with pytest.raises(RecipeError, match=f"{problem}.*--skip {name}$") as raised:
        picture(out=tmp_path / "x.png")
    assert option not in str(raised.value)
    (tmp_path / "x.png").write_bytes(b"somebody else's")  # another error stays as it is
    with pytest.raises(RecipeError, match="name another file with --out$"):
        picture(out=tmp_path / "x.png")
