"""A smoke run on a few batches of each split."""

import json
from dataclasses import replace

import numpy as np
import pytest

from jaxcifar.common.errors import RecipeError, RunError
from jaxcifar.devices.processes import DeviceOptions
from jaxcifar.studies.reproduction.words import preset_differences
from jaxcifar.studies.sweeps import sweep
from jaxcifar.training.fit import fit
from jaxcifar.training.plan import limit_splits
from tests.conftest import assert_trees_identical


@pytest.fixture
def smoke(recipe):
    return replace(recipe, epochs=2, limit_batches=2, batch_size=15)


def test_rows_are_spread_over_each_split(smoke, digits):
    cut = limit_splits(smoke, digits)
    assert [len(cut.train), len(cut.validation), len(cut.test)] == [30, 30, 30]
    np.testing.assert_array_equal(cut.train.labels, digits.train.labels[::4])
    np.testing.assert_array_equal(cut.test.load().images, digits.test.images[::12])
    wide = replace(smoke, limit_batches=100)
    assert limit_splits(wide, digits).train is digits.train
    assert (smoke.steps_per_epoch, wide.steps_per_epoch) == (2, 8)


@pytest.mark.slow
def test_a_smoke_run_says_so_and_resumes(smoke, digits, tmp_path, capsys):
    run = tmp_path / "run"
    _, history = fit(smoke, digits, workdir=run, verbose=True)
    shown = capsys.readouterr().out
    assert history.column("step") == [2, 4]
    assert shown.count("at most 2 batches of each split are used (--limit-batches)") == 2
    assert "30 train, 30 validation, 30 test images" in shown
    summary = json.loads((run / "summary.json").read_text())
    assert summary["limit_batches"] == 2
    assert summary["last"]["test"]["examples"] == 30
    config = json.loads((run / "config.json").read_text())
    assert config["recipe"]["limit_batches"] == 2
    # What the data are does not depend on the limit.
    assert [config["data"][n] for n in ("train", "validation", "test")] == [120, 40, 360]
    assert "limit_batches 2, not the default (all images)" in preset_differences(
        config["recipe"], "demo"
    )
    with pytest.raises(RunError, match="limit_batches: None, not 2"):
        fit(replace(smoke, limit_batches=None), digits, workdir=run, resume=True)
    longer = replace(smoke, epochs=3)
    extended, _ = fit(longer, digits, workdir=run, resume=True)
    whole, history = fit(longer, digits)
    assert_trees_identical(extended, whole)
    _, streamed = fit(longer, digits, devices=DeviceOptions(input="stream"))
    assert streamed.column("train_loss") == pytest.approx(history.column("train_loss"), rel=1e-5)


def test_cached_features_are_of_the_images_used(smoke, digits, monkeypatch):
    from jaxcifar.training import stage

    sizes, real = [], stage.cache_features

    def cache(*given, size, **named):
        sizes.append(size)
        return real(*given, size=size, **named)

    monkeypatch.setattr(stage, "cache_features", cache)
    frozen = {"freeze": "all_but:fc", "bn": "frozen", "cache_features": True, "views": 1}
    fit(replace(smoke, epochs=1, **frozen), digits)
    assert sizes == [30, 30]


@pytest.mark.slow
def test_members_as_one_program_use_the_same_images(smoke, digits, tmp_path):
    plain = replace(smoke, epochs=1, dropout_rate=0.0)
    result = sweep(plain, "seed", [0, 1], digits, workdir=tmp_path / "sweep", mode="vmap")
    _, history = fit(plain, digits)
    (member, _) = result.members
    assert member.history.column("step") == [2]
    assert member.summary["last"]["test"]["examples"] == 30
    assert member.history.column("train_loss") == pytest.approx(history.column("train_loss"))


@pytest.mark.parametrize("limit", [0, -1])
def test_no_batch_is_refused(recipe, limit):
    with pytest.raises(RecipeError, match="limit_batches must be positive"):
        replace(recipe, limit_batches=limit)
