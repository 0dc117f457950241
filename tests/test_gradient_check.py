"""The check of a new device's gradients; the oracle of its gradients is a step of plain SGD."""

import jax
import numpy as np
import optax
import pytest

from benchmarks import gradient_check
from benchmarks.gradient_check import LIMIT, errors, first_step, gradients_on
from jaxcifar.recipes.stage import make_stage

CPU = jax.devices("cpu")[0]


@pytest.mark.slow
def test_the_gradients_are_those_by_which_sgd_moves(recipe):
    state, batch = first_step(recipe)
    found = gradients_on(CPU, recipe, batch, state)
    step = make_stage(recipe)._replace(tx=optax.sgd(1.0)).make_train_step()
    sgd = state.replace(opt_state=optax.sgd(1.0).init(state.params))
    after, _ = jax.jit(step)(sgd, batch)
    moved = jax.tree.map(lambda a, b: np.asarray(a - b), state.params, after.params)
    assert max(errors(found, moved).values()) < 1e-4
    assert set(errors(found, found).values()) == {0.0}
    assert {"conv1", "bn1", "layer1/0", "fc"} <= errors(found, found).keys()


@pytest.mark.parametrize(("value", "bad"), [(0.0, False), (1e-4, False), (2e-3, True)])
def test_an_error_is_named_with_its_block(recipe, value, bad):
    tree = {
        "conv1": {"kernel": np.ones(9)},
        "layer1": {"0": {"w": np.ones(4)}},
        "fc": {"w": np.ones(2)},
    }
    other = {**tree, "layer1": {"0": {"w": np.ones(4) + value}}}
    found = errors(other, tree)
    assert found["layer1/0"] == pytest.approx(value)
    assert found["conv1"] == found["fc"] == 0
    assert (found["layer1/0"] > LIMIT) == bad


@pytest.mark.parametrize(("value", "status"), [(0.0, 0), (np.nan, 1), (np.inf, 1), (0.1, 1)])
def test_the_exit_status_says_whether_all_are_small(monkeypatch, capsys, value, status):
    monkeypatch.setattr(gradient_check, "compare", lambda recipe: {"conv1": 0.0, "fc": value})
    monkeypatch.setattr("sys.argv", ["gradient_check", "demo", "--width", "2"])
    with pytest.raises(SystemExit) as stopped:
        gradient_check.main()
    assert stopped.value.code == status
    assert ("FAILED: fc" in capsys.readouterr().out) == bool(status)
