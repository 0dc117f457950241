"""Runs begun with optax's muon: their weights serve as before, but they do not go on."""

import dataclasses
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

import jaxcifar
from jaxcifar.common.errors import CheckpointError, RunError
from jaxcifar.inference.scoring import evaluate_run
from jaxcifar.models.names import named_leaves
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.old_muon import check_muon
from jaxcifar.runs.restore import restore_run
from jaxcifar.step.optimizer import make_optimizer
from jaxcifar.training.fit import fit
from jaxcifar.training.stage import forget_programs
from jaxcifar.training.start import forget_first_programs


def muon_of_optax(schedule, momentum=0.9):
    """The muon of `make_optimizer` before it had its own."""
    return contrib.muon(
        schedule,
        beta=momentum,
        weight_decay=5e-4,
        muon_weight_dimension_numbers=lambda kernels: jax.tree.map(
            lambda _: contrib.MuonDimensionNumbers((0, 1, 2), 3), kernels
        ),
    )


@pytest.fixture
def short(recipe):
    return dataclasses.replace(
        recipe, optimizer="muon", schedule="constant", learning_rate=0.02, t_max=None, epochs=1
    )


def forget():
    forget_programs()
    forget_first_programs()


@pytest.fixture
def old_run(short, digits, tmp_path):
    """A complete run, by the optimizer of an earlier version."""
    forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxcifar.step.optimizer.muon", muon_of_optax, raising=False)
        fit(short, digits, workdir=tmp_path / "old")
    forget()
    return tmp_path / "old"


def contents(folder):
    return {
        os.path.relpath(path, folder): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.slow
def test_an_old_run_is_refused_untouched_and_its_weights_still_serve(
    short, digits, old_run, tmp_path
):
    before = contents(old_run)
    for more, resume in (({}, True), ({"epochs": 2}, True), ({"epochs": 2}, "auto")):
        with pytest.raises(RunError, match="muon of an earlier version") as caught:
            fit(dataclasses.replace(short, **more), digits, workdir=old_run, resume=resume)
        message = str(caught.value)
        assert "\n" not in message
        assert f"{old_run} cannot be continued" in message
        assert "(checkpoint 3)" in message
        assert f"another --workdir, also from its weights by --weights {old_run}" in message
        assert contents(old_run) == before, "the summary, too"

    _, _, variables = restore_run(old_run)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
    scores = evaluate_run(old_run)
    assert scores["accuracy"] == RunDirectory(old_run).read_summary()["best"]["test"]["accuracy"]
    network = jaxcifar.load(old_run)
    network.save(tmp_path / "exported.safetensors")
    state, _ = fit(
        dataclasses.replace(short, weights=str(old_run)), digits, workdir=tmp_path / "new"
    )
    assert int(state.step) == 3
    assert contents(old_run) == before


@pytest.fixture
def stored(short, tmp_path):
    """A run directory with an old checkpoint, of step 3."""
    run_dir = RunDirectory(tmp_path / "stored")
    run_dir.create({"recipe": short.to_dict()})
    params = {"conv1": {"kernel": jnp.ones((3, 3, 2, 4))}, "fc": {"bias": jnp.ones(3)}}
    tx = optax.multi_transform(
        {"muon": muon_of_optax(short.learning_rate), "sgd": optax.sgd(0.1)},
        {"conv1": {"kernel": "muon"}, "fc": {"bias": "sgd"}},
    )
    state = jaxcifar.start_state({"params": params, "batch_stats": {}}, tx, seed=0)
    with Checkpoints(run_dir.checkpoints) as checkpoints:
        checkpoints.save(state.replace(step=jnp.int32(3)), validation_accuracy=0.5)
    return run_dir


@pytest.mark.parametrize("settings", [{"init": "dirac"}, {"stem": "cifar", "whiten": True}])
def test_the_way_out_names_the_settings_that_weights_need(short, stored, settings):
    """A preset with random weights of its own kind, such as speedrun, refuses others."""
    adjusted = dataclasses.replace(short, **settings)
    with pytest.raises(RunError, match=r"--weights \S+ --init kaiming --no-whiten$"):
        check_muon(stored, adjusted)
    dataclasses.replace(adjusted, weights=str(stored.path), init="kaiming", whiten=False)


@pytest.mark.parametrize("lost", ["train", "train/_METADATA", "train/manifest.ocdbt", "", None])
def test_a_damaged_newest_checkpoint_hides_nothing(short, stored, lost):
    newest = shutil.copytree(stored.checkpoints / "3", stored.checkpoints / "4")
    if lost is None:
        (newest / "train" / "_METADATA").write_text("[1]")
    elif (newest / lost).is_dir():
        shutil.rmtree(newest / lost)
    else:
        (newest / lost).unlink()
    with pytest.raises(RunError, match=r"\(checkpoint [34]\)"):
        check_muon(stored, short)


@pytest.mark.parametrize("name", ["sgd", "own"])
def test_only_runs_of_muon_are_looked_at(short, stored, name):
    # Of the schedule of an own optimizer nothing may be set, since it would be ignored.
    settings = {"optimizer": name, "learning_rate": 0.01, "schedule": "cosine"}
    check_muon(stored, dataclasses.replace(short, **settings))


@pytest.mark.slow
def test_a_run_of_the_present_muon_goes_on(short, digits, tmp_path):
    fit(short, digits, workdir=tmp_path / "run")
    state, history = fit(
        dataclasses.replace(short, epochs=2), digits, workdir=tmp_path / "run", resume=True
    )
    assert (int(state.step), len(history.rows)) == (6, 2)


@pytest.mark.slow
def test_an_own_transformation_with_optaxs_muon_goes_on(short, digits, tmp_path):
    # Of the schedule nothing may be set, since it would be ignored.
    own = dataclasses.replace(short, optimizer="own", learning_rate=0.01, schedule="cosine")
    tx = optax.multi_transform(
        {"muon": muon_of_optax(0.02), "rest": optax.sgd(0.02)},
        lambda params: jax.tree.map(lambda x: "muon" if x.ndim == 4 else "rest", params),
    )
    fit(own, digits, workdir=tmp_path / "run", tx=tx)
    longer = dataclasses.replace(own, epochs=2)
    state, _ = fit(longer, digits, workdir=tmp_path / "run", tx=tx, resume=True)
    assert int(state.step) == 6


def test_a_stored_state_of_optaxs_muon_never_fits_the_present_one(tmp_path):
    """Where the check did not see it, restoring still does."""
    params = {"conv1": {"kernel": jnp.ones((3, 3, 2, 4))}, "fc": {"bias": jnp.ones(3)}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxcifar.step.optimizer.muon", muon_of_optax, raising=False)
        old = make_optimizer("muon", lambda step: 0.1).init(params)
    new = make_optimizer("muon", lambda step: 0.1).init(params)
    assert set(named_leaves(old)) != set(named_leaves(new))
    assert set(named_leaves(new)) - set(named_leaves(old))
    state = jaxcifar.start_state(
        {"params": params, "batch_stats": {"bn1": {"mean": jnp.zeros(4)}}},
        make_optimizer("muon", lambda step: 0.1),
        seed=0,
    )
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(state.replace(opt_state=old), validation_accuracy=0.5)
        checkpoints.wait()
        with pytest.raises(CheckpointError, match="does not fit the optimizer"):
            checkpoints.restore_state(state)
        restored = checkpoints.restore_weights(state.variables)
    np.testing.assert_array_equal(restored["params"]["fc"]["bias"], params["fc"]["bias"])
