"""Short forms of benchmarks/deaths.py, which kills a process before each of its file operations."""

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture
def deaths(root, tmp_path):
    """Run the benchmark; JAX must not have started in the process that it forks."""

    def run(*arguments):
        out = tmp_path / "deaths.json"
        command = [sys.executable, "-m", "benchmarks.deaths", *arguments, "--out", str(out)]
        env = os.environ | {"PYTHONPATH": str(root), "JAXCIFAR_CACHE_DIR": str(tmp_path)}
        done = subprocess.run(
            command, cwd=root, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode in (0, 1), done.stderr
        return json.loads(out.read_text())["scenarios"]

    return run


def assert_undisturbed(scenarios, *, least):
    for name, counts in scenarios.items():
        assert counts["different"] == {}, name
        assert counts["killed"] == counts["identical"] + counts["rounded"] >= least, name


@pytest.mark.slow
def test_the_cache_and_an_export_end_as_undisturbed_after_any_death(deaths):
    assert_undisturbed(deaths("export", "cache"), least=2)


@pytest.mark.slow  # a quarter of a minute; tests/test_leftovers_and_links.py has what is left then
def test_a_run_that_died_at_its_first_operations_ends_as_undisturbed(deaths):
    assert_undisturbed(deaths("run", "--first", "9", "--every", "4"), least=3)


@pytest.mark.slow  # some ten minutes
def test_all_else_ends_as_undisturbed_after_some_deaths(deaths):
    names = ("run", "overwrite", "sweep", "sweep_vmap", "report", "preparation")
    assert_undisturbed(deaths(*names, "--every", "30"), least=1)


BROKEN = """
import json
from benchmarks.deaths import SCENARIOS, Scenario, is_close, run_scenario

def start(folder):  # what is half done is never finished
    if not (folder / "a").exists():
        (folder / "a").mkdir()
        (folder / "a" / "b").write_text("")

SCENARIOS["broken"] = Scenario(start, lambda folder: [path.name for path in folder.rglob("*")])
print(json.dumps(run_scenario("broken")))
others = [{"a": 1.0001}], [{"a": 1.01}], [{"b": 1.0}], [{"a": 1.0}, 2]
print(json.dumps([is_close(other, [{"a": 1.0}]) for other in others]))
"""


def test_an_end_that_differs_is_noticed(root):
    command = [sys.executable, "-c", BROKEN]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    counts, close = map(json.loads, done.stdout.splitlines())
    assert close == [True, False, False, False]
    assert counts.pop("different") == {"2": ["a"]}
    assert counts == {"operations": 2, "killed": 2, "identical": 1, "rounded": 0}
