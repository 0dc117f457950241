import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.inference import gradcam
from jaxcifar.inference.gradcam import default_layer, grad_cam, map_children, upsample
from jaxcifar.models.resnet import ResNet, resnet18
from tests.conftest import random_variables

MODEL = ResNet(stage_sizes=(1, 1), width=4, num_classes=5, stem="cifar", lowering="xla")
CLASSES = np.array([4, 1, 4], np.int32)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(1).normal(size=(3, 8, 8, 3)), jnp.float32)


def by_hand(maps, weights):
    """ReLU of the weighted sum over channels, over its maximum: numpy, one image at a time."""
    result = np.zeros(maps.shape[:3])
    for i in range(len(maps)):
        heat = np.maximum(sum(w * maps[i, :, :, c] for c, w in enumerate(weights[i])), 0)
        result[i] = heat / heat.max() if heat.max() > 0 else 0
    return result


def test_at_the_last_stage_the_weights_are_the_heads_over_the_maps_size(images):
    variables = random_variables(MODEL)
    maps = np.asarray(MODEL.apply(variables, images, train=False, stop="layer2"), np.float64)
    kernel = np.asarray(variables["params"]["fc"]["kernel"], np.float64)
    weights = kernel[:, CLASSES].T / (maps.shape[1] * maps.shape[2])
    heat = grad_cam(MODEL, variables, images, CLASSES, "layer2")
    assert heat.shape == (3, 4, 4)
    assert heat.dtype == jnp.float32
    np.testing.assert_allclose(heat, by_hand(maps, weights), atol=1e-5)
    assert np.asarray(heat).max(axis=(1, 2)) == pytest.approx(1)


def test_at_an_inner_layer_the_weights_are_the_logits_slope_along_each_channel(images):
    """The mean gradient over a map is the slope of the logit as the whole channel is raised."""
    with jax.enable_x64(True):
        model = MODEL.clone(dtype=jnp.float64)
        variables = jax.tree.map(lambda x: x.astype(jnp.float64), random_variables(MODEL))
        wide = images.astype(jnp.float64)
        maps = np.asarray(model.apply(variables, wide, train=False, stop="layer1"))
        logits = jax.jit(lambda maps: model.apply(variables, maps, train=False, start="layer1"))
        weights, step = np.zeros((3, maps.shape[-1])), 1e-6
        for channel in range(maps.shape[-1]):
            raised = np.zeros(maps.shape)
            raised[..., channel] = step
            slope = (logits(maps + raised) - logits(maps - raised)) / (2 * step)
            weights[:, channel] = slope[np.arange(3), CLASSES] / (maps.shape[1] * maps.shape[2])
        heat = grad_cam(model, variables, wide, CLASSES, "layer1")
    expected = by_hand(maps, weights)
    np.testing.assert_allclose(heat, expected, atol=1e-5)
    assert expected.max(axis=(1, 2)) == pytest.approx(1)


def test_a_map_without_positive_values_is_zero(images):
    variables = random_variables(MODEL)
    head = variables["params"]["fc"]
    kernel = head["kernel"].at[:, 4].set(-1.0)
    params = {**variables["params"], "fc": {**head, "kernel": kernel}}
    heat = grad_cam(MODEL, {**variables, "params": params}, images, CLASSES, "layer2")
    assert not heat[0].any()
    assert not heat[2].any()
    assert heat[1].max() == 1


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("side", [8, 31, 70])
def test_the_default_layer_is_the_last_stage_with_a_map_of_four(stem, side):
    model = resnet18(stem=stem)
    image = jnp.zeros((1, side, side, 3))
    variables = random_variables(model)
    sides = {
        child: jax.eval_shape(
            lambda child=child: model.apply(variables, image, train=False, stop=child)
        ).shape[1]
        for child in map_children(model)
        if child.startswith("layer")
    }
    fitting = [child for child, side in sides.items() if side >= 4]
    if fitting:
        assert default_layer(model, side) == fitting[-1]
    else:
        with pytest.raises(ValueError, match=f"no stage has a map of 4x4 for an image of {side} "):
            default_layer(model, side)


@pytest.mark.parametrize("child", map_children(MODEL))
def test_every_child_with_maps_can_be_explained(child, images):
    variables = random_variables(MODEL)
    shape = jax.eval_shape(lambda: MODEL.apply(variables, images, train=False, stop=child)).shape
    heat = jax.eval_shape(lambda: grad_cam(MODEL, variables, images, CLASSES, child))
    assert heat.shape == shape[:3]


@pytest.mark.parametrize("layer", ["fc", "avgpool", "layer1.0", "layr2"])
def test_other_layers_are_refused(layer, images):
    with pytest.raises(
        ValueError, match=f"a child of the network whose output is maps, not '{layer}'"
    ):
        grad_cam(MODEL, random_variables(MODEL), images, CLASSES, layer)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([1], r"classes must be int32 \[2\], one for each of the 2 images, not \(1,\)"),
        ([[1], [2]], r"not \(2, 1\)"),
        ([1, 99], "class 99 is none of the network.s 0 to 4"),
        ([-1, 1], "class -1 is none of"),
    ],
)
def test_classes_that_the_network_has_not_are_refused(classes, message, images):
    with pytest.raises(ValueError, match=message):
        grad_cam(MODEL, random_variables(MODEL), images[:2], jnp.array(classes), "layer2")


def test_two_calls_compile_once(images):
    model = MODEL.clone(dropout_rate=0.25)
    programs = gradcam._grad_cam._cache_size()
    for i in range(2):
        grad_cam(model, random_variables(MODEL), images + i, CLASSES, "layer2")
    assert gradcam._grad_cam._cache_size() == programs + 1


def test_upsampling_is_bilinear():
    ramp = jnp.arange(4.0)[None, None, :] * jnp.ones((1, 4, 1))
    expected = np.interp((np.arange(8) + 0.5) / 2 - 0.5, np.arange(4), np.arange(4))
    np.testing.assert_allclose(upsample(ramp, 8, 8)[0, 3], expected, atol=1e-6)
    assert upsample(ramp, 3, 5).shape == (1, 3, 5)
