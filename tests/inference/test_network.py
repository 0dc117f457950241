import dataclasses
import shutil

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import jaxcifar
from jaxcifar.common.errors import DataError, ImageFileError, RecipeError, WeightsError
from jaxcifar.data.image_file import decode_square
from jaxcifar.inference.activations import capture
from jaxcifar.inference.gradcam import grad_cam, upsample
from jaxcifar.inference.predictions import _class_logits, class_logits
from jaxcifar.models.pretrained import export_weights
from jaxcifar.runs.restore import restore_run
from tests.conftest import CLASSES, assert_trees_identical


@pytest.fixture
def network(photo_run):
    return jaxcifar.load(photo_run)


def files_of(photos, part="test"):
    return sorted((photos / part).rglob("*.png"))


def expected_inputs(paths, side=16):
    """What torchvision's Resize, CenterCrop and Normalize give, by Pillow and NumPy."""
    squares = np.stack([decode_square(path.read_bytes(), side, "x") for path in paths])
    return (squares / np.float32(255) - np.float32(0.5)) / np.float32(0.5)


def expected_logits(run, paths):
    _, model, variables = restore_run(run)
    return np.asarray(class_logits(model, variables, jnp.asarray(expected_inputs(paths))))


def test_a_folder_is_predicted_as_the_run_would(network, photo_run, photos):
    files = files_of(photos)
    expected = expected_logits(photo_run, files)
    np.testing.assert_allclose(network.logits(photos / "test"), expected, atol=1e-5)
    found = network.predict(photos / "test", top=2)
    assert [prediction.image for prediction in found] == [str(file) for file in files]
    shares = np.exp(expected) / np.exp(expected).sum(axis=1, keepdims=True)
    for prediction, row in zip(found, shares, strict=True):
        order = np.argsort(-row)
        assert [name for name, _ in prediction.top] == [CLASSES[i] for i in order[:2]]
        assert (prediction.class_name, prediction.probability) == prediction.top[0]
        np.testing.assert_allclose(
            [share for _, share in prediction.top], row[order[:2]], atol=1e-5
        )


def test_every_form_of_an_image_gives_the_same(network, photos):
    path = files_of(photos)[0]
    image = Image.open(path)
    pixels = np.asarray(image)
    expected = network.logits(path)
    for form in (str(path), [path], image, [image], pixels, pixels[None], [pixels]):
        np.testing.assert_array_equal(network.logits(form), expected)
    mixed = network.predict([path, image, np.stack([pixels, pixels])])
    assert [each.image for each in mixed] == [str(path), "image 1", "image 2", "image 3"]
    assert len({each.probability for each in mixed}) == 1


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "there are no images"),
        (np.zeros((2, 8, 8), np.uint8), r"uint8 array \[h, w, 3\]"),
        (np.zeros((8, 8, 4), np.uint8), r"not ndarray uint8 \[8, 8, 4\]"),
        (np.zeros((8, 8, 3), np.float32), r"float32 \[8, 8, 3\]"),
        (np.zeros((0, 8, 3), np.uint8), "no pixels"),
        ([3], "not int"),
        (None, "not NoneType"),
    ],
)
def test_what_is_no_image_is_refused(network, images, message):
    with pytest.raises(DataError, match=message):
        network.predict(images)


def test_all_files_that_cannot_be_read_are_named_or_skipped(network, photos):
    files = files_of(photos)
    for path in files[2:4]:
        path.write_bytes(b"no picture")
    with pytest.raises(ImageFileError, match="2 of 9 images cannot be read") as error:
        network.predict(photos / "test")
    assert all(str(path) in str(error.value) for path in files[2:4])
    skipped = []
    found = network.predict(photos / "test", on_unreadable=lambda name, _: skipped.append(name))
    assert skipped == [str(path) for path in files[2:4]]
    assert [each.image for each in found] == [str(f) for f in files if str(f) not in skipped]
    with pytest.raises(DataError, match="none of the 1 images can be read"):
        network.predict(files[2], on_unreadable=lambda *_: None)
    with pytest.raises(ImageFileError, match="none.png"):
        network.predict(photos / "none.png")


def test_the_number_of_images_compiles_nothing_anew(network, photos):
    network.logits(np.zeros((3, 16, 16, 3), np.uint8))
    programs = _class_logits._cache_size()
    images = np.random.default_rng(0).integers(0, 256, (130, 20, 24, 3), np.uint8)
    rows = [network.logits(images[:count]) for count in (1, 2, 16, 17, 40)]
    assert _class_logits._cache_size() == programs
    np.testing.assert_allclose(rows[0], rows[4][:1], atol=1e-5)
    many = network.logits(images)  # in one full batch
    np.testing.assert_allclose(many[:40], rows[4], atol=1e-5)


def test_pictures_in_memory_are_named_and_junk_beside_them_is_no_damage(network):
    good = Image.fromarray(np.full((20, 20, 3), 9, np.uint8))
    with pytest.raises(ImageFileError, match="1 of 3 images cannot be read") as error:
        network.predict([good, good, Image.new("F", (20, 20))])
    assert "image 2 is a damaged" in str(error.value)

    class Junk(Image.Image):
        def getexif(self):
            raise SyntaxError("not a TIFF file")

    junk = good.copy()
    junk.__class__ = Junk
    np.testing.assert_array_equal(network.logits([junk]), network.logits([good]))


def test_images_of_two_sizes_keep_their_order(stored_run, digits):
    """Images of the dataset's own size are resized by the run's program, others by Pillow."""
    network = jaxcifar.load(stored_run)
    network = dataclasses.replace(
        network, preprocessing=dataclasses.replace(network.preprocessing, size=48)
    )
    images = digits.test.images[:5]
    larger = [np.asarray(Image.fromarray(x).resize((50, 60))) for x in images]
    both = [x for pair in zip(images, larger, strict=True) for x in pair]
    found = network.logits(both)
    np.testing.assert_allclose(found[::2], network.logits(images), atol=1e-5)
    np.testing.assert_allclose(found[1::2], network.logits(larger), atol=1e-5)
    inputs = network.preprocess(images)
    expected = class_logits(network.model, network.variables, inputs)
    np.testing.assert_allclose(found[::2], expected, atol=1e-5)


def test_features_and_grad_cam_are_the_pure_functions(network, photos):
    files = files_of(photos)
    inputs = jnp.asarray(expected_inputs(files))
    model, variables = network.model, network.variables
    for layer in ("avgpool", "layer1", "conv1_conv"):
        expected = capture(model, variables, inputs, [layer])[layer]
        np.testing.assert_allclose(network.features(files, layer), expected, atol=1e-5)
    features, labels = network.split_features("test")
    np.testing.assert_allclose(features, network.features(photos / "test"), atol=1e-5)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    classes = jnp.full(len(files), 1)
    expected = upsample(grad_cam(model, variables, inputs, classes, "layer1"), 16, 16)
    found = network.grad_cam(files, CLASSES[1])
    np.testing.assert_allclose(found, expected, atol=1e-4)
    predicted = class_logits(model, variables, inputs).argmax(axis=1)
    expected = upsample(grad_cam(model, variables, inputs, predicted, "conv1"), 16, 16)
    np.testing.assert_allclose(network.grad_cam(files, layer="conv1"), expected, atol=1e-4)
    with pytest.raises(ValueError, match="unknown layer 'avgpol'"):
        network.features(files, "avgpol")
    with pytest.raises(RecipeError, match="unknown target 'Hündin gros'; did you mean"):
        network.grad_cam(files, "Hündin gros")
    with pytest.raises(RecipeError, match="top must be at least 1"):
        network.predict(files, top=0)


def test_a_saved_network_is_the_same_network_with_nothing_else_there(
    network, photos, photo_run, tmp_path, monkeypatch
):
    expected = network.logits(files_of(photos))
    network.save(tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="exists"):
        network.save(tmp_path / "w.safetensors")
    files = [shutil.copy(f, tmp_path / f"{i}.png") for i, f in enumerate(files_of(photos))]
    shutil.rmtree(photos)
    shutil.rmtree(photo_run)
    monkeypatch.chdir("/")
    again = jaxcifar.load(tmp_path / "w.safetensors")
    assert again.class_names == CLASSES
    assert again.image_size == 16
    assert again.preprocessing == network.preprocessing
    assert again.metadata == network.metadata | {
        key: again.metadata[key] for key in ("mean", "std", "size")
    }
    assert_trees_identical(dict(again.variables), dict(network.variables))
    np.testing.assert_allclose(again.logits(files), expected, atol=1e-6)
    again.save(tmp_path / "again.safetensors")
    assert jaxcifar.load(tmp_path / "again.safetensors").metadata == again.metadata


def test_torch_computes_the_same_logits_from_the_saved_network(network, photos, tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    from benchmarks.peers.torch_resnet import ResNet

    network.save(tmp_path / "w.safetensors")
    twin = ResNet((1,), width=4, num_classes=3)
    twin.load_state_dict(load_file(tmp_path / "w.safetensors"), strict=True)
    twin.double().eval()
    inputs = expected_inputs(files_of(photos)).transpose(0, 3, 1, 2)
    theirs = twin(torch.tensor(inputs, dtype=torch.double)).detach().numpy()
    np.testing.assert_allclose(network.logits(photos / "test"), theirs, atol=1e-5)


def test_what_a_file_does_not_say_is_asked_for(network, tiny, tmp_path):
    path = tmp_path / "plain.safetensors"
    export_weights(network.variables, path)
    with pytest.raises(RecipeError, match="give --normalization"):
        jaxcifar.load(path, architecture=tiny)
    with pytest.raises(RecipeError, match="give --size"):
        jaxcifar.load(path, architecture=tiny, normalization="half")
    options = {"architecture": tiny, "normalization": "half", "size": 16}
    assert jaxcifar.load(path, **options).class_names == ("0", "1", "2")
    assert jaxcifar.load(path, **options, class_names=CLASSES).class_names == CLASSES
    with pytest.raises(RecipeError, match="has 3 classes, and its class_names 2"):
        jaxcifar.load(path, **options, class_names=CLASSES[:2])
    network.save(tmp_path / "full.safetensors")
    with pytest.raises(RecipeError, match="says its classes itself"):
        jaxcifar.load(tmp_path / "full.safetensors", class_names=CLASSES[::-1])


def test_options_for_weights_are_refused_for_a_run(photo_run, tmp_path):
    with pytest.raises(RecipeError, match="size is for a file of weights"):
        jaxcifar.load(photo_run, size=32)
    with pytest.raises(RecipeError, match="which='last' .* is for a run"):
        jaxcifar.load(tmp_path / "w.safetensors", which="last")


def test_a_network_is_immutable(network):
    with pytest.raises(dataclasses.FrozenInstanceError):
        network.class_names = ()


def test_infinite_outputs_are_refused(network, photos):
    broken = {**network.variables, "params": {**network.variables["params"]}}
    broken["params"]["fc"] = {k: v * np.nan for k, v in broken["params"]["fc"].items()}
    network = dataclasses.replace(network, variables=broken)
    with pytest.raises(RecipeError, match="not finite"):
        network.predict(photos / "test")


def test_a_class_is_explained_by_its_name_or_its_index(network, photos):
    files = files_of(photos)[:2]
    by_name = network.grad_cam(files, CLASSES[2])
    np.testing.assert_array_equal(network.grad_cam(files, 2), by_name)
    for target in (3, -1):
        with pytest.raises(RecipeError, match=f"target {target} is no index of the 3 classes"):
            network.grad_cam(files, target)


def test_a_network_is_shown_in_one_line(network):
    text = repr(network)
    assert text == "<TrainedNetwork run photo run, best checkpoint: 3 classes, 16x16 pixels>"


def test_one_image_that_pillow_has_not_read_yet_is_shared_by_threads(network, photos, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)).save(
        tmp_path / "large.png"
    )
    expected = network.logits(tmp_path / "large.png")
    for _ in range(3):
        found = network.logits([Image.open(tmp_path / "large.png")] * 40)
        np.testing.assert_allclose(found, np.repeat(expected, 40, axis=0), atol=1e-5)


def test_a_size_that_contradicts_the_file_is_refused(network, tmp_path):
    network.save(tmp_path / "w.safetensors")
    for size in (0, 64):
        with pytest.raises(RecipeError, match="was trained at 16 pixels"):
            jaxcifar.load(tmp_path / "w.safetensors", size=size)
    assert jaxcifar.load(tmp_path / "w.safetensors", size=16).image_size == 16


def test_what_is_not_there_is_no_run_either():
    with pytest.raises(WeightsError, match=r"there is no run nothing\. There is no file"):
        jaxcifar.load("nothing")
