"""Shell completion of the command line, by shtab."""

import argparse
from collections.abc import Mapping

import shtab

from jaxcifar.commands.parser import Parser
from jaxcifar.recipes.presets import EXPERIMENTS

DIRECTORIES = ("run", "workdir", "data_dir")
FILES = ("from_archive", "weights", "image", "model", "images", "csv")


def completion_script(
    root: Parser, commands: Mapping[str, tuple[argparse.ArgumentParser, str]], shell: str
) -> str:
    """A completion script.

    Args:
        root: the parser in front of the subcommands, which are added to it.
        commands: the parser and the summary of each subcommand.
        shell: one that shtab knows.
    """
    subparsers = root.add_subparsers(parser_class=argparse.ArgumentParser)
    for name, (parser, summary) in commands.items():
        for action in parser._actions:
            _complete(action, name)
        subparsers.add_parser(name, help=summary, parents=[parser], add_help=False)
    return shtab.complete(root, shell=shell)


def _complete(action: argparse.Action, command: str) -> None:
    """Say which words complete an argument's value, where its choices do not."""
    if action.dest == "experiment":
        action.choices = tuple(EXPERIMENTS)
    elif action.dest in DIRECTORIES or (command, action.dest) == ("reproduce", "out"):
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif action.dest in (*FILES, "out"):
        action.complete = shtab.FILE  # type: ignore[attr-defined]
