import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcifar.inference import activations
from jaxcifar.inference.activations import capture, list_layers, torchvision_name
from jaxcifar.models.resnet import ResNet, resnet18, resnet50

MODEL = ResNet(stage_sizes=(1, 1), width=4, num_classes=5, stem="imagenet", lowering="xla")


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)


@pytest.fixture(scope="module")
def variables(images):
    init = jax.jit(
        lambda key: MODEL.init(key, images, train=False),
        compiler_options={"xla_backend_optimization_level": 0},
    )
    variables = init(jax.random.key(0))
    stats = jax.tree.map(lambda x: x + 0.3, variables["batch_stats"])
    return {**variables, "batch_stats": stats}


@pytest.fixture(scope="module")
def everything(variables, images):
    return capture(MODEL, variables, images, list(list_layers(MODEL, variables, images)))


def conv(x, kernel, stride, padding):
    numbers = ("NHWC", "HWIO", "NHWC")
    pads = [(padding, padding)] * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=numbers)


def test_the_layers_have_torchvisions_names_and_the_relus(everything):
    shapes = {name: x.shape[1:] for name, x in everything.items()}
    stem = dict.fromkeys(("conv1", "bn1", "relu"), (8, 8, 4)) | {"maxpool": (4, 4, 4)}
    inner = ("conv1", "bn1", "relu1", "conv2", "bn2")
    first = dict.fromkeys(
        ["layer1", "layer1.0", *(f"layer1.0.{name}" for name in inner)], (4, 4, 4)
    )
    shortcut = ("downsample", "downsample.0", "downsample.1")
    second = dict.fromkeys(
        ["layer2", "layer2.0", *(f"layer2.0.{name}" for name in (*inner, *shortcut))], (2, 2, 8)
    )
    assert shapes == stem | first | second | {"avgpool": (8,), "fc": (5,)}


def test_fc_is_the_logits(everything, variables, images):
    logits = jax.jit(lambda v, x: MODEL.apply(v, x, train=False))(variables, images)
    np.testing.assert_allclose(everything["fc"], logits, rtol=1e-5, atol=1e-6)


def test_each_layer_follows_from_the_one_before(everything, variables, images):
    params = variables["params"]

    def close(name, expected):
        np.testing.assert_allclose(everything[name], expected, atol=1e-4, err_msg=name)

    def normalised(x, params, stats):
        root = np.sqrt(np.asarray(stats["var"]) + 1e-5)
        return (x - stats["mean"]) / root * params["scale"] + params["bias"]

    close("conv1", conv(images, params["conv1"]["kernel"], 2, 3))
    bn1 = normalised(everything["conv1"], params["bn1"], variables["batch_stats"]["bn1"])
    close("bn1", bn1)
    close("relu", np.maximum(bn1, 0))
    block = params["layer1"]["0"]
    close("layer1.0.conv1", conv(everything["maxpool"], block["conv1"]["kernel"], 1, 1))
    close("layer1.0.relu1", np.maximum(everything["layer1.0.bn1"], 0))
    close("layer1.0.conv2", conv(everything["layer1.0.relu1"], block["conv2"]["kernel"], 1, 1))
    close("layer1.0", np.maximum(everything["layer1.0.bn2"] + everything["maxpool"], 0))
    projection = params["layer2"]["0"]["downsample"]["0"]["kernel"]
    close("layer2.0.downsample.0", conv(everything["layer1"], projection, 2, 0))
    close("layer2.0.downsample", everything["layer2.0.downsample.1"])
    shortcut = everything["layer2.0.downsample"]
    close("layer2.0", np.maximum(everything["layer2.0.bn2"] + shortcut, 0))
    close("layer2", everything["layer2.0"])
    close("avgpool", np.mean(everything["layer2"], axis=(1, 2)))


def test_layers_come_in_the_requested_order(variables, images, everything):
    outputs = capture(MODEL, variables, images, ["relu", "conv1"])
    assert list(outputs) == ["relu", "conv1"]
    np.testing.assert_allclose(outputs["conv1"], everything["conv1"], atol=1e-5)


def test_the_head_of_two_layers_has_names_below_fc():
    model = ResNet(stage_sizes=(), width=4, stem="cifar", head="sequential")
    image = jnp.zeros((1, 4, 4, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
    layers = list_layers(model, variables, image)
    assert layers["fc.0"].shape == (1, 256)
    assert layers["fc.3"].shape == (1, 10)


@pytest.mark.parametrize(
    ("layer", "nearest"),
    [
        ("layer1.0.conv3", r"; did you mean 'layer1\.0\.conv"),
        ("con1", "; did you mean 'conv1'"),
        ("conv2_block1_1_con", "; did you mean 'conv2_block1_1_conv'"),
        ("layer3.0", r"; did you mean 'layer2\.0' or 'layer1\.0' or "),
        ("{last}", "; choose from conv1, bn1, relu, maxpool, layer1, layer2, avgpool, fc$"),
        ("conv2_block2_3_conv", r": the network has no layer1\.1\.conv2"),
    ],
)
def test_an_unknown_layer_is_named_with_the_nearest(layer, nearest, variables, images):
    with pytest.raises(ValueError, match=f"unknown layer '{layer}'{nearest}"):
        capture(MODEL, variables, images, ["conv1", layer])


@pytest.mark.parametrize(("model", "last"), [(resnet18(), "conv2"), (resnet50(), "conv3")])
def test_the_three_keras_names_are_layers_of_torchvision(model, last):
    images = jnp.zeros((1, 32, 32, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))
    known = list_layers(model, variables, images)
    for keras, name in (
        ("conv1_conv", "conv1"),
        ("conv2_block1_1_conv", "layer1.0.conv1"),
        ("conv2_block2_3_conv", f"layer1.1.{last}"),
    ):
        assert torchvision_name(model, keras) == name
        assert torchvision_name(model, name) == name
        assert name in known
    block = [name for name in known if name.startswith("layer1.1.conv")]
    assert max(block) == f"layer1.1.{last}"


def test_the_result_keeps_a_keras_name(variables, images, everything):
    outputs = capture(MODEL, variables, images, ["conv2_block1_1_conv", "conv1"])
    assert list(outputs) == ["conv2_block1_1_conv", "conv1"]
    np.testing.assert_allclose(
        outputs["conv2_block1_1_conv"], everything["layer1.0.conv1"], atol=1e-5
    )


def test_two_calls_trace_and_compile_once(variables, images, monkeypatch):
    traced = []
    original = activations._outputs

    def counted(*arguments):
        traced.append(arguments[0])
        return original(*arguments)

    monkeypatch.setattr(activations, "_outputs", counted)
    model = MODEL.clone(dropout_rate=0.125)  # no other test has captured this one
    layers = ["conv1", "layer1.0.relu1"]
    programs = activations._capture._cache_size()
    first = capture(model, variables, images, layers)
    assert len(traced) == 2  # for the shapes and for the program
    second = capture(model.clone(), variables, images + 1, layers)
    assert len(traced) == 2
    assert activations._capture._cache_size() == programs + 1
    assert not np.array_equal(first["conv1"], second["conv1"])
