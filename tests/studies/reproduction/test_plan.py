import pytest

from jaxcifar.common.errors import RecipeError
from jaxcifar.recipes.presets import EXPERIMENTS
from jaxcifar.studies.reproduction.plan import PLAN, Settings, recipe_of, select

ITEMS = {item.name: item for item in PLAN}


def test_the_plan_has_every_experiment_and_begins_with_the_reports():
    names = [item.name for item in PLAN]
    assert len(set(names)) == len(names)
    trained = {item.preset for item in PLAN if item.kind == "run"}
    speedruns = {name for name in EXPERIMENTS if name.startswith("speedrun")}
    assert trained == set(EXPERIMENTS) - {"demo"} - speedruns
    assert names[:4] == ["scratch", "finetune", "freeze_a", "freeze_b"]
    assert names.index("dropout_sweep") < names.index("mini"), "so that mini does not run again"
    pictures = [item.kind for item in PLAN].index("pictures")
    assert {item.kind for item in PLAN[pictures:]} == {"pictures"}


def test_the_reports_figures_are_those_of_its_table():
    figures = {
        item.name: (*item.reported.accuracies, item.reported.seconds)
        for item in PLAN
        if item.reported and item.preset == item.faithful
    }
    assert figures == {
        "scratch": (0.978, 0.737, 0.730, 364),
        "finetune": (0.992, 0.808, 0.805, 362),
        "freeze_a": (0.995, 0.793, 0.791, 321),
        "freeze_b": (0.615, 0.492, 0.491, 225),
        "mini": (0.896, 0.728, 0.728, 1431),
    }


@pytest.mark.parametrize("item", [i for i in PLAN if i.preset], ids=lambda item: item.name)
def test_every_recipe_is_valid_at_both_scales(item):
    smoke = recipe_of(item, Settings(scale="smoke"), seed=3)
    assert (smoke.seed, smoke.epochs) == (3, 2)
    assert smoke.split_sizes[0] <= 2_560
    assert recipe_of(item, Settings(), seed=0) == EXPERIMENTS[item.preset].recipe


def test_smaller_images_are_shifted_and_cut_less():
    modern = EXPERIMENTS["mini_modern"].recipe
    recipe = recipe_of(ITEMS["mini_modern"], Settings(resize=modern.resize // 2, epochs=15), seed=0)
    assert (recipe.resize, recipe.epochs) == (modern.resize // 2, 15)
    assert recipe.translate_pixels == modern.translate_pixels // 2
    assert recipe.cutout_pixels == modern.cutout_pixels // 2
    scratch = recipe_of(ITEMS["scratch"], Settings(resize=64), seed=0)
    assert scratch == EXPERIMENTS["scratch"].recipe


def test_weights_apply_only_to_pretrained_items():
    settings = Settings(weights="some/where")
    assert recipe_of(ITEMS["finetune"], settings, seed=0).weights == "some/where"
    assert recipe_of(ITEMS["scratch"], settings, seed=0).weights is None


def test_ids_are_selected_in_the_plans_order():
    assert [i.name for i in select(PLAN, ["freeze-b", "scratch"])] == ["scratch", "freeze_b"]
    rest = [i.name for i in select(PLAN, skip=["mini"])]
    assert rest == [name for name in ITEMS if name != "mini"]
    with pytest.raises(RecipeError, match="'freeze_c'; did you mean 'freeze_"):
        select(PLAN, ["freeze_c"])
    with pytest.raises(RecipeError, match="unknown id 'scrach'"):
        select(PLAN, skip=["scrach"])
    with pytest.raises(RecipeError, match="nothing is left"):
        select(PLAN, ["mini"], ["mini"])


def test_at_least_one_seed():
    with pytest.raises(RecipeError, match="seeds must be at least 1, not 0"):
        Settings(seeds=0)


def test_not_a_million_seeds():
    with pytest.raises(RecipeError, match="seeds must be at most 100, not 1000000"):
        Settings(seeds=10**6)
