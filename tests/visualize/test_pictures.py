import dataclasses
import hashlib
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread
from PIL import Image

from jaxcifar.common.errors import ImageFileError, RecipeError, RunError
from jaxcifar.inference.gradcam import grad_cam, upsample
from jaxcifar.inference.load import network_of_run, network_of_weights
from jaxcifar.models.preprocessing import Preprocessing
from jaxcifar.models.pretrained import export_weights
from jaxcifar.models.resnet import make_resnet
from jaxcifar.training.evaluation import evaluate
from jaxcifar.visualize import pictures
from jaxcifar.visualize.images import find_test_image
from jaxcifar.visualize.pictures import (
    describe_layers,
    draw_activations,
    draw_confusion,
    draw_grad_cam,
    draw_mistakes,
)
from jaxcifar.visualize.saving import save_picture
from tests.conftest import random_variables

LAYERS = ["conv1", "layer1.0.conv2"]


@pytest.fixture
def drawn(monkeypatch):
    """The calls of the plot functions: a list of (arguments, keyword arguments)."""
    calls = []
    for name in ("plot_activations", "plot_grad_cam", "plot_images", "plot_confusion"):
        original = getattr(pictures, name)

        def spy(*arguments, original=original, **settings):
            calls.append((arguments, settings))
            return original(*arguments, **settings)

        monkeypatch.setattr(pictures, name, spy)
    return calls


def probabilities_of(network, images):
    """The probabilities of all images at once, by numpy."""
    inputs = network.preprocess(jnp.asarray(images))
    logits = np.asarray(network.model.apply(network.variables, inputs, train=False), np.float64)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.fixture
def probabilities(stored_run, digits):
    return probabilities_of(network_of_run(stored_run), digits.test.images)


def with_head(network, change):
    """The same network with another head."""
    params = network.variables["params"]
    params = {**params, "fc": jax.tree.map(change, params["fc"])}
    return dataclasses.replace(network, variables={**network.variables, "params": params})


def test_a_class_name_wins_over_an_index(digits):
    assert digits.test.labels[find_test_image(digits.class_names, digits.test.labels, "8")] == 8
    assert find_test_image(digits.class_names, digits.test.labels, "11") == 11
    assert find_test_image(digits.class_names, digits.test.labels, 8) == 8


@pytest.mark.parametrize(
    ("image", "message"), [("360", "there are 360"), ("shap", "did you mean 'ship'"), ("-1", "-1")]
)
def test_an_image_that_does_not_exist_is_refused(digits, image, message):
    names = ("ship", *digits.class_names[1:])
    with pytest.raises(RecipeError, match=message):
        find_test_image(names, digits.test.labels, image)


class TestActivations:
    def test_a_test_image_is_drawn_as_the_run_sees_it(
        self, stored_run, digits, drawn, probabilities
    ):
        layers = ["conv1_conv", "layer1"]
        path = save_picture(draw_activations, stored_run, layers, "8", channels=2)
        assert path.parent == stored_run / "figures"
        assert imread(path).ndim == 3
        ((pixels, maps), settings) = drawn[0]
        index = find_test_image(digits.class_names, digits.test.labels, "8")
        np.testing.assert_array_equal(pixels, digits.test.images[index])
        assert {name: value.shape for name, value in maps.items()} == {
            "conv1_conv (conv1)": (16, 16, 4),
            "layer1": (8, 8, 4),
        }
        predicted = probabilities[index].argmax()
        assert (settings["channels"], settings["order"]) == (2, "active")
        assert settings["scale"] == "channel"
        assert settings["title"] == (
            f"test image {index}: 8, predicted {predicted} "
            f"(p = {probabilities[index, predicted]:.3f}); run run, best checkpoint"
        )

    def test_any_image_at_any_size(self, stored_run, drawn, tmp_path):
        photo = tmp_path / "photo.jpg"
        Image.new("RGB", (40, 24), "red").save(photo)
        digest = hashlib.sha256(photo.read_bytes()).hexdigest()[:8]
        path = save_picture(draw_activations, stored_run, ["conv1"], str(photo))
        assert path.name == f"activations_photo-{digest}_layers=conv1.png"
        path = save_picture(draw_activations, stored_run, ["conv1"], str(photo), size=48)
        assert path.name == f"activations_photo-{digest}_layers=conv1_size=48.png"
        path = save_picture(draw_activations, stored_run, ["conv1"], "8", size=64)
        assert path.name == "activations_8_layers=conv1_size=64.png"
        save_picture(draw_activations, stored_run, ["conv1"], str(photo), size="own")
        shapes = [(pixels.shape, maps["conv1"].shape) for (pixels, maps), _ in drawn]
        assert shapes == [
            ((32, 32, 3), (16, 16, 4)),
            ((48, 48, 3), (24, 24, 4)),
            ((64, 64, 3), (32, 32, 4)),
            ((24, 40, 3), (12, 20, 4)),
        ]
        assert drawn[0][1]["title"].startswith("photo.jpg, predicted ")

    def test_an_invalid_request_is_refused_before_anything_is_written(
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
            ((["fc"], "8"), {}, r"is \[10\], not feature maps"),
            ((["conv1"], "8"), {"out": "x.foo"}, r"end in \.png, not 'x\.foo'"),
            ((["conv1"], "8"), {"out": "folder.png"}, "is a directory"),
            ((["conv1"], "8"), {"channels": 0}, "channels must be at least 1, not 0"),
            (
                (["conv1"], "8"),
                {"order": "last"},
                "unknown order 'last'; choose from active, first",
            ),
            ((["conv1"], "8"), {"scale": "layers"}, "unknown scale 'layers'; did you mean 'layer'"),
            ((["conv1"], "8"), {"size": 7}, "size must lie between 8 and 1024 pixels, not 7"),
            ((["conv1"], "8"), {"size": 1025}, "not 1025"),
            ((["conv1"], "long.png"), {"size": "own"}, "has 1500x30 pixels, and .* set --size"),
            ((["conv1"], "flat.png"), {"size": "own"}, "has 30x5 pixels"),
            ((["conv1"], "long.png"), {"out": "long.png"}, "is an image to show"),
            ((["conv1"], "shap"), {}, "'shap' is not a class, an index or an image file"),
            ((["conv1"], "400"), {}, "test image 400 does not exist"),
        ):
            with pytest.raises(RecipeError, match=message):
                save_picture(draw_activations, stored_run, *arguments, **{"out": out} | settings)
        for image, message in (("text.png", "is not an image"), ("none.png", "no image file none")):
            with pytest.raises(ImageFileError, match=message):
                save_picture(draw_activations, stored_run, LAYERS, image, out=out)
        assert sorted(p.name for p in tmp_path.rglob("*.png")) == before

    def test_an_image_file_needs_no_dataset(self, stored_run, tmp_path, monkeypatch):
        monkeypatch.setattr(
            "jaxcifar.inference.labelled.load_labelled", lambda *_: pytest.fail("loaded")
        )
        Image.new("RGB", (16, 16), "blue").save(tmp_path / "blue.png")
        assert save_picture(
            draw_activations, stored_run, LAYERS, str(tmp_path / "blue.png")
        ).exists()


class TestGradCam:
    def test_the_images_are_not_picked(self, stored_run, digits, drawn):
        """The untrained network gets a head that makes its predictions confident."""
        confident_network = with_head(
            network_of_run(stored_run), lambda x: 60 * (x - x.mean(-1, keepdims=True))
        )
        own = probabilities_of(confident_network, digits.test.images)[
            np.arange(360), digits.test.labels
        ]
        confident = np.flatnonzero(own >= 0.9)
        assert 4 <= len(confident) < 99
        path = save_picture(draw_grad_cam, confident_network, count=3)
        assert path == stored_run / "figures" / "grad_cam_count=3.png"
        ((overlays,), settings) = drawn[0]
        assert [o.caption[0].split(":")[0] for o in overlays] == [
            f"test image {index}" for index in confident[:3]
        ]
        assert settings["title"] == (
            "Grad-CAM of the predicted class at layer1 (8x8), the first 3 test images, by index, "
            "predicted correctly with a probability of at least 0.9; run run, best checkpoint"
        )
        save_picture(draw_grad_cam, confident_network, count=99)
        ((overlays,), settings) = drawn[1]
        assert len(overlays) == len(confident)
        assert f"all {len(confident)} test images predicted correctly" in settings["title"]
        assert "(99 were requested)" in settings["title"]

    def test_the_map_is_of_the_requested_class_and_layer(self, stored_run, digits, drawn):
        save_picture(draw_grad_cam, stored_run, images=["8", "5"], target="3", layer="conv1_conv")
        ((overlays,), settings) = drawn[0]
        network = network_of_run(stored_run)
        for overlay, image in zip(overlays, ("8", "5"), strict=True):
            pixels = digits.test.images[
                find_test_image(digits.class_names, digits.test.labels, image)
            ]
            inputs = network.preprocess(jnp.asarray(pixels)[None])
            maps = grad_cam(network.model, network.variables, inputs, jnp.array([3]), "conv1")
            np.testing.assert_allclose(overlay.heat, upsample(maps, 32, 32)[0], atol=1e-5)
            np.testing.assert_array_equal(overlay.image, pixels)
            assert overlay.caption[2].startswith("map of 3 (p = ")
        assert "of class 3 at conv1 (16x16), 2 images chosen by hand" in settings["title"]

    def test_an_invalid_explanation_is_refused(self, stored_run):
        for settings, message in (
            ({"layer": "layer1.0"}, "a child of the network whose output is maps, not 'layer1.0'"),
            ({"layer": "fc"}, "not 'fc'"),
            ({"target": "shap"}, "unknown target 'shap'"),
            ({"count": 0}, "count must lie between 1 and 100, not 0"),
            ({"images": ["8"], "size": 9}, "no stage has a map of 4x4 for an image of 9 pixels"),
            ({"images": []}, "no images"),
        ):
            with pytest.raises(RecipeError, match=message):
                save_picture(draw_grad_cam, stored_run, **settings)
        assert not (stored_run / "figures").exists()


class TestScores:
    def test_mistakes_are_the_most_confident_wrong_predictions(
        self, stored_run, digits, drawn, probabilities
    ):
        path = save_picture(draw_mistakes, stored_run, count=5)
        assert path == stored_run / "figures" / "mistakes_count=5.png"
        ((images, captions), settings) = drawn[0]
        labels, predicted = digits.test.labels, probabilities.argmax(axis=1)
        wrong = sorted(np.flatnonzero(predicted != labels), key=lambda i: -probabilities[i].max())
        assert captions == [
            (
                f"test image {i}: {labels[i]}",
                f"predicted {predicted[i]} (p = {probabilities[i].max():.3f})",
            )
            for i in wrong[:5]
        ]
        np.testing.assert_array_equal(images, digits.test.images[wrong[:5]])
        assert f"The 5 most confident of {len(wrong)} mistakes on 360 test" in settings["title"]

    def test_the_confusion_is_counted_drawn_and_written(self, stored_run, digits, probabilities):
        path = save_picture(draw_confusion, stored_run, out=stored_run / "new" / "c.png")
        assert path.exists()
        numbers = json.loads((stored_run / "new" / "c.json").read_text())
        counts = np.zeros((10, 10), int)
        for true, predicted in zip(digits.test.labels, probabilities.argmax(axis=1), strict=True):
            counts[true, predicted] += 1
        assert numbers["confusion"] == counts.tolist()
        assert numbers["per_class_accuracy"] == (np.diag(counts) / counts.sum(axis=1)).tolist()
        assert numbers["accuracy"] == np.trace(counts) / 360
        assert (numbers["split"], numbers["examples"]) == ("test", 360)
        assert numbers["class_names"] == list("0123456789")
        assert numbers["network"] == f"run {stored_run.name}, best checkpoint"
        save_picture(
            draw_confusion, stored_run, out=stored_run / "new" / "c.png"
        )  # its own may be replaced

    def test_a_run_scored_with_mirror_images_is_drawn_with_them(self, stored_run, digits, drawn):
        config = stored_run / "config.json"
        settings = json.loads(config.read_text())
        settings["recipe"]["test_mirror"] = True
        config.write_text(json.dumps(settings))
        network = network_of_run(stored_run)
        images = digits.test.images
        likely = np.log(probabilities_of(network, images)).mean(
            axis=0
        )  # otherwise all would be of one class
        network = with_head(network, lambda x: x - likely if x.ndim == 1 else x)
        # The softmax of mean logits is a geometric mean, up to a factor.
        plain, mirrored = (probabilities_of(network, x) for x in (images, images[:, :, ::-1]))
        predicted = (plain * mirrored).argmax(axis=1)
        assert (predicted != plain.argmax(axis=1)).any()
        save_picture(draw_confusion, network)
        ((confusion, *_), titles) = drawn[0]
        counts = np.zeros((10, 10), int)
        np.add.at(counts, (digits.test.labels, predicted), 1)
        np.testing.assert_array_equal(confusion, counts)
        assert titles["title"].endswith("best checkpoint, mean with the mirror image")
        scored = evaluate(
            network.model, network.variables, digits.test, normalize="half", mirror=True
        )
        assert np.trace(counts) / 360 == pytest.approx(scored["accuracy"])
        save_picture(draw_mistakes, network, count=1)
        wrong = np.sum(predicted != digits.test.labels)
        assert f"of {wrong} mistakes on" in drawn[1][1]["title"]

    def test_counts_never_replace_another_file(self, stored_run):
        before = (stored_run / "config.json").read_bytes()
        with pytest.raises(RecipeError, match=r"config\.json exists and holds no confusion matrix"):
            save_picture(draw_confusion, stored_run, out=stored_run / "config.png")
        assert (stored_run / "config.json").read_bytes() == before
        assert not (stored_run / "config.png").exists()

    def test_each_checkpoint_has_its_own_pictures(self, stored_run):
        assert save_picture(draw_mistakes, stored_run, which="last").name == "mistakes_last.png"
        path = save_picture(draw_activations, stored_run, ["conv1"], "8", which=0)
        assert path.name == "activations_8_layers=conv1_0.png"

    def test_other_splits_need_the_data_the_run_had(self, stored_run, digits):
        save_picture(draw_confusion, stored_run, split="validation")
        numbers = stored_run / "figures" / "confusion_split=validation.json"
        numbers = json.loads(numbers.read_text())
        assert numbers["examples"] == len(digits.validation)
        config = stored_run / "config.json"
        config.write_text(config.read_text().replace(digits.fingerprint, "another"))
        with pytest.raises(RunError, match="use --split test"):
            save_picture(draw_confusion, stored_run, split="validation")


@pytest.fixture
def weights(tiny, tmp_path):
    """A file of weights with seven classes, and the network in it."""
    path = tmp_path / "w.safetensors"
    preprocessing = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    export_weights(
        random_variables(make_resnet("tiny", 7, width=4)), path, preprocessing=preprocessing
    )
    return path


def test_weights_without_a_run_are_drawn_the_same_way(
    weights, digits, drawn, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    network = network_of_weights(weights, architecture="tiny", dataset="digits")
    path = save_picture(draw_activations, network, ["conv1"], "8")
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
    assert str(path).startswith(f"figures/w-{digest}/activations_8_layers=conv1_data=")
    assert path.exists()
    assert "weights w.safetensors" in drawn[0][1]["title"]
    save_picture(draw_grad_cam, network, images=["8"], target="6")
    for draw in (draw_confusion, draw_mistakes, draw_grad_cam):
        with pytest.raises(RecipeError, match="7 classes, not those of digits"):
            draw(network)


def test_a_network_with_nan_is_not_drawn(stored_run):
    broken = with_head(network_of_run(stored_run), lambda x: x * np.nan)
    activations = partial(draw_activations, layers=LAYERS)
    for draw in (draw_confusion, draw_mistakes, draw_grad_cam, activations):
        with pytest.raises(RecipeError, match="is not finite"):
            draw(broken)


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


@pytest.mark.parametrize("image", ["9" * 5_000, "360", "-1", "\u0663" * 20])
def test_an_invalid_index_is_one_short_error(digits, image):
    with pytest.raises(RecipeError) as caught:
        find_test_image(digits.class_names, digits.test.labels, image)
    assert len(str(caught.value)) < 300


def test_other_data_have_pictures_of_their_own(photo_run, photos, tmp_path):
    (photos / "test").rename(tmp_path / "own")
    own = network_of_run(photo_run, dataset=f"folder:{tmp_path / 'own'}")
    names = {save_picture(draw_confusion, own).name}
    (tmp_path / "own").rename(photos / "test")
    names.add(save_picture(draw_confusion, photo_run).name)
    names.add(
        save_picture(draw_confusion, network_of_run(photo_run, dataset=f"folder:{photos}")).name
    )
    assert len(names) == 2
    assert "confusion.png" in names


def test_images_and_targets_are_taken_as_numpy_and_python_give_them(stored_run, drawn, tmp_path):
    network = network_of_run(stored_run)
    photo = tmp_path / "8"  # a path, and not the class
    Image.new("RGB", (32, 32), "red").save(photo, format="png")
    draw_grad_cam(network, images=np.array([3, 5]), target=3, layer="conv1")
    draw_grad_cam(network, images=[np.int64(3), photo], target="3", layer="conv1")
    (first, _), (second, _) = [arguments[0] for arguments, _ in drawn]
    assert first.caption == second.caption
    draw_activations(network, ["conv1"], photo)
    assert drawn[-1][1]["title"].startswith("8, ")
    path = save_picture(draw_grad_cam, network, images=np.array([3, 5]), target=3, layer="conv1")
    assert path.name.startswith("grad_cam_image=index-3-index-5-")
    assert path.name.endswith("_layer=conv1_target=3.png")
    for target in (10, -1, True, 2.5):
        with pytest.raises(RecipeError, match=f"target {target} is"):
            draw_grad_cam(network, images=[3], target=target)
    for image in (True, 2.5, None):
        with pytest.raises(RecipeError, match=f"an image is a class, .*, not {image}"):
            draw_activations(network, ["conv1"], image)
