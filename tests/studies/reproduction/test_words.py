import shlex
import subprocess

import pytest

from jaxcifar.studies.reproduction.words import shell_line


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
