"""The parts of `benchmarks.stability` and `benchmarks.conv_error` that need no long run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import conv_error, stability
from jaxcifar.models.resnet import resnet18
from jaxcifar.recipes.presets import get_experiment
from tests.conftest import random_variables


def statistics(**variances):
    """Statistics of BatchNorms with these variances and different means."""
    return {
        name: {"mean": np.float32(values) * 100, "var": np.float32(values)}
        for name, values in variances.items()
    }


def test_the_largest_variance_ratio_counts_in_both_directions_and_names_its_layer():
    running = statistics(bn1=[1, 2], bn2=[4, 1])
    assert stability.largest_ratio(running, statistics(bn1=[1, 6], bn2=[2, 1])) == (
        pytest.approx(3, rel=1e-4),
        "bn1",
    )
    assert stability.largest_ratio(running, statistics(bn1=[1, 1], bn2=[1, 1])) == (
        pytest.approx(4, rel=1e-4),
        "bn2",
    )


def test_a_variance_of_zero_counts_as_the_epsilon_of_batch_norm():
    ratio, _ = stability.largest_ratio(statistics(bn1=[0]), statistics(bn1=[1]))
    assert ratio == pytest.approx(100_001, rel=1e-4)


def measured(variant, seed, *accuracies):
    """The rows of a run with these validation accuracies."""
    return [
        {
            "variant": variant,
            "seed": seed,
            "epoch": epoch,
            "train_loss": 2.0 / epoch + seed,
            "validation_accuracy": accuracy,
            "accuracy_by_batch_statistics": 0.7,
            "largest_logit": 10.0 * epoch,
            "largest_variance_ratio": 1.0 + epoch,
        }
        for epoch, accuracy in enumerate(accuracies, 1)
    ]


def test_falls_and_last_values_are_counted_for_each_variant():
    rows = [
        *measured("auto", 0, 0.5, 0.3, 0.6),
        *measured("auto", 1, 0.4, 0.35, 0.2),
        *measured("xla", 0, 0.1),
    ]
    summary = stability.summarize(rows)
    assert summary == {
        "auto": {
            "seeds": 2,
            "measurements": 6,
            "falls": 2,  # 0.5 to 0.3 and 0.35 to 0.2; not from one seed to the next
            "dips": 5,
            "lowest_accuracy_after_the_first_epoch": 0.2,
            "last_accuracies": {"0": 0.6, "1": 0.2},
            "last_train_losses": {"0": pytest.approx(2 / 3), "1": pytest.approx(5 / 3)},
            "largest_gap_to_batch_statistics": 0.5,
            "largest_variance_ratio": 4.0,
            "largest_logit": 30.0,
        },
        "xla": {
            "seeds": 1,
            "measurements": 1,
            "falls": 0,
            "dips": 1,
            "lowest_accuracy_after_the_first_epoch": 0.1,
            "last_accuracies": {"0": 0.1},
            "last_train_losses": {"0": 2.0},
            "largest_gap_to_batch_statistics": 0.6,
            "largest_variance_ratio": 2.0,
            "largest_logit": 10.0,
        },
    }


def test_the_figure_has_a_panel_per_variant_and_a_line_per_seed():
    rows = [
        *measured("torch", 3, 0.5, 0.6),
        *measured("auto", 3, 0.4, 0.3),
        *measured("torch", 4, 0.1, 0.2),
    ]
    torch, auto = stability.draw(rows).axes
    assert (torch.get_title(), auto.get_title()) == ("torch", "auto")
    *curves, dots = torch.get_lines()
    assert [list(curve.get_ydata()) for curve in curves] == [[0.5, 0.6], [0.1, 0.2]]
    assert [list(curve.get_xdata()) for curve in curves] == [[1, 2], [1, 2]]
    assert list(dots.get_xdata()) == [1, 2, 1, 2]
    assert list(dots.get_ydata()) == [0.7] * 4
    assert len(auto.get_lines()) == 2


def test_the_relative_error_is_that_of_all_leaves_together():
    truth = {"a": np.full(3, 2.0), "b": np.full((2, 2), 1.0)}
    assert conv_error.relative_error(truth, truth) == 0
    assert conv_error.relative_error(jax.tree.map(lambda x: 0.9 * x, truth), truth) == (
        pytest.approx(0.1)
    )
    # Only "b" is off, by 1 in each of 4 numbers; the squares of the truth add up to 3 * 4 + 4.
    assert conv_error.relative_error(truth | {"b": np.zeros((2, 2))}, truth) == 0.5


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (1, 2)])
def test_the_three_passes_of_every_form_are_those_of_the_convolution(size, stride):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 6, 6, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(size, size, 3, 5)), jnp.float32)

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(size // 2, size // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    output, pull = jax.vjp(convolve, x, kernel)
    cotangent = jnp.asarray(rng.normal(size=output.shape), jnp.float32)
    of_input, of_kernel = pull(cotangent)
    for lowering in conv_error.LOWERINGS:
        results = conv_error.passes(x, kernel, cotangent, lowering)
        for result, expected in zip(results, (output, of_kernel, of_input), strict=True):
            np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_arguments_of_each_layer_give_the_gradient_of_its_kernel():
    model = resnet18(width=4, lowering="xla")
    variables = random_variables(model)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(4, 32, 32, 3)), jnp.float32)
    labels = jnp.arange(4)

    @jax.jit
    @jax.grad
    def gradient(params):
        return conv_error.loss_of(model, params, variables["batch_stats"], images, labels)[0]

    gradients = gradient(variables["params"])
    arguments = conv_error.layer_arguments(model, variables, images, labels)
    assert len(arguments) == 20
    for name, (x, kernel, cotangent) in arguments.items():
        expected = gradients
        for key in name.split("."):
            expected = expected[key]
        _, of_kernel, _ = conv_error.passes(x, kernel, cotangent, "xla")
        assert conv_error.relative_error(of_kernel, expected["kernel"]) < 1e-4, name


def test_only_recipes_that_all_variants_can_train_are_measured():
    scratch = get_experiment("scratch").recipe
    assert stability.misfit_of(dataclasses.replace(scratch, epochs=2, learning_rate=0.1)) is None
    assert "batch_norm_decay 0.6" in stability.misfit_of(
        dataclasses.replace(scratch, batch_norm_decay=0.6)
    )
    for name in ("speedrun", "mini", "scratch_modern", "finetune"):
        assert "can be measured" in stability.misfit_of(get_experiment(name).recipe)
