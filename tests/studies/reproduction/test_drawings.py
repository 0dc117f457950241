import os

import pytest
from matplotlib.figure import Figure

from jaxcifar.common.figure import save_figure
from jaxcifar.studies.reproduction.drawings import Drawing, pictures
from jaxcifar.studies.reproduction.entries import Entry
from jaxcifar.studies.reproduction.galleries import gallery_drawings
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
    def entry(name):
        return Entry(name, "", "scratch", "scratch", None, (tmp_path / name,))

    entries = [entry(name) for name in ("scratch", "freeze_a", "finetune")]
    assert gallery_drawings("activations", tmp_path, entries) == []
    write_run(tmp_path / "freeze_a")
    names = [d.path.name for d in gallery_drawings("activations", tmp_path, entries)]
    assert names == [
        "activations_ship_freeze_a.png",
        "activations_cat_freeze_a.png",
        "activations_ship_224_freeze_a.png",
        "activations_cat_224_freeze_a.png",
    ]
    write_run(tmp_path / "finetune")
    (drawing,) = gallery_drawings("grad_cam", tmp_path, entries)
    assert drawing.path.name == "grad_cam_finetune.png"
    assert drawing.draw.args == (tmp_path / "finetune",)
