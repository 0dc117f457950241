import shlex
import subprocess

import pytest

from jaxcifar.studies.reproduction.words import shared_differences, shared_text, shell_line


@pytest.mark.parametrize(
    "word",
    [
        "a\x1b[31m\nerror: forged",
        "'\"\\\n$x`y`",
        "a\udcff\t\u202eb",
        "猫\n\x01f",
        "two words",
        "plain",
    ],
)
def test_a_command_is_one_line_that_a_shell_reads_back(word):
    line = shell_line(["printf", "%s|", word, "--out"])
    assert line.isprintable()
    said = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout
    assert said.decode(errors="surrogateescape") == f"{word}|--out|"


def test_ordinary_words_are_quoted_as_always():
    words = ["jaxcifar", "reproduce", "--out", "my report", "--weights", "a/b.pth"]
    assert shell_line(words) == shlex.join(words)


def test_what_rows_share_is_said_once_and_of_whom():
    rows = {
        "one": ["c", "x", "b", "a"],
        "two": ["b", "a"],
        "three": ["b", "a"],
        "four": ["c", "a", "y"],
    }
    shared = shared_differences(rows)
    assert list(shared.items()) == [
        ("a", ["one", "two", "three", "four"]),
        ("b", ["one", "two", "three"]),
        ("c", ["one", "four"]),
    ]
    start = "Differences from the recipes, which the rows do not repeat."
    assert shared_text(shared, list(rows)) == (
        f"{start} All runs: a. All runs but four: b. one and four: c."
    )
    assert shared_text(shared, [*rows, "five", "six"]) == (
        f"{start} All runs but five and six: a. one, two and three: b. one and four: c."
    )
    assert shared_differences({"one": ["a"]}) == shared_differences({}) == {}


def test_shared_differences_are_a_sentence_for_each_group():
    shared = {"a 1, not 2": ["x", "y"], "b": ["x"], "c": ["x"]}
    assert shared_text(shared, ["x", "y"]) == (
        "Differences from the recipes, which the rows do not repeat. All runs: a 1, not 2. x: b; c."
    )
