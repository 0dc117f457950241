"""The example in the docstring of every public function and class runs and prints what it says."""

import doctest

import pytest

import jaxcifar

CONSTANTS = {"EXPERIMENTS", "FREEZE_A", "FREEZE_B"}
# Public names whose docstring has no example that is run, yet. This set may only shrink.
WITHOUT_EXAMPLE = {"evaluate_run", "export_run"}


def examples_of(name):
    """The doctests of a public name and of its methods, which must import what they use."""
    found = doctest.DocTestFinder().find(getattr(jaxcifar, name), name, globs={})
    skipped = [test for test in found for one in test.examples if doctest.SKIP in one.options]
    return [test for test in found if test.examples and test not in skipped]


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
    assert set(jaxcifar.__all__) >= CONSTANTS | WITHOUT_EXAMPLE
