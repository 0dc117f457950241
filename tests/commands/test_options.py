import argparse
import dataclasses
import re
from typing import Any

import pytest

from jaxcifar.commands.options import add_options, given_options
from jaxcifar.commands.parser import Parser
from jaxcifar.devices.processes import DeviceOptions
from jaxcifar.recipes.presets import EXPERIMENTS
from jaxcifar.recipes.recipe import Recipe


def make_parser(defaults, **settings):
    parser = Parser(prog="train.py")
    add_options(parser, defaults, **settings)
    return parser


def help_of(parser):
    """The help text of each option, by field name."""
    return {action.dest: action.help for action in parser._actions if action.dest != "help"}


def test_only_given_options_are_returned_with_their_types():
    parser = make_parser(Recipe())
    for arguments, options in (
        ("", {}),
        ("--epochs 3 --learning-rate 1e-3", {"epochs": 3, "learning_rate": 0.001}),
        ("--stratified", {"stratified": True}),
        ("--no-stratified", {"stratified": False}),
        ("--t-max 5.5 --views 2", {"t_max": 5.5, "views": 2}),
        ("--weights w.pth", {"weights": "w.pth"}),
        ("--stem cifar", {"stem": "cifar"}),
    ):
        assert given_options(parser.parse(arguments.split()), Recipe) == options


@pytest.mark.parametrize("words", ["--stem vgg", "--epochs 1.5", "--views few"])
def test_a_value_of_another_kind_is_refused(words, capsys):
    with pytest.raises(SystemExit):
        make_parser(Recipe()).parse(words.split())
    assert f"argument {words.split()[0]}: invalid" in capsys.readouterr().err


def test_fields_of_other_dataclasses_are_left_out():
    assert given_options(argparse.Namespace(data_dir="x", epochs=2), Recipe) == {"epochs": 2}


def test_an_alias_sets_the_same_field():
    parser = make_parser(Recipe(), aliases={"learning_rate": "--lr"})
    assert given_options(parser.parse(["--lr", "0.1"]), Recipe) == {"learning_rate": 0.1}


def test_help_shows_every_field_with_its_default():
    texts = help_of(make_parser(Recipe()))
    assert set(texts) == set(Recipe().to_dict())
    assert texts["epochs"].endswith("(default: 20)")


@pytest.mark.parametrize("defaults", [*EXPERIMENTS, "devices"])
def test_help_shows_at_most_one_default(defaults):
    defaults = DeviceOptions() if defaults == "devices" else EXPERIMENTS[defaults].recipe
    for name, text in help_of(make_parser(defaults)).items():
        value = getattr(defaults, name)
        assert text.count("default: ") <= 1, text
        metadata = type(defaults).__dataclass_fields__[name].metadata
        default = metadata["unset"] if value is None else value
        shown = "" if default is None else f" (default: {default})"
        assert text == metadata["help"] + shown


@dataclasses.dataclass
class Two:
    """One says what None means, the other does not."""

    a: Any = dataclasses.field(
        default=None, metadata={"group": "g", "help": "pixels", "unset": "the dataset's"}
    )
    b: Any = dataclasses.field(
        default=None, metadata={"group": "g", "help": "HOST:PORT", "unset": None}
    )
    __annotations__ = {"a": int | None, "b": int | None}


def test_the_meaning_of_none_gives_way_to_a_value():
    texts = help_of(make_parser(Two()))
    assert (texts["a"], texts["b"]) == ("pixels (default: the dataset's)", "HOST:PORT")
    texts = help_of(make_parser(Two(a=5, b=7)))
    assert (texts["a"], texts["b"]) == ("pixels (default: 5)", "HOST:PORT (default: 7)")
    assert re.search(r"^g:$", make_parser(Two()).format_help(), re.MULTILINE)
