import dataclasses
import enum
import json

import jax
import numpy as np
import pytest

from jaxcifar.common.errors import DataError, RecipeError
from jaxcifar.recipes.numbers import numbers_of
from jaxcifar.recipes.presets import EXPERIMENTS, get_experiment
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.stage import stage_epochs
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import read_recipe


def test_a_recipe_survives_json():
    recipe = EXPERIMENTS["scratch"].recipe
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"batch_size": 40_001}, "batch_size 40001 is larger than the train split of 40000"),
        ({"batch_size": 1}, "leaves a batch of one image"),
        ({"batch_size": 39_999}, "leaves a batch of one image"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"epochs": 2.5}, "epochs must be of type int"),
        ({"epochs": True}, "epochs must be a number"),
        ({"epochs": np.float64(2)}, "epochs must be of type int, not 2.0"),
        ({"learning_rate": np.True_}, "learning_rate must be a number, not True"),
        ({"learning_rate": np.float64("nan")}, "learning_rate must be finite"),
        ({"learning_rate": np.ones(1)}, "learning_rate must be of type float, not array"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be finite"),
        ({"learning_rate": "fast"}, "learning_rate must be of type float"),
        ({"dropout_rate": 1.0}, "dropout_rate must be at least 0 and under 1"),
        ({"flip_rate": 1.5}, "flip_rate must lie between 0 and 1"),
        ({"translate_pixels": 32}, "translate_pixels must be under 32"),
        ({"translate_pixels": 64, "resize": 64}, "translate_pixels must be under 64"),
        ({"translate_fill": "reflct", "translate_pixels": 2}, "did you mean 'reflect'"),
        ({"batch_norm_decay": 1.0}, "batch_norm_decay must be at least 0 and under 1, not 1.0"),
        ({"batch_norm_decay": -0.1}, "batch_norm_decay must be at least 0 and under 1"),
        ({"batch_norm_decay": float("nan")}, "batch_norm_decay must be finite"),
        ({"test_shift_pixels": -1}, "test_shift_pixels must not be negative, not -1"),
        ({"test_shift_pixels": 32}, "test_shift_pixels must be under 32 pixels, not 32"),
        ({"test_shift_pixels": 8, "resize": 8}, "test_shift_pixels must be under 8 pixels"),
        ({"test_shift_pixels": 1.5}, "test_shift_pixels must be of type int"),
        ({"precision": "high"}, "unknown precision 'high'; did you mean 'highest'"),
        ({"cutout_pixels": 32}, "cutout_pixels must be under 32"),
        ({"cutout_pixels": -1}, "cutout_pixels must not be negative"),
        ({"start_scale": 1.5, "warmup_epochs": 1.0}, "start_scale must lie between 0 and 1"),
        (
            {"start_scale": 0.2},
            "start_scale is where a warm-up starts: with no --warmup-epochs it must be 0",
        ),
        ({"bias_scale": 0.0}, "bias_scale must be positive"),
        ({"lookahead_steps": 0}, "lookahead_steps must be positive"),
        (
            {"lookahead_share": 0.0, "lookahead_steps": 5},
            "lookahead_share must be above 0 and at most 1",
        ),
        ({"lookahead_share": 0.5}, "lookahead_share is for --lookahead-steps"),
        ({"whiten": True, "stem": "cifar", "resize": 2}, "resize must be 3 for --whiten"),
        ({"whiten": True}, "whiten is for 3x3 patches, not for the stem imagenet: use --stem cif"),
        (
            {"whiten": True, "stem": "cifar", "weights": "w"},
            "whiten True .* from 'w': use --init kaiming --no-whiten",
        ),
        ({"init": "dirac", "weights": "w"}, "init dirac, .* from 'w': use --init kaiming"),
        ({"init": "dirak"}, "did you mean 'dirac'"),
        ({"rotate_degrees": 190.0}, "rotate_degrees must lie in 0 to 180, not 190"),
        ({"interpolation": "cubic"}, "unknown interpolation 'cubic'"),
        ({"resize": 0}, "resize must be positive, not 0"),
        ({"validate_every": 0}, "validate_every must be at least 1"),
        ({"t_max": 0.0}, "t_max must be positive"),
        ({"weight_decay": 0.1}, "weight_decay needs --optimizer adamw"),
        ({"architecture": "resnet81"}, "did you mean 'resnet18'"),
        ({"stem": "imagnet"}, "did you mean 'imagenet'"),
        ({"normalization": "cifar"}, "did you mean 'cifar10'"),
        ({"optimizer": "lbfgs"}, "choose from adam, adamw, sgd, muon"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"seed": 2**31}, "seed must be at least 0 and under"),
        ({"stratified": 1}, "stratified must be of type bool"),
        ({"bn": "froze"}, "did you mean 'frozen'"),
        ({"clip_norm": 0.0}, "clip_norm must be positive"),
        ({"views": 0, "flip_rate": 0.5}, "views must be positive"),
        ({"views": 2}, "views 2 needs an augmentation"),
        ({"width": 10**9}, "width must be at most 4,096, not 1000000000"),
        ({"resize": 10**6}, "resize must be at most 16,384"),
        ({"epochs": 10**12}, "epochs must be at most 100,000"),
        ({"epochs": 10**5, "batch_size": 1, "stem": "cifar"}, "2\\*\\*31 or more"),
        ({"batch_size": 2**62}, "is larger than the train split"),
        ({"eval_batch_size": 2**63}, "eval_batch_size must be under 2\\*\\*63"),
        ({"dropout_rate": "0.1"}, "dropout_rate must be of type float, not '0.1'"),
        ({"learning_rate": 10**400}, "learning_rate must be finite as a float32, not 1000"),
        ({"learning_rate": 1e300}, "learning_rate must be finite as a float32"),
        ({"optimizer": [[[[[1]]]]]}, "unknown optimizer"),
        ({"dataset": "x" * 10**6}, "dataset has 1,000,000 characters, more than 4,096"),
        ({"freeze": "x" * 10**6}, "freeze has 1,000,000 characters, more than 16,384"),
        ({"weights": "a\0b"}, "weights must be a line of text, not 'a.x00b'"),
        ({"freeze": "fc=trained *=0.1@" + "9" * 5000}, "cannot read the label '0.1@999"),
        ({"freeze": "*=" + "9" * 400}, "cannot read the label"),
        ({"freeze": "layer_decay:1e-300"}, "cannot read the label"),
        ({"new_head": True}, "new_head says what to do with weights: name them by --weights"),
        ({"adapt_stem": True}, "adapt_stem says what to do with weights"),
        ({"freeze": "layer7"}, "freeze 'layer7': the rule 'layer7' matches no parameter; did you"),
        ({"freeze": "*=frozen"}, "nothing is trained in the first epoch"),
        ({"freeze": "fc=trained *=0.1@30"}, "in epoch 30, and the run ends with epoch 20"),
        ({"bn": "frozen"}, "bn frozen changes nothing where no BatchNorm is"),
        ({"bn": "frozen", "freeze": "conv1"}, "bn frozen changes nothing where no BatchNorm is"),
        ({"adapt_stem": True, "weights": "w"}, "adapt_stem is for --stem cifar"),
        (
            {"cache_features": True, "freeze": "freeze_b", "bn": "frozen", "test_mirror": True},
            "test_mirror: cached features .* use --no-test-mirror or --no-cache-features",
        ),
        (
            {"cache_features": True, "freeze": "freeze_b", "bn": "frozen", "test_shift_pixels": 1},
            "test_shift_pixels: cached .* use --test-shift-pixels 0 or --no-cache-features",
        ),
        ({"cache_features": True}, "the first layer is trained, so there is nothing to cache"),
        (
            {"cache_features": True, "freeze": "freeze_a"},
            "never give the same output twice; use --bn frozen",
        ),
        (
            {"cache_features": True, "freeze": "layer2", "bn": "frozen"},
            "the first layer is trained, so there is nothing to cache",
        ),
        (
            {"cache_features": True, "freeze": "freeze_b", "bn": "frozen", "flip_rate": 0.5},
            "a number of stored ones",
        ),
        (
            {"cache_features": True, "freeze": "freeze_b", "bn": "frozen", "rotate_degrees": 5.0},
            "a number of stored ones",
        ),
    ],
)
def test_an_invalid_setting_is_named_with_a_way_out(settings, message):
    with pytest.raises(RecipeError, match=message):
        Recipe(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dataset": "cifar01"}, "cifar10"),
        ({"train_size": 45_000, "validation_size": 10_000}, "50[,_]?000"),
        ({"train_size": 0}, "train"),
        ({"validation_size": 0}, "validation"),
    ],
)
def test_an_impossible_split_is_refused_without_loading_the_data(settings, message):
    with pytest.raises(DataError, match=message):
        Recipe(**settings)


def test_one_image_is_refused_only_where_batchnorm_has_no_variance():
    Recipe(dataset="digits", train_size=65, batch_size=64, stem="cifar")
    with pytest.raises(RecipeError, match="one image"):
        Recipe(dataset="digits", train_size=65, batch_size=64, stem="imagenet")


def test_the_error_of_an_unknown_field_names_the_nearest_one():
    with pytest.raises(RecipeError, match="'bach_size'; did you mean 'batch_size'"):
        Recipe.from_dict({"bach_size": 3})


def test_float_fields_accept_whole_numbers():
    recipe = Recipe(t_max=2**31, learning_rate=1)
    assert isinstance(recipe.t_max, float)
    assert float(recipe.make_schedule()(0)) == 1.0


def test_numbers_of_other_classes_become_plain():
    settings = {
        "learning_rate": np.logspace(-2, -1, 2)[0],
        "momentum": np.float32(0.5),
        "t_max": np.int32(3),
        "epochs": np.int64(4),
        "stratified": np.True_,
        "optimizer": np.str_("sgd"),
        "translate_pixels": enum.IntEnum("Pixels", {"SOME": 2}).SOME,
    }
    recipe = Recipe(**settings)
    kinds = [type(getattr(recipe, name)) for name in settings]
    assert kinds == [float, float, float, int, bool, str, int]
    assert recipe == Recipe(**json.loads(json.dumps(recipe.to_dict())))
    assert float(numbers_of(recipe)["learning_rate"]) == pytest.approx(0.01)
    assert int(numbers_of(recipe)["translate_pixels"]) == 2


def test_long_values_are_shortened_in_messages():
    deep = json.loads("[" * 900 + "]" * 900)
    for settings in ({"width": deep}, {"optimizer": deep}, {"freeze": "x" * 16_000}):
        with pytest.raises(RecipeError) as caught:
            Recipe(**settings)
        assert len(str(caught.value)) < 500


def test_the_error_of_a_stored_recipe_names_its_file(tmp_path):
    files = RunDirectory(tmp_path)
    for values, message in (
        ({"width": 10**9}, "width must be"),
        ({"dataset": "x"}, "unknown dataset"),
        ({"\x1b[2J": 1}, "unknown field"),
    ):
        files.write_config({"recipe": values})
        with pytest.raises(RecipeError, match=f"the recipe in .*config.json: {message}") as caught:
            read_recipe(files)
        assert "\x1b" not in str(caught.value)


def test_the_steps_of_an_epoch_include_the_smaller_last_batch():
    assert Recipe().steps_per_epoch == 313
    assert Recipe(train_size=39_936).steps_per_epoch == 312


def test_differences_name_the_fields():
    assert Recipe(epochs=3).differences(Recipe(seed=2)) == ["epochs: 3, not 20", "seed: 0, not 2"]


def test_every_field_has_a_group_and_a_help_text():
    for field in dataclasses.fields(Recipe):
        assert field.metadata["group"] in ("data", "model", "transfer", "training"), field.name
        assert field.metadata["help"], field.name


def test_the_preset_scratch_has_the_settings_of_the_report():
    recipe = get_experiment("scratch").recipe
    assert recipe.split_sizes == (40_000, 10_000)
    assert (recipe.epochs, recipe.batch_size, recipe.optimizer) == (20, 128, "adam")
    schedule = recipe.make_schedule()
    assert float(schedule(0)) == pytest.approx(0.01)
    assert float(schedule(312)) == pytest.approx(0.01)
    assert float(schedule(313 * 19)) == pytest.approx(0.00977905, rel=1e-5)


def test_freeze_rules_determine_labels_stages_and_frozen_batch_norms():
    recipe = Recipe(freeze="up_to:layer1 layer4=0.1@5 *=trained", bn="frozen")
    assert set(jax.tree.leaves(recipe.make_labels()["layer4"])) == {"0.1@5"}
    assert set(jax.tree.leaves(recipe.make_labels(4)["layer4"])) == {"frozen"}
    assert stage_epochs(recipe, 1) == stage_epochs(recipe, 4) == (1, 4)
    assert stage_epochs(recipe, 5) == stage_epochs(recipe, 20) == (5, 20)
    assert recipe.make_model().frozen == frozenset()
    early = {name.split(".")[0] for name in recipe.make_model(1).frozen}
    late = {name.split(".")[0] for name in recipe.make_model(5).frozen}
    assert early == {"bn1", "layer1", "layer4"}
    assert late == {"bn1", "layer1"}
    assert dataclasses.replace(recipe, bn="batch").make_model(1).frozen == frozenset()


def test_fields_missing_from_an_older_config_get_their_defaults():
    old = Recipe().to_dict()
    for name in ("weights", "freeze", "bn", "views", "cache_features", "clip_norm"):
        del old[name]
    assert Recipe.from_dict(old) == Recipe()


def test_a_recipe_is_shown_by_what_is_not_the_default():
    assert repr(Recipe()) == "Recipe()"
    recipe = Recipe(dataset="digits", normalization="half", learning_rate=0.1, stratified=True)
    assert repr(recipe) == (
        "Recipe(dataset='digits', stratified=True, normalization='half', learning_rate=0.1)"
    )


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_repr_of_a_preset_is_short_and_can_be_evaluated(name):
    recipe = EXPERIMENTS[name].recipe
    lines = repr(recipe).split("\n")
    assert len(lines) <= 10
    assert max(map(len, lines)) <= 100
    assert eval(repr(recipe)) == recipe


@pytest.mark.parametrize("weights", ["/a/long/folder" * 20, "/line\nend/\u202e'\";, "])
def test_a_long_or_hostile_path_is_shown_on_short_lines(weights):
    recipe = Recipe(weights=weights)
    assert all(len(line) <= 100 and line.isprintable() for line in repr(recipe).split("\n"))
    assert eval(repr(recipe)) == recipe
    endless = repr(Recipe(weights="x" * 16_000))
    assert len(endless.split("\n")) == 10
    assert endless.endswith(" more)")


def test_a_traced_number_is_shown_without_being_compared():
    def see(value):
        return repr(Recipe().with_traced(learning_rate=value))

    seen = []
    jax.eval_shape(lambda value: seen.append(see(value)), jax.numpy.float32(0.1))
    assert "learning_rate=" in seen[0]
