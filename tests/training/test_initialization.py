import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.data import Dataset
from jaxcifar.models.conv import conv2d
from jaxcifar.models.names import named_leaves
from jaxcifar.models.resnet import ResNet
from jaxcifar.training import initialization
from jaxcifar.training.fit import fit
from jaxcifar.training.initialization import begin_as_identity, make_adjust, whitening_filters
from jaxcifar.training.start import first_state
from tests.conftest import assert_trees_identical, random_variables

MODEL = ResNet(stage_sizes=(1, 1), width=4, stem="cifar")
BOTTLENECK = ResNet(stage_sizes=(1,), width=4, stem="cifar", bottleneck=True)


def normalize(images):
    return (images.astype(jnp.float32) / 255 - 0.5) / 0.25


@pytest.fixture(scope="module")
def pictures():
    """Bright, smooth colours with noise: patches that are correlated and have a mean above zero."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(90, 255, (150, 4, 4, 3)).astype(np.float32)
    smooth = np.array(jax.image.resize(coarse, (150, 12, 12, 3), "bilinear"))
    smooth[..., 1] = (smooth[..., 0] + smooth[..., 1]) / 2
    images = np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)
    return Dataset(images, np.zeros(150, np.int32))


@pytest.mark.parametrize("model", [MODEL, BOTTLENECK])
def test_dirac_makes_the_convolutions_of_the_stages_identities(model):
    params = random_variables(model)["params"]
    before, after = named_leaves(params), named_leaves(begin_as_identity(params))
    image = np.random.default_rng(1).normal(size=(2, 8, 8, 16)).astype(np.float32)
    changed = set()
    for name, kernel in after.items():
        if np.array_equal(kernel, before[name]):
            continue
        changed.add(name)
        size, _, c_in, c_out = kernel.shape
        x = image[..., :c_in]
        y = conv2d(jnp.asarray(x), kernel, stride=1, padding=size // 2)
        both = min(c_in, c_out)
        np.testing.assert_allclose(y[..., :both], x[..., :both], atol=1e-6)
        np.testing.assert_array_equal(kernel[..., both:], before[name][..., both:])
    kernels = {n for n in after if n.startswith("layer") and n.endswith("kernel")}
    assert changed == kernels
    assert any("downsample.0" in name for name in changed)


def test_whitened_patches_are_uncorrelated_with_variance_one(pictures):
    filters = whitening_filters(pictures, normalize)
    assert (filters.shape, filters.dtype) == ((3, 3, 3, 54), np.float32)
    np.testing.assert_array_equal(filters[..., 1::2], -filters[..., ::2])
    seen = jax.lax.conv_general_dilated(
        normalize(jnp.asarray(pictures.images)),
        filters[..., ::2],
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision="highest",
    )
    covariance = np.cov(np.float64(seen).reshape(-1, 27).T)
    # Components with little variance fall short of one, because of the epsilon.
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=1e-3)
    assert np.all(np.diag(covariance) < 1.001)
    assert np.all(np.diag(covariance) > 0.9)
    # The largest component first: its filter is the smallest.
    norms = np.linalg.norm(filters[..., ::2].reshape(27, 27), axis=0)
    assert np.all(np.diff(norms) > -1e-6)


def test_only_the_first_images_are_used_in_pieces_of_any_size(pictures, monkeypatch):
    whole = whitening_filters(Dataset(pictures.images[:70], pictures.labels[:70]), normalize)
    monkeypatch.setattr(initialization, "WHITENED_IMAGES", 70)
    monkeypatch.setattr(initialization, "_IMAGES_AT_ONCE", 16)
    in_pieces = whitening_filters(pictures, normalize)
    # Components with similar variances may mix.
    np.testing.assert_allclose(in_pieces, whole, atol=1e-3)


def test_the_filters_of_grey_images_are_finite(digits):
    assert np.isfinite(whitening_filters(digits.train, normalize)).all()


@pytest.mark.parametrize("width", [8, 64])
def test_the_first_layer_takes_as_many_filters_as_fit(pictures, width):
    params = random_variables(ResNet(stage_sizes=(1,), width=width, stem="cifar"))["params"]
    filters = whitening_filters(pictures, normalize)
    adjusted = make_adjust("kaiming", filters)(params)
    before, after = named_leaves(params), named_leaves(adjusted)
    count = min(width, 54)
    kernel = after.pop("conv1.kernel")
    np.testing.assert_array_equal(kernel[..., :count], filters[..., :count])
    np.testing.assert_array_equal(kernel[..., count:], before["conv1.kernel"][..., count:])
    assert all(np.array_equal(leaf, before[name]) for name, leaf in after.items())


def test_random_weights_are_not_adjusted_by_default():
    assert make_adjust("kaiming", None) is None


def test_a_whitened_first_layer_may_stay_while_the_head_has_twice_the_rate(recipe, digits):
    fast = dataclasses.replace(
        recipe,
        stem="cifar",
        resize=8,
        init="dirac",
        whiten=True,
        optimizer="muon",
        epochs=1,
        batch_size=120,
        freeze="conv1=frozen *=trained",
    )
    start, step = first_state(fast, digits), {}
    for share, rules in ((1, fast.freeze), (2, "conv1=frozen fc=2 *=trained")):
        state, _ = fit(dataclasses.replace(fast, freeze=rules), digits)
        assert int(state.step) == 1
        before, after = named_leaves(start.params), named_leaves(state.params)
        np.testing.assert_array_equal(after["conv1.kernel"], before["conv1.kernel"])
        step[share] = {name: after[name] - before[name] for name in after}
    moved = {name for name, move in step[1].items() if np.any(move)}
    assert {"bn1.bias", "layer1.0.conv2.kernel", "fc.kernel", "fc.bias"} <= moved
    for name, move in step[1].items():
        factor = 2 if name.startswith("fc.") else 1
        np.testing.assert_allclose(step[2][name], factor * move, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_a_run_starts_with_adjusted_weights_and_resumes_from_its_checkpoint(
    recipe, digits, tmp_path, monkeypatch
):
    fast = dataclasses.replace(
        recipe, stem="cifar", resize=8, init="dirac", whiten=True, lookahead_steps=2
    )
    still = dataclasses.replace(fast, epochs=1, optimizer="sgd", learning_rate=1e-30)
    state, _ = fit(still, digits)
    filters = whitening_filters(digits.train, still.make_preprocess())
    np.testing.assert_array_equal(state.params["conv1"]["kernel"], filters[..., :4])
    kernel = np.zeros((3, 3, 4, 4))
    kernel[1, 1] = np.eye(4)
    trained = state.params["layer1"]["0"]["conv2"]["kernel"]
    np.testing.assert_allclose(trained, kernel, atol=1e-25)  # the updates are that small
    slow = {k: v for k, v in named_leaves(state.opt_state).items() if k.endswith("conv1.kernel")}
    assert any(np.array_equal(leaf, filters[..., :4]) for leaf in slow.values())

    whole, _ = fit(dataclasses.replace(fast, epochs=2), digits)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(dataclasses.replace(fast, epochs=2), digits, workdir=tmp_path / "run", on_epoch=stop)

    def refuse(*_):
        raise AssertionError("a resumed run computed the filters")

    monkeypatch.setattr(initialization, "whitening_filters", refuse)
    resumed, _ = fit(
        dataclasses.replace(fast, epochs=2), digits, workdir=tmp_path / "run", resume=True
    )
    assert_trees_identical(resumed, whole)
