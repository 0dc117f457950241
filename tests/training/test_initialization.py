import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcifar
from jaxcifar.data import Dataset, Splits
from jaxcifar.inference.scoring import evaluate_run
from jaxcifar.models.conv import conv2d
from jaxcifar.models.names import named_leaves
from jaxcifar.models.resnet import ResNet
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.stage import make_stage
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


def test_images_from_everywhere_are_used_in_pieces_of_any_size(pictures, monkeypatch):
    count = len(pictures.labels)
    rows = np.arange(70) * count // 70
    assert rows[-1] > 0.9 * count > 100
    whole = whitening_filters(pictures.take(rows), normalize)
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


@pytest.mark.slow
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

    monkeypatch.setattr("jaxcifar.training.start.whitening_filters", refuse)
    resumed, _ = fit(
        dataclasses.replace(fast, epochs=2), digits, workdir=tmp_path / "run", resume=True
    )
    assert_trees_identical(resumed, whole)


FROZEN = {"whiten": True, "init": "dirac", "freeze": "conv1=frozen *=trained", "stem": "cifar"}


def conv1_of(variables):
    return np.asarray(variables["params"]["conv1"]["kernel"])


@pytest.fixture
def frozen(recipe):
    """A recipe whose first layer whitens and is frozen, with all that fast training adds."""
    return dataclasses.replace(
        recipe,
        **FROZEN,
        resize=8,
        width=8,
        dropout_rate=0.0,
        optimizer="muon",
        learning_rate=0.1,
        weight_decay=5e-4,
        bias_scale=16.0,
        lookahead_steps=2,
        clip_norm=1.0,
        epochs=2,
    )


@pytest.mark.parametrize("width", [12, pytest.param(56, marks=pytest.mark.slow)])
def test_a_frozen_whitening_layer_keeps_its_bits_and_whitens_the_train_patches(
    recipe, pictures, width
):
    """With room for all 54 filters, and for a few."""
    labels = np.arange(150) % 3
    train, test = ((pictures.images[rows], labels[rows]) for rows in (slice(120), slice(120, 150)))
    splits = Splits.from_arrays(train, 20, test)
    plain = dataclasses.replace(
        Recipe(), **FROZEN, architecture=recipe.architecture, width=width, normalization="half",
        optimizer="sgd", learning_rate=0.1, weight_decay=0.1, batch_size=50, epochs=2,
    )  # fmt: skip
    plain = plain.on(splits)
    normalize = plain.make_preprocess()
    state, _ = fit(plain, splits)
    kernel, count = conv1_of(state.variables), min(width, 54)
    filters = whitening_filters(splits.train, normalize)
    assert kernel[..., :count].tobytes() == filters[..., :count].tobytes()
    # The random ones among them are frozen, too.
    first = first_state(plain, splits)
    assert conv1_of(first.variables).tobytes() == kernel.tobytes()
    images = normalize(jnp.asarray(splits.train.read(np.arange(len(splits.train))).images))
    seen = conv2d(images, jnp.asarray(kernel[..., :count]))
    covariance = np.cov(np.float64(seen).reshape(-1, count)[:, ::2].T)
    np.testing.assert_allclose(covariance, np.eye(count // 2), atol=0.1)
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 1e-3


def test_a_frozen_whitening_layer_costs_nothing_and_its_batch_norm_is_trained(
    frozen, digits, monkeypatch
):
    stage = make_stage(frozen)
    first = first_state(frozen, digits)
    names = named_leaves(first.opt_state)
    assert not [name for name in names if name.endswith("conv1.kernel") and "layer1" not in name]
    batch = {"image": digits.train.images[:40], "label": digits.train.labels[:40]}
    state, _ = jax.jit(stage.make_train_step())(first, jax.tree.map(jnp.asarray, batch))
    assert conv1_of(state.variables).tobytes() == conv1_of(first.variables).tobytes()
    before, after = named_leaves(first.params), named_leaves(state.params)
    same = {name for name, leaf in after.items() if np.array_equal(leaf, before[name])}
    assert same == {"conv1.kernel"}
    # Its statistics are those of the batch: 0.1 of them after one step.
    maps = np.float64(
        conv2d(stage.preprocess(batch["image"]), first.params["conv1"]["kernel"], padding=1)
    ).reshape(-1, 8)
    found = state.batch_stats["bn1"]
    np.testing.assert_allclose(found["mean"], 0.1 * maps.mean(0), atol=1e-4)
    np.testing.assert_allclose(found["var"], 0.9 + 0.1 * maps.var(0, ddof=1), rtol=1e-3)
    # Three convolutions forward, two gradients of kernels and two of maps.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    step = jax.jit(make_stage(frozen).make_train_step())
    text = step.trace(first, batch).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.convolution") == 3 + 2 + 2


@pytest.mark.slow
def test_a_run_with_a_frozen_whitening_layer_goes_from_start_to_end(frozen, digits, tmp_path):
    """It is trained, stopped, resumed, scored and exported, without a warning."""
    whole, history = fit(frozen, digits)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(frozen, digits, workdir=tmp_path / "run", on_epoch=stop)
    resumed, _ = fit(frozen, digits, workdir=tmp_path / "run", resume=True)
    assert_trees_identical(resumed, whole)
    filters = whitening_filters(digits.train, frozen.make_preprocess())
    assert conv1_of(resumed.variables).tobytes() == filters[..., :8].tobytes()
    assert (
        evaluate_run(tmp_path / "run", split="validation", which="last")["loss"]
        == (history.rows[-1]["validation_loss"])
    )
    jaxcifar.load(tmp_path / "run").save(tmp_path / "w.safetensors")
    exported = jaxcifar.load(tmp_path / "w.safetensors", architecture=frozen.architecture)
    assert conv1_of(exported.variables).tobytes() == conv1_of(resumed.variables).tobytes()
    cached, _ = fit(dataclasses.replace(frozen, cache_features=True, views=2), digits)
    assert conv1_of(cached.variables).tobytes() == conv1_of(resumed.variables).tobytes()
