import os

import pytest

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
