import jax
import pytest

from jaxcifar.common.errors import RecipeError
from jaxcifar.models.names import count_params, named_leaves
from jaxcifar.recipes.presets import ELSEWHERE, EXPERIMENTS, get_experiment
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.step.freeze import split_params
from jaxcifar.step.state import init_variables, param_shapes
from tests.figures.runs import run


def test_dash_and_underscore_are_the_same(monkeypatch):
    monkeypatch.setitem(EXPERIMENTS, "two_words", EXPERIMENTS["demo"])
    assert get_experiment("two-words") is get_experiment("two_words")


def test_an_unknown_experiment_has_its_nearest_name():
    with pytest.raises(RecipeError, match="'scrach'; did you mean 'scratch'"):
        get_experiment("scrach")
    with pytest.raises(RecipeError, match="choose from demo, scratch"):
        get_experiment("xyzzy")


def test_a_part_of_the_report_that_is_not_a_run_names_its_command(root):
    for name, command in ELSEWHERE.items():
        program, subcommand, *_ = command.split()
        assert program == "jaxcifar"
        assert (root / "jaxcifar" / "commands" / f"{subcommand}.py").is_file()
        with pytest.raises(RecipeError, match=f"{name} is not a single run; use: {command}"):
            get_experiment(name)


def trained_params(recipe):
    model, key = recipe.make_model(), jax.random.key(0)
    variables = jax.eval_shape(lambda: init_variables(model, key, recipe.image_size))
    return count_params(split_params(variables["params"], recipe.make_labels())[0])


def test_the_transfer_runs_are_those_of_the_report():
    finetune, freeze_a, freeze_b = (
        get_experiment(name).recipe for name in ("finetune", "freeze-a", "freeze-b")
    )
    for recipe in (finetune, freeze_a, freeze_b):
        assert (recipe.optimizer, recipe.learning_rate, recipe.weight_decay) == ("adam", 1e-3, 0)
        assert (recipe.t_max, recipe.schedule_unit, recipe.epochs) == (200, "epoch", 20)
        assert (recipe.normalization, recipe.stem, recipe.batch_size) == (
            "imagenet",
            "imagenet",
            128,
        )
        assert (recipe.bn, recipe.new_head, recipe.split_sizes) == ("batch", True, (40_000, 10_000))
    assert [trained_params(recipe) for recipe in (finetune, freeze_a, freeze_b)] == [
        11_181_642,
        11_181_642 - 157_504,
        512 * 256 + 256 + 256 * 10 + 10,
    ]


def test_the_mini_run_is_that_of_the_report():
    mini = get_experiment("mini").recipe
    assert (mini.split_sizes, mini.stratified) == ((5_000, 45_000), True)
    assert (mini.image_size, mini.normalization, mini.weights) == (224, "imagenet", None)
    assert (mini.flip_rate, mini.rotate_degrees, mini.interpolation) == (0.4, 30, "nearest")
    assert (mini.head, mini.dropout_rate) == ("linear", 0.3)
    assert (mini.epochs, mini.learning_rate, mini.optimizer) == (50, 0.001, "adam")
    assert (mini.translate_pixels, mini.cutout_pixels, mini.weight_decay) == (0, 0, 0)


@pytest.mark.parametrize("name", [n for n in EXPERIMENTS if n.endswith(("_bn_frozen", "_modern"))])
def test_a_counterpart_keeps_the_images_the_epochs_and_the_weights(name):
    recipe = get_experiment(name).recipe
    faithful = get_experiment(name.removesuffix("_bn_frozen").removesuffix("_modern")).recipe
    assert recipe != faithful
    for field in ("dataset", "split_sizes", "split_seed", "epochs", "weights", "freeze"):
        assert getattr(recipe, field) == getattr(faithful, field), field


NINE = "nine, on smaller images first, were measured: "


@pytest.mark.parametrize(
    ("name", "measured", "text"),
    [
        ("speedrun", "speedrun_9_epochs", NINE),
        ("speedrun-sgd", "speedrun_sgd_9_epochs", NINE),
        ("scratch-modern", "scratch_modern", "the mean over mirror images (test "),
        ("mini-modern", "mini_modern_112_50_epochs", "at 112 pixels: "),
        ("finetune-modern", "finetune_modern", "the mean over mirror images (test "),
        ("freeze-a-modern", "freeze_a_modern", "stored BatchNorm statistics in them "),
    ],
)
def test_a_text_says_what_was_measured(name, measured, text):
    score = run(measured)["summary"]["last"]["test"]["accuracy"]
    words = get_experiment(name).text
    assert text in words
    assert f"test {score:.3f}" in words


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("speedrun-95", "not measured yet at full width"),
        ("speedrun-96", "not measured yet at full width"),
    ],
)
def test_a_text_says_that_nothing_was_measured(name, text):
    assert text in get_experiment(name).text


@pytest.mark.parametrize(
    ("name", "epochs", "smoothing", "shift", "cutout"),
    [("speedrun", 16, 0.2, 2, 0), ("speedrun-95", 40, 0.1, 4, 12), ("speedrun-96", 80, 0.1, 4, 12)],
)
def test_a_speedrun_uses_all_images_and_validates_once(name, epochs, smoothing, shift, cutout):
    recipe = get_experiment(name).recipe
    assert (recipe.split_sizes, recipe.steps_per_epoch, recipe.epochs) == (
        (49_500, 500),
        99,
        epochs,
    )
    assert [epoch for epoch in range(1, epochs + 1) if recipe.validates(epoch)] == [epochs]
    assert (recipe.label_smoothing, recipe.flip_rate) == (smoothing, 0.5)
    assert (recipe.translate_pixels, recipe.cutout_pixels) == (shift, cutout)
    # From a fifth of the peak to the peak in a fifth of the run, then to zero.
    steps, schedule = 99 * epochs, recipe.make_schedule()
    rates = [float(schedule(step)) for step in (0, steps // 5 - 1, 3 * steps // 5, steps)]
    assert rates == pytest.approx([0.048, 0.24, 0.12, 0.0], rel=0.02, abs=1e-6)
    # The first values of airbench94_muon.
    assert (recipe.optimizer, recipe.learning_rate, recipe.momentum) == ("muon", 0.24, 0.6)
    assert (recipe.batch_norm_decay, recipe.translate_fill) == (0.6, "reflect")
    assert (recipe.test_mirror, recipe.test_shift_pixels) == (True, 1)
    # Its first layer whitens and is not trained; the BatchNorm behind it is, as everything else.
    assert (recipe.whiten, recipe.init, recipe.bn) == (True, "dirac", "batch")
    frozen = split_params(param_shapes(recipe.make_model()), recipe.make_labels())[1]
    assert list(named_leaves(frozen)) == ["conv1.kernel"]


def test_the_speedrun_to_compare_with_has_nothing_unusual():
    recipe = get_experiment("speedrun-sgd").recipe
    assert (recipe.split_sizes, recipe.batch_size, recipe.epochs) == ((49_500, 500), 500, 26)
    assert [epoch for epoch in range(1, 27) if recipe.validates(epoch)] == [26]
    assert (recipe.optimizer, recipe.momentum, recipe.weight_decay) == ("sgd", 0.9, 5e-4)
    assert (recipe.flip_rate, recipe.translate_pixels, recipe.translate_fill) == (0.5, 4, "reflect")
    assert (recipe.cutout_pixels, recipe.stem, recipe.dtype) == (12, "cifar", "bfloat16")
    usual = ("label_smoothing", "init", "whiten", "freeze", "lookahead_steps", "bias_scale")
    usual += ("test_mirror", "test_shift_pixels", "batch_norm_decay", "precision")
    assert {name: getattr(recipe, name) for name in usual} == {
        name: getattr(Recipe(), name) for name in usual
    }
    # From zero to the peak in a fifth of the run, then to zero.
    steps, schedule = 99 * 26, recipe.make_schedule()
    rates = [float(schedule(step)) for step in (0, steps // 5 - 1, 3 * steps // 5, steps)]
    assert rates == pytest.approx([0.2 / (0.2 * steps), 0.2, 0.1, 0.0], rel=0.02, abs=1e-6)
