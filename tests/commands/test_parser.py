import os
from pathlib import Path

import pytest

from jaxcifar.commands.main import COMMANDS, load_command
from jaxcifar.commands.parser import (
    Parser,
    add_checkpoint_option,
    add_data_dir_option,
    add_run_argument,
)


@pytest.fixture
def parser():
    parser = Parser(prog="jaxcifar train")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--stem", choices=["imagenet", "cifar"])
    return parser


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bach-size", "3"], "unknown option --bach-size; did you mean '--batch-size'? (see"),
        (["--bach-size=3"], "unknown option --bach-size; did you mean '--batch-size'? (see"),
        (["--batch", "3"], "unknown option --batch; did you mean '--batch-size'? (see"),
        (["--lr", "3"], "unknown option --lr (see jaxcifar train --help)\n"),
        (["--batch-size", "many"], "argument --batch-size: invalid int value: 'many'"),
        (["--stem", "vgg"], "argument --stem: invalid choice: 'vgg'"),
        (["surplus"], "unexpected argument 'surplus' (see"),
    ],
)
def test_an_error_is_one_line_and_status_2(parser, arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        parser.parse(arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"jaxcifar train: error: {message}")
    assert error.count("\n") == 1


def test_a_value_of_any_length_is_a_short_error(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse(["--batch-size", "9" * 5_000])
    assert len(capsys.readouterr().err) < 600


def test_the_description_keeps_its_lines():
    parser = Parser(description="first\n    second", epilog="a\nb")
    assert "first\n    second\n" in parser.format_help()
    assert parser.format_help().endswith("a\nb\n")


def test_the_data_folder_is_put_into_the_environment(parser, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "before")
    add_data_dir_option(parser)
    parser.parse([])
    assert os.environ["TFDS_DATA_DIR"] == "before"
    parser.parse(["--data-dir", "after"])
    assert os.environ["TFDS_DATA_DIR"] == "after"


def test_a_run_and_its_checkpoint(parser):
    add_run_argument(parser)
    add_checkpoint_option(parser)
    for text, value in (("best", "best"), ("last", "last"), ("120", 120)):
        parsed = parser.parse(["runs/demo", "--checkpoint", text])
        assert (parsed.run, parsed.checkpoint) == ("runs/demo", value)
    assert parser.parse(["runs/demo"]).checkpoint == "best"


@pytest.mark.parametrize("text", ["9" * 5_000, "-1", "1.5", "newest"])
def test_any_other_checkpoint_is_refused(parser, text, capsys):
    add_checkpoint_option(parser)
    with pytest.raises(SystemExit):
        parser.parse([f"--checkpoint={text}"])
    assert "is neither best, last nor a step" in capsys.readouterr().err


@pytest.fixture
def paths(parser):
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--image")
    add_run_argument(parser, type=Path, nargs="?")
    add_data_dir_option(parser.add_argument_group("a group"))
    return parser


def test_a_path_that_starts_with_a_tilde_is_in_the_home(paths, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("TFDS_DATA_DIR", "before")
    parsed = paths.parse(
        ["~/r", "--workdir=~/x", "--data-dir=~/d", "--weights=~/w.pth", "--image=~/a.png"]
    )
    assert (parsed.run, parsed.workdir) == (Path("/home/me/r"), Path("/home/me/x"))
    assert os.environ["TFDS_DATA_DIR"] == "/home/me/d"
    assert (parsed.weights, parsed.image) == ("/home/me/w.pth", "/home/me/a.png")
    parsed = paths.parse(["--workdir=./~/x", "--weights", "owner/name", "--image", "~cat"])
    assert (parsed.workdir, parsed.weights, parsed.image) == (
        Path.cwd() / "~/x",
        "owner/name",
        "~cat",
    )


@pytest.mark.parametrize(
    "argument", ["--workdir=~no_such_user/x", "--weights=~no_such_user/w", "--image=~no_such_user/"]
)
def test_a_home_that_is_not_known_is_one_line(paths, argument, capsys):
    with pytest.raises(SystemExit) as stopped:
        paths.parse([argument])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "user 'no_such_user' has no known home directory" in error
    assert error.count("\n") == 1


def test_without_a_home_a_tilde_is_one_line(paths, monkeypatch, capsys):
    def unknown(*_):
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(SystemExit):
        paths.parse(["--workdir=~/x"])
    assert "'~/x': you have no known home directory (set HOME" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "message"), [("", "is empty"), ("a\0b", "NUL character")])
def test_what_is_no_path_is_refused(paths, text, message, capsys):
    with pytest.raises(SystemExit):
        paths.parse([f"--workdir={text}"])
    assert message in capsys.readouterr().err


def test_every_option_for_a_folder_is_a_path():
    for name in COMMANDS:
        for action in load_command(name).make_parser(f"jaxcifar {name}")._actions:
            if action.metavar in ("DIR", "RUN", "PNG", "FILE", "OUT.safetensors"):
                assert action.type is Path or action.dest == "run", action


@pytest.mark.parametrize("text", ["./~", "./~x", ".//~x/y", "././~x"])
def test_a_name_that_starts_with_a_tilde_is_not_expanded_later(paths, monkeypatch, text):
    monkeypatch.setenv("TFDS_DATA_DIR", "before")
    parsed = paths.parse([f"--workdir={text}", f"--data-dir={text}"])
    assert parsed.workdir == parsed.data_dir == Path.cwd() / text
    assert Path(os.path.expanduser(parsed.data_dir)) == parsed.data_dir
