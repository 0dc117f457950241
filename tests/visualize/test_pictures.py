import dataclasses
import importlib.util
import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image

from jaxcifar.common.errors import ImageFileError, RecipeError, RunError
from jaxcifar.models.pretrained import Preprocessing, export_weights
from jaxcifar.models.resnet import make_resnet
from jaxcifar.training.evaluation import evaluate
from jaxcifar.visualize import pictures
from jaxcifar.visualize.gradcam import grad_cam, upsample
from jaxcifar.visualize.images import find_test_image
from jaxcifar.visualize.network import run_subject, weights_subject
from jaxcifar.visualize.pictures import (
    describe_layers,
    draw_activations,
    draw_confusion,
    draw_grad_cam,
    draw_mistakes,
)
from tests.conftest import random_variables

LAYERS = ["conv1", "layer1.0.conv2"]


@pytest.fixture
def drawn(monkeypatch):
    """What the figures were made of: a list of (arguments, keyword arguments)."""
    calls = []
    for name in ("plot_activations", "plot_grad_cam", "plot_images", "plot_confusion"):
        original = getattr(pictures, name)

        def spy(*arguments, original=original, **settings):
            calls.append((arguments, settings))
            return original(*arguments, **settings)

        monkeypatch.setattr(pictures, name, spy)
    return calls


def probabilities_of(subject, images):
    """Of all images at once, by numpy."""
    inputs = subject.preprocess(jnp.asarray(images))
    logits = np.asarray(subject.model.apply(subject.variables, inputs, train=False), np.float64)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.fixture
def probabilities(stored_run, digits):
    return probabilities_of(run_subject(stored_run), digits.test.images)


def with_head(subject, change):
    """The same network with another head."""
    params = subject.variables["params"]
    params = {**params, "fc": jax.tree.map(change, params["fc"])}
    return dataclasses.replace(subject, variables={**subject.variables, "params": params})


def test_a_class_name_wins_over_an_index(digits):
    assert digits.test.labels[find_test_image(digits, "8")] == 8
    assert find_test_image(digits, "11") == 11
    assert find_test_image(digits, 8) == 8


@pytest.mark.parametrize(
    ("image", "message"), [("360", "there are 360"), ("shap", "did you mean 'ship'"), ("-1", "-1")]
)
def test_an_image_that_is_not_there_is_refused(digits, image, message):
    names = ("ship", *digits.class_names[1:])
    with pytest.raises(RecipeError, match=message):
        find_test_image(dataclasses.replace(digits, class_names=names), image)


class TestActivations:
    def test_a_test_image_is_drawn_as_the_run_sees_it(
        self, stored_run, digits, drawn, probabilities
    ):
        path = draw_activations(stored_run, ["conv1_conv", "layer1"], "8", channels=2)
        assert path == stored_run / "figures" / "activations_8.png"
        assert imread(path).ndim == 3
        ((pixels, maps), settings) = drawn[0]
        index = find_test_image(digits, "8")
        np.testing.assert_array_equal(pixels, digits.test.images[index])
        assert {name: value.shape for name, value in maps.items()} == {
            "conv1_conv (conv1)": (16, 16, 4),
            "layer1": (8, 8, 4),
        }
        said = probabilities[index].argmax()
        assert settings["channels"] == 2
        assert settings["title"] == (
            f"test image {index}: 8, predicted {said} (p = {probabilities[index, said]:.3f}); "
            "run run, best checkpoint"
        )

    def test_any_image_at_any_size(self, stored_run, drawn, tmp_path):
        photo = tmp_path / "photo.jpg"
        Image.new("RGB", (40, 24), "red").save(photo)
        assert draw_activations(stored_run, LAYERS, str(photo)).name == "activations_photo.jpg.png"
        path = draw_activations(stored_run, LAYERS, str(photo), size=48)
        assert path.name == "activations_photo.jpg_48.png"
        path = draw_activations(stored_run, LAYERS, "8", size=64)
        assert path.name == "activations_8_64.png"
        shapes = [(pixels.shape, maps["conv1"].shape) for (pixels, maps), _ in drawn]
        assert shapes == [
            ((24, 40, 3), (12, 20, 4)),
            ((48, 48, 3), (24, 24, 4)),
            ((64, 64, 3), (32, 32, 4)),
        ]
        assert drawn[0][1]["title"].startswith("photo.jpg, predicted ")

    def test_what_cannot_be_drawn_is_refused_before_anything_is_written(
        self, stored_run, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        Image.new("RGB", (1500, 30)).save(tmp_path / "long.png")
        Image.new("RGB", (30, 5)).save(tmp_path / "flat.png")
        (tmp_path / "text.png").write_text("years of work")
        (tmp_path / "folder.png").mkdir()
        before = sorted(p.name for p in tmp_path.rglob("*.png"))
        out = tmp_path / "x.png"
        for arguments, settings, message in (
            ((["layer1.0.conv3"], "8"), {}, r"did you mean 'layer1\.0\.conv2'.*--list-layers"),
            ((["fc"], "8"), {}, "puts out a vector"),
            ((["conv1"], "8"), {"out": "x.foo"}, r"end in \.png, not 'x\.foo'"),
            ((["conv1"], "8"), {"out": "folder.png"}, "is a directory"),
            ((["conv1"], "8"), {"channels": 0}, "channels must be at least 1, not 0"),
            ((["conv1"], "8"), {"size": 7}, "size must lie between 8 and 1024 pixels, not 7"),
            ((["conv1"], "8"), {"size": 1025}, "not 1025"),
            ((["conv1"], "long.png"), {}, "is 1500x30 pixels, and .* give a --size"),
            ((["conv1"], "flat.png"), {}, "is 30x5 pixels"),
            ((["conv1"], "long.png"), {"out": "long.png"}, "is the image to be shown"),
            ((["conv1"], "shap"), {}, "'shap' is no class, index or image file"),
            ((["conv1"], "400"), {}, "test image 400 does not exist"),
        ):
            with pytest.raises(RecipeError, match=message):
                draw_activations(stored_run, *arguments, **{"out": out} | settings)
        for image, message in (("text.png", "is not an image"), ("none.png", "no image file none")):
            with pytest.raises(ImageFileError, match=message):
                draw_activations(stored_run, LAYERS, image, out=out)
        assert sorted(p.name for p in tmp_path.rglob("*.png")) == before

    def test_an_image_file_needs_no_dataset(self, stored_run, tmp_path, monkeypatch):
        monkeypatch.setattr(
            "jaxcifar.visualize.network.load_splits", lambda *_: pytest.fail("loaded")
        )
        Image.new("RGB", (16, 16), "blue").save(tmp_path / "blue.png")
        assert draw_activations(stored_run, LAYERS, str(tmp_path / "blue.png")).exists()


class TestGradCam:
    def test_the_images_are_not_picked(self, stored_run, digits, drawn):
        """The untrained network is made sure of what it says."""
        sure = with_head(run_subject(stored_run), lambda x: 60 * (x - x.mean(-1, keepdims=True)))
        own = probabilities_of(sure, digits.test.images)[np.arange(360), digits.test.labels]
        confident = np.flatnonzero(own >= 0.9)
        assert 4 <= len(confident) < 99
        path = draw_grad_cam(sure, count=3)
        assert path == stored_run / "figures" / "grad_cam.png"
        ((overlays,), settings) = drawn[0]
        assert [o.caption[0].split(":")[0] for o in overlays] == [
            f"test image {index}" for index in confident[:3]
        ]
        assert settings["title"] == (
            "Grad-CAM of the predicted class at layer1 (8x8), the first 3 test images in the order "
            "of their index that are predicted correctly with a probability of at least 0.9; run "
            "run, best checkpoint"
        )
        draw_grad_cam(sure, count=99)
        ((overlays,), settings) = drawn[1]
        assert len(overlays) == len(confident)
        assert f"{len(confident)} test images, all that are predicted" in settings["title"]
        assert "(99 were asked for)" in settings["title"]

    def test_the_map_is_of_the_class_and_layer_asked_for(self, stored_run, digits, drawn):
        draw_grad_cam(stored_run, images=["8", "5"], target="3", layer="conv1_conv")
        ((overlays,), settings) = drawn[0]
        subject = run_subject(stored_run)
        for overlay, image in zip(overlays, ("8", "5"), strict=True):
            pixels = digits.test.images[find_test_image(digits, image)]
            inputs = subject.preprocess(jnp.asarray(pixels)[None])
            maps = grad_cam(subject.model, subject.variables, inputs, jnp.array([3]), "conv1")
            np.testing.assert_allclose(overlay.heat, upsample(maps, 32, 32)[0], atol=1e-5)
            np.testing.assert_array_equal(overlay.image, pixels)
            assert overlay.caption[2].startswith("map of 3 (p = ")
        assert "of class 3 at conv1 (16x16), 2 images as named" in settings["title"]

    def test_what_cannot_be_explained_is_refused(self, stored_run):
        for settings, message in (
            ({"layer": "layer1.0"}, "a child of the network that has a map, not 'layer1.0'"),
            ({"layer": "fc"}, "not 'fc'"),
            ({"target": "shap"}, "unknown target 'shap'"),
            ({"count": 0}, "count must lie between 1 and 100, not 0"),
            ({"images": ["8"], "size": 9}, "no stage has a map of 4x4 for an image of 9 pixels"),
            ({"images": []}, "no images"),
        ):
            with pytest.raises(RecipeError, match=message):
                draw_grad_cam(stored_run, **settings)
        assert not (stored_run / "figures").exists()


class TestScores:
    def test_mistakes_are_the_surest_wrong_ones(self, stored_run, digits, drawn, probabilities):
        path = draw_mistakes(stored_run, count=5)
        assert path == stored_run / "figures" / "mistakes.png"
        ((images, captions), settings) = drawn[0]
        labels, said = digits.test.labels, probabilities.argmax(axis=1)
        wrong = sorted(np.flatnonzero(said != labels), key=lambda i: -probabilities[i].max())
        assert captions == [
            (
                f"test image {i}: {labels[i]}",
                f"predicted {said[i]} (p = {probabilities[i].max():.3f})",
            )
            for i in wrong[:5]
        ]
        np.testing.assert_array_equal(images, digits.test.images[wrong[:5]])
        assert f"The 5 most confident mistakes among {len(wrong)} on 360 test" in settings["title"]

    def test_the_confusion_is_counted_drawn_and_written(self, stored_run, digits, probabilities):
        path = draw_confusion(stored_run, out=stored_run / "new" / "c.png")
        assert path.exists()
        numbers = json.loads((stored_run / "new" / "c.json").read_text())
        counts = np.zeros((10, 10), int)
        for true, said in zip(digits.test.labels, probabilities.argmax(axis=1), strict=True):
            counts[true, said] += 1
        assert numbers["confusion"] == counts.tolist()
        assert numbers["per_class_accuracy"] == (np.diag(counts) / counts.sum(axis=1)).tolist()
        assert numbers["accuracy"] == np.trace(counts) / 360
        assert (numbers["split"], numbers["examples"]) == ("test", 360)
        assert numbers["class_names"] == list("0123456789")
        draw_confusion(stored_run, out=stored_run / "new" / "c.png")  # its own may be replaced

    def test_a_run_scored_with_mirror_images_is_drawn_so(self, stored_run, digits, drawn):
        config = stored_run / "config.json"
        settings = json.loads(config.read_text())
        settings["recipe"]["test_mirror"] = True
        config.write_text(json.dumps(settings))
        subject = run_subject(stored_run)
        images = digits.test.images
        likely = np.log(probabilities_of(subject, images)).mean(axis=0)  # or all would be of one
        subject = with_head(subject, lambda x: x - likely if x.ndim == 1 else x)
        # The softmax of mean logits is a geometric mean, but for a factor.
        plain, mirrored = (probabilities_of(subject, x) for x in (images, images[:, :, ::-1]))
        said = (plain * mirrored).argmax(axis=1)
        assert (said != plain.argmax(axis=1)).any()
        draw_confusion(subject)
        ((confusion, *_), titles) = drawn[0]
        counts = np.zeros((10, 10), int)
        np.add.at(counts, (digits.test.labels, said), 1)
        np.testing.assert_array_equal(confusion, counts)
        assert titles["title"].endswith("best checkpoint, mean with the mirror image")
        scored = evaluate(
            subject.model, subject.variables, digits.test, normalize="half", mirror=True
        )
        assert np.trace(counts) / 360 == pytest.approx(scored["accuracy"])
        draw_mistakes(subject, count=1)
        assert f"among {np.sum(said != digits.test.labels)} on" in drawn[1][1]["title"]

    def test_counts_never_take_the_place_of_another_file(self, stored_run):
        before = (stored_run / "config.json").read_bytes()
        with pytest.raises(RecipeError, match=r"config\.json holds something else"):
            draw_confusion(stored_run, out=stored_run / "config.png")
        assert (stored_run / "config.json").read_bytes() == before
        assert not (stored_run / "config.png").exists()

    def test_another_checkpoint_has_pictures_of_its_own(self, stored_run):
        assert draw_mistakes(stored_run, which="last").name == "mistakes_last.png"
        path = draw_activations(stored_run, ["conv1"], "8", which=0)
        assert path.name == "activations_8_0.png"

    def test_other_splits_need_the_data_the_run_had(self, stored_run, digits):
        draw_confusion(stored_run, split="validation")
        numbers = json.loads((stored_run / "figures" / "confusion.json").read_text())
        assert numbers["examples"] == len(digits.validation)
        config = stored_run / "config.json"
        config.write_text(config.read_text().replace(digits.fingerprint, "another"))
        with pytest.raises(RunError, match="use --split test"):
            draw_confusion(stored_run, split="validation")


@pytest.fixture
def weights(tiny, tmp_path):
    """A file of weights with seven classes, and the network in it."""
    path = tmp_path / "w.safetensors"
    preprocessing = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    export_weights(
        random_variables(make_resnet("tiny", 7, width=4)), path, preprocessing=preprocessing
    )
    return path


def test_weights_without_a_run_are_drawn_alike(weights, digits, drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subject = weights_subject(weights, architecture="tiny", dataset="digits")
    path = draw_activations(subject, LAYERS, "8")
    assert str(path) == "figures/w/activations_8.png"
    assert path.exists()
    assert "weights w.safetensors" in drawn[0][1]["title"]
    draw_grad_cam(subject, images=["8"], target="6")
    for draw in (draw_confusion, draw_mistakes, draw_grad_cam):
        with pytest.raises(RecipeError, match="7 classes, not those of digits"):
            draw(subject)


def test_a_network_gone_astray_is_not_drawn(stored_run):
    astray = with_head(run_subject(stored_run), lambda x: x * np.nan)
    activations = partial(draw_activations, layers=LAYERS)
    for draw in (draw_confusion, draw_mistakes, draw_grad_cam, activations):
        with pytest.raises(RecipeError, match="is not finite"):
            draw(astray)


def test_every_layer_is_listed_with_its_shape(stored_run):
    lines = describe_layers(stored_run, size=64).splitlines()
    assert lines[0].split() == ["conv1", "32x32x4", "(Keras:", "conv1_conv)"]
    names = [line.split()[0] for line in lines]
    assert names[:5] == ["conv1", "bn1", "relu", "maxpool", "layer1"]
    assert names[5:11] == [
        f"layer1.0{name}" for name in ("", ".bn1", ".bn2", ".conv1", ".conv2", ".relu1")
    ]
    assert names[11:] == ["avgpool", "fc"]
    assert lines[-1].split() == ["fc", "10"]
    assert describe_layers(stored_run).splitlines()[0].split()[1] == "16x16x4"


@pytest.fixture
def script(root, monkeypatch):
    """scripts/visualize.py in this process."""
    spec = importlib.util.spec_from_file_location("visualize", root / "scripts" / "visualize.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["visualize.py", *map(str, arguments)])
        module.main()

    return run


def test_the_script_lists_and_draws(script, stored_run, weights, capsys, tmp_path):
    script(stored_run, "--list-layers")
    assert "layer1.0.conv1" in capsys.readouterr().out
    script("--grad-cam", stored_run, "--image", "8", "--layers", "conv1")
    assert capsys.readouterr().out == f"wrote {stored_run / 'figures' / 'grad_cam.png'}\n"
    script(stored_run, "--layers", "conv1", "--checkpoint", "last", "--out", tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name a RUN or --weights, one of them"),
        (("run", "--weights", "x.pth"), "name a RUN or --weights, one of them"),
        (
            ("run", "--mistakes", "--confusion"),
            "one picture a call, not --mistakes and --confusion",
        ),
        (("run", "--mistakes", "--layers", "conv1"), "--layers is not for --mistakes"),
        (("run", "--target", "cat"), "--target is not for --activations"),
        (("run", "--grad-cam", "--layers", "conv1", "layer1"), "--grad-cam is of one layer"),
        (("run", "--list-layers", "--out", "x.png"), "--list-layers prints and writes nothing"),
        (("--weights", "w", "--checkpoint", "last"), "--checkpoint is for a RUN"),
        (("run", "--dataset", "digits"), "--dataset is for --weights; a run knows its own"),
        (("run", "--grad-cm"), "unknown option --grad-cm; did you mean '--grad-cam'?"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(script, arguments, message, capsys):
    with pytest.raises(SystemExit):
        script(*arguments)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("image", ["9" * 5_000, "360", "-1", "\u0663" * 20])
def test_an_index_that_is_none_is_one_short_error(digits, image):
    with pytest.raises(RecipeError) as caught:
        find_test_image(digits, image)
    assert len(str(caught.value)) < 300
