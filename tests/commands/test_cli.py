import argparse
import os
import signal
import time

import jax
import pytest

from jaxcifar.commands import cli
from jaxcifar.commands.cli import Parser, add_options, given_options, run_script
from jaxcifar.common.errors import RunError
from jaxcifar.recipes.recipe import Recipe


@pytest.fixture
def parser():
    parser = Parser(prog="train.py")
    add_options(parser, Recipe())
    return parser


def test_only_what_is_given_is_returned_and_with_its_type(parser):
    parsed = parser.parse(["--epochs", "3", "--learning-rate", "1e-3", "--stratified"])
    assert given_options(parsed, Recipe) == {
        "epochs": 3,
        "learning_rate": 0.001,
        "stratified": True,
    }
    assert given_options(parser.parse(["--no-stratified"]), Recipe) == {"stratified": False}
    assert given_options(parser.parse(["--t-max", "5"]), Recipe) == {"t_max": 5.0}
    assert given_options(parser.parse([]), Recipe) == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bach-size", "3"], "unknown option --bach-size; did you mean '--batch-size'?"),
        (["--bach-size=3"], "unknown option --bach-size; did you mean '--batch-size'?"),
        (["--epochs", "many"], "argument --epochs: invalid int value: 'many'"),
        (["--stem", "vgg"], "argument --stem: invalid choice: 'vgg'"),
        (["surplus"], "do not know what to do with 'surplus'"),
    ],
)
def test_a_wrong_option_is_one_line(parser, arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        parser.parse(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"train.py: error: {message}")
    assert error.count("\n") == 1


def test_help_shows_every_field_with_its_default(parser):
    text = " ".join(parser.format_help().split())
    for name in Recipe().to_dict():
        assert "--" + name.replace("_", "-") in text
    assert "passes over the train split (default: 20)" in text


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RunError("no such run"), 2, "error: no such run\n"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            PermissionError(13, "Permission denied", "runs"),
            2,
            "error: [Errno 13] Permission denied",
        ),
        (None, 0, ""),
    ],
)
def test_expected_errors_are_one_line_and_a_status(error, code, text, capsys, monkeypatch):
    monkeypatch.setattr(cli, "enable_compilation_cache", lambda: None)

    def main():
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as stopped:
        run_script(main)
    assert stopped.value.code == code
    assert capsys.readouterr().err.startswith(text)


def test_sigterm_stops_as_ctrl_c_does(capsys, monkeypatch):
    monkeypatch.setattr(cli, "enable_compilation_cache", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    closed = []

    def main():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            closed.append(True)

    try:
        with pytest.raises(SystemExit) as stopped:
            run_script(main, interrupted="the rest is kept")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.value.code == 143
    assert closed
    assert capsys.readouterr().err == "terminated; the rest is kept\n"


def test_a_defect_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "enable_compilation_cache", lambda: None)

    def main():
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        run_script(main)


def test_fields_of_other_parsers_do_not_leak():
    assert given_options(argparse.Namespace(data_dir="x", epochs=2), Recipe) == {"epochs": 2}


@pytest.mark.parametrize(
    "error", [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes\nand more")]
)
def test_what_fits_no_memory_is_one_line(error, capsys, monkeypatch):
    monkeypatch.setattr(cli, "enable_compilation_cache", lambda: None)

    def main():
        raise error

    with pytest.raises(SystemExit) as stopped:
        run_script(main)
    assert stopped.value.code == 2
    text = capsys.readouterr().err
    assert text.startswith("error: out of memory: lower --batch-size")
    assert text.count("\n") == 1


def test_another_error_of_the_compiler_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "enable_compilation_cache", lambda: None)

    def main():
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")

    with pytest.raises(jax.errors.JaxRuntimeError):
        run_script(main)


def test_a_value_without_end_is_not_repeated(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse(["--epochs", "9" * 5_000])
    assert len(capsys.readouterr().err) < 600


@pytest.mark.parametrize("text", ["9" * 5_000, "-1", "1.5", "newest"])
def test_a_checkpoint_that_is_none_is_refused(text, capsys):
    parser = Parser(prog="evaluate.py")
    cli.add_checkpoint_option(parser)
    with pytest.raises(SystemExit):
        parser.parse([f"--checkpoint={text}"])
    assert "is neither best, last nor a step" in capsys.readouterr().err
