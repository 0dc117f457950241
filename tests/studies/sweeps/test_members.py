import dataclasses
from functools import partial

import numpy as np
import pytest

from jaxcifar.common.errors import DataError, RecipeError
from jaxcifar.recipes.splits import load_splits
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import read_recipe
from jaxcifar.studies.sweeps import sweep
from jaxcifar.studies.sweeps.members import (
    PLAIN_FIELDS,
    make_members,
    numeric_fields,
    parse_values,
    why_not_together,
)


def changed(recipe, **settings):
    return dataclasses.replace(recipe, **settings)


def test_members_differ_only_in_the_value(recipe):
    members = make_members(recipe, "dropout_rate", np.linspace(0, 0.5, 3))
    assert [member.name for member in members] == [
        "dropout_rate=0.0",
        "dropout_rate=0.25",
        "dropout_rate=0.5",
    ]
    assert members[1].recipe == changed(recipe, dropout_rate=0.25)
    assert all(type(member.value) is float for member in members)


def test_whole_numbers_become_floats_only_for_float_fields(recipe):
    assert make_members(recipe, "clip_norm", [1])[0].name == "clip_norm=1.0"
    assert make_members(recipe, "seed", np.arange(2))[1].recipe.seed == 1


def test_the_numeric_fields_are_those_annotated_as_numbers():
    fields = numeric_fields()
    assert fields["epochs"] is int
    assert fields["train_size"] is int
    assert fields["clip_norm"] is float
    assert not {"freeze", "stratified", "optimizer", "weights"} & set(fields)


@pytest.mark.parametrize(
    ("field", "values", "message"),
    [
        ("dropout", [0.1], "unknown field 'dropout'; did you mean 'dropout_rate'"),
        ("freeze", [1], "freeze is not numeric and cannot be swept; numeric are train_size"),
        ("stratified", [0, 1], "stratified is not numeric"),
        ("dropout_rate", [0.1, 1.0], "dropout_rate must be at least 0 and under 1, not 1.0"),
        ("learning_rate", [0.1, 0.1], "learning_rate 0.1 is given twice"),
        ("clip_norm", [1, 1.0], "clip_norm 1.0 is given twice"),
        ("seed", [], "a sweep over seed needs at least one value"),
        ("seed", [0.5], "seed must be of type int, not 0.5"),
        ("seed", ["1"], "seed must be of type int, not '1'"),
        ("clip_norm", [1.0, None], "clip_norm must be of type float, not None"),
        ("seed", [True], "seed must be of type int, not True"),
        ("weight_decay", [0.1], "weight_decay needs --optimizer adamw"),
    ],
)
def test_an_impossible_sweep_is_one_error(recipe, field, values, message):
    with pytest.raises(RecipeError, match=message) as raised:
        make_members(recipe, field, values)
    assert "\n" not in str(raised.value)


def test_values_of_the_command_line_get_the_type_of_the_field():
    assert parse_values("seed", ["0", "7"]) == [0, 7]
    assert parse_values("learning_rate", ["1e-3"]) == [0.001]
    with pytest.raises(RecipeError, match="seed must be of type int, not '0.5'"):
        parse_values("seed", ["0.5"])
    with pytest.raises(RecipeError, match="did you mean 'seed'"):
        parse_values("sed", ["0"])


@pytest.mark.parametrize(
    ("field", "values", "settings", "reason"),
    [
        ("dropout_rate", [0.0, 0.5], {}, None),
        ("seed", [0, 1], {}, None),
        ("batch_size", [20, 40], {}, "batch_size changes the data, a shape or the program"),
        ("epochs", [1, 2], {}, "epochs changes"),
        ("learning_rate", [0.1, 1.0], {"freeze": "fc=trained *=0.1@2"}, "something thaws later"),
        ("seed", [0, 1], {"train_resize": "16 32@2"}, "train_resize '16 32@2' is another program"),
        ("seed", [0, 1], {"train_resize": "16"}, None),
        ("momentum", [0.0, 0.9], {"optimizer": "sgd"}, "momentum 0.0 and 0.9 are optimizers with"),
        ("momentum", [0.5, 0.9], {"optimizer": "sgd"}, None),
        ("weight_decay", [0.0, 0.1], {"optimizer": "adamw"}, None),
    ],
)
def test_which_members_can_run_as_one_program(recipe, field, values, settings, reason):
    members = make_members(changed(recipe, **settings), field, values)
    answer = why_not_together(field, members)
    assert answer is None if reason is None else reason in answer


def test_members_with_different_features_cannot_share_them(recipe):
    cached = changed(
        recipe, freeze="freeze_b", bn="frozen", cache_features=True, views=2, flip_rate=0.5
    )
    for field, values in (("seed", [0, 1]), ("flip_rate", [0.1, 0.2])):
        reason = why_not_together(field, make_members(cached, field, values))
        assert f"follow from {field}" in reason
    members = make_members(cached, "dropout_rate", [0.1, 0.2])
    assert why_not_together("dropout_rate", members) is None


def test_every_plain_field_is_numeric():
    assert set(PLAIN_FIELDS) <= set(numeric_fields())


@pytest.mark.parametrize("field", ["train_size", "resize"])
def test_a_damaged_picture_of_a_later_member_is_found_before_the_first_is_trained(
    photo_run, photos, tmp_path, monkeypatch, field
):
    recipe = read_recipe(RunDirectory(photo_run))
    values = [4, 12] if field == "train_size" else [8, 16]
    largest = load_splits(dataclasses.replace(recipe, train_size=12), lazy=True).train
    few = load_splits(dataclasses.replace(recipe, train_size=4), lazy=True).train
    later = min(set(largest.rows.tolist()) - set(few.rows.tolist()))
    (photos / largest.source.split.files[later]).write_bytes(b"junk")
    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.fit", lambda *_, **__: pytest.fail("trained"))
    with pytest.raises(DataError, match="a picture cannot be read"):
        sweep(
            dataclasses.replace(recipe, batch_size=4), field, values,
            partial(load_splits, lazy=True), workdir=tmp_path / "s",
        )  # fmt: skip
    assert not (tmp_path / "s").exists()
