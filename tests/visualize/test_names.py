"""The names of pictures: plain, short, and another for each picture."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxcifar.visualize.names import image_word, images_word, picture_name, word
from jaxcifar.visualize.pictures import (
    draw_activations,
    draw_confusion,
    draw_grad_cam,
    draw_mistakes,
)
from jaxcifar.visualize.saving import save_picture

CLASSES = ("8", "ship", "Ship", "a/b", "8_64", "x" * 300, "猫", "last", "index=8")


def test_the_defaults_have_the_names_of_the_documentation():
    assert picture_name("activations", image_word("8", ("8",))) == "activations_8"
    assert picture_name("activations", image_word("ship", ("ship",))) == "activations_ship"
    assert picture_name("grad_cam", image=None, target=None, size=None) == "grad_cam"
    assert picture_name("mistakes", split=None) == "mistakes"


def test_classes_indices_and_files_of_one_name_are_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, data in (("a", b"one"), ("b", b"another")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "1.png").write_bytes(data)
    (tmp_path / "ship.png").write_bytes(b"one")
    images = [*CLASSES, 8, "9", 10, "a/1.png", "b/1.png", "ship.png", "08.png"]
    words = [image_word(image, CLASSES).lower() for image in images]
    assert len(set(words)) == len(images)
    assert image_word("a/1.png", CLASSES) == image_word(str(tmp_path / "a/1.png"), CLASSES)
    assert image_word("007", CLASSES) == image_word(7, CLASSES) == "7"


texts = st.text(st.characters(codec=None)) | st.text("aA8_-=./\\\n", max_size=300)


@given(texts)
def test_a_word_is_plain_and_short(text):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", word(text))
    maps = {"channels": 10**9, "order": "active", "scale": "channel"}
    activations = picture_name("activations", word(text), layers=word(text), size=1024, **maps)
    images = {"count": 100, "split": "validation"}
    others = picture_name(
        "grad_cam", image=word(text), layer=word(text), target=word(text), size=1024, **images
    )
    for name in (activations, others):
        assert len(f"{name}_{10**18}.png".encode()) < 200


@given(texts, texts)
def test_other_texts_have_other_words(one, other):
    assert (word(one).lower() == word(other).lower()) == (one == other)


def test_the_order_of_images_counts():
    both = images_word(["8", "ship"], CLASSES), images_word(["ship", "8"], CLASSES)
    assert both[0] != both[1]
    assert images_word(["ship"], CLASSES) == "ship"


@pytest.mark.slow
def test_no_drawing_replaces_another(stored_run, tmp_path):
    from PIL import Image

    for folder, color in (("a", "red"), ("b", "blue")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (32, 32), color).save(tmp_path / folder / "1.png")
    one, other = str(tmp_path / "a" / "1.png"), str(tmp_path / "b" / "1.png")
    layers = ["conv1"]
    drawn = [
        save_picture(draw_activations, stored_run, layers, one),
        save_picture(draw_activations, stored_run, layers, other),
        save_picture(draw_activations, stored_run, layers, "1"),
        save_picture(draw_activations, stored_run, layers, 1),
        save_picture(draw_activations, stored_run, ["layer1"], "1"),
        save_picture(draw_activations, stored_run, layers, "1", size=64),
        save_picture(draw_activations, stored_run, layers, "1", channels=2),
        save_picture(draw_activations, stored_run, layers, "1", order="first"),
        save_picture(draw_activations, stored_run, layers, "1", scale="layer"),
        save_picture(draw_activations, stored_run, layers, "1", order="first", scale="layer"),
        save_picture(draw_activations, stored_run, layers, "1", which=0),
        save_picture(draw_grad_cam, stored_run, images=["1"]),
        save_picture(draw_grad_cam, stored_run, images=["2"]),
        save_picture(draw_grad_cam, stored_run, images=[one]),
        save_picture(draw_grad_cam, stored_run, images=["1"], target="3"),
        save_picture(draw_grad_cam, stored_run, images=["1"], layer="conv1"),
        save_picture(draw_mistakes, stored_run),
        save_picture(draw_mistakes, stored_run, split="validation"),
        save_picture(draw_mistakes, stored_run, count=3),
        save_picture(draw_confusion, stored_run),
        save_picture(draw_confusion, stored_run, split="train"),
    ]
    assert len(set(drawn)) == len(drawn) == len(list((stored_run / "figures").glob("*.png")))
