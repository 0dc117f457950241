import re
import runpy
import subprocess
import sys
from importlib.metadata import version

import pytest

from jaxcifar.commands import main as module
from jaxcifar.commands.main import COMMANDS, load_command


def test_without_a_command_help_is_printed_and_the_status_is_2(run_command):
    status, out, error = run_command()
    assert (status, out) == (2, "")
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", error, re.MULTILINE)
    assert "jaxcifar train demo" in error
    status, out, _ = run_command("--help")
    assert (status, out) == (0, error)
    assert max(map(len, out.splitlines())) <= 80


def test_the_version_names_what_it_computes_with(run_command):
    status, out, _ = run_command("--version")
    assert status == 0
    assert out.startswith(f"jaxcifar {version('jaxcifar')} (Python 3.")
    assert f"jax {version('jax')}, flax {version('flax')}" in out
    assert out.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian", "demo"], "unknown command 'trian'; did you mean 'train'? (see jaxcifar --help)"),
        (["prepare_data"], "unknown command 'prepare_data'; did you mean 'prepare-data'?"),
        (["xyz"], "unknown command 'xyz'; choose from prepare-data, train, evaluate, predict"),
        (["--versoin"], "unknown option --versoin; did you mean '--version'?"),
        (["--print-completion", "dosh"], "argument --print-completion: invalid choice: 'dosh'"),
    ],
)
def test_a_mistake_is_one_line(run_command, arguments, message):
    status, out, error = run_command(*arguments)
    assert (status, out) == (2, "")
    assert error.startswith(f"jaxcifar: error: {message}")
    assert error.count("\n") == 1


def test_jax_is_imported_only_where_it_is_needed():
    code = """
import sys
from jaxcifar.commands.main import main

for words in ([], ["--help"], ["--version"], ["trian"], ["--versoin"], ["prepare-data", "--help"]):
    try:
        main(arguments=words)
    except SystemExit:
        loaded = {"jax", "numpy"} & set(sys.modules)
        print(f"[{' '.join(words)}: {sorted(loaded)}]")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.findall(r"\[(.*): \[(.*)\]\]", done.stdout) == [
        ("", ""),
        ("--help", ""),
        ("--version", ""),
        ("trian", ""),
        ("--versoin", ""),
        ("prepare-data --help", "'numpy'"),
    ]


@pytest.fixture
def calls(monkeypatch):
    """The subcommands that were called, instead of running them."""
    calls = []

    def record(name, prog, arguments):
        calls.append((name, prog, list(arguments)))
        raise SystemExit(0)

    monkeypatch.setattr(module, "run_command", record)
    return calls


def test_a_subcommand_gets_the_arguments_after_it(run_command, calls):
    run_command("train", "demo", "--help")
    assert calls == [("train", "jaxcifar train", ["demo", "--help"])]


def test_python_m_is_the_same_command(calls, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["__main__.py", "evaluate", "runs/demo"])
    with pytest.raises(SystemExit):
        runpy.run_module("jaxcifar", run_name="__main__")
    assert calls == [("evaluate", "python -m jaxcifar evaluate", ["runs/demo"])]


def test_every_subcommand_has_a_script_that_is_only_a_door(root, calls, monkeypatch):
    scripts = sorted((root / "scripts").glob("*.py"))
    assert [path.stem.replace("_", "-") for path in scripts] == sorted(COMMANDS)
    for path in scripts:
        monkeypatch.setattr(sys, "argv", [str(path), "--some", "option"])
        with pytest.raises(SystemExit):
            runpy.run_path(str(path), run_name="__main__")
        assert calls.pop() == (path.stem.replace("_", "-"), path.name, ["--some", "option"])


@pytest.mark.parametrize("name", COMMANDS)
def test_a_subcommand_names_itself_as_it_was_called(name, run_command):
    status, out, _ = run_command(name, "--help")
    assert status == 0
    assert out.startswith(f"usage: jaxcifar {name} ")
    assert out.count("(default: ") <= len(re.findall(r"^  +-", out, re.MULTILINE))


def test_what_an_interruption_leaves_is_said(run_command, monkeypatch):
    def interrupt(prog, arguments):
        raise KeyboardInterrupt

    for name, text in (
        ("prepare-data", "run the same command again to continue"),
        ("train", "what was saved is intact; --resume continues from it"),
        ("sweep", "what was saved is intact; --resume continues from it"),
        ("reproduce", "what was saved is intact; the same command continues from it"),
        ("export", "nothing was written"),
    ):
        monkeypatch.setattr(load_command(name), "run", interrupt)
        assert run_command(name) == (130, "", f"interrupted; {text}\n")
