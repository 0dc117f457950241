"""The example in the docstring of every public function and class runs and prints what it says."""

import doctest
import sys

import pytest

import jaxcifar

CONSTANTS = {"EXPERIMENTS", "FREEZE_A", "FREEZE_B"}
# Public names whose docstring has no example yet. This set may only shrink.
WITHOUT_EXAMPLE = {"Interrupted", "evaluate_run"}
# Those whose example uses names of its module (jax, jnp) that it does not import: a reader who
# copies it gets a NameError. This set, too, may only shrink.
NEEDS_ITS_MODULE = {"capture", "grad_cam", "predict", "restore_run"}


def examples_of(name):
    """The doctests of a public name and of its methods, which must import what they use."""
    public = getattr(jaxcifar, name)
    module = vars(sys.modules[public.__module__]) if name in NEEDS_ITS_MODULE else {}
    found = doctest.DocTestFinder().find(public, name, globs=dict(module))
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", sorted(set(jaxcifar.__all__) - CONSTANTS))
def test_the_example_runs(name, tmp_path, monkeypatch):
    tests = examples_of(name)
    if name in WITHOUT_EXAMPLE:
        assert not tests, f"{name} has an example now: remove it from WITHOUT_EXAMPLE"
        return
    assert tests, f"{name} has no example in its docstring"
    monkeypatch.chdir(tmp_path)
    runner, printed = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS), []
    for test in tests:
        runner.run(test, out=printed.append)
    assert not runner.failures, "".join(printed)
    assert not list(tmp_path.iterdir()), "an example writes into the current directory"


def test_only_constants_have_no_example():
    assert not any(callable(getattr(jaxcifar, name)) for name in CONSTANTS)
    assert set(jaxcifar.__all__) >= CONSTANTS | WITHOUT_EXAMPLE | NEEDS_ITS_MODULE
