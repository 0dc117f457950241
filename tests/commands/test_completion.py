"""The completion scripts, and bash's at work."""

import shutil
import subprocess

import pytest

from jaxcifar.commands.main import COMMANDS, SHELLS, completion
from jaxcifar.recipes.presets import EXPERIMENTS

COMPLETE = """
source jaxcifar.bash
COMP_WORDS=({words})
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_shtab_jaxcifar jaxcifar "${{COMP_WORDS[COMP_CWORD]}}"
echo "${{COMPREPLY[*]}}"
"""


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """Complete the last of some words in bash."""
    if shutil.which("bash") is None:
        pytest.skip("no bash")
    folder = tmp_path_factory.mktemp("completion")
    (folder / "jaxcifar.bash").write_text(completion("bash"))
    (folder / "runs").mkdir()
    (folder / "weights.pth").write_text("")

    def complete(words):
        done = subprocess.run(
            ["bash", "-c", COMPLETE.format(words=words)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr == ""
        return set(done.stdout.split())

    return complete


def test_subcommands_and_experiments(bash):
    assert bash('jaxcifar ""') == set(COMMANDS)
    assert bash("jaxcifar prep") == {"prepare-data"}
    assert bash('jaxcifar train ""') == set(EXPERIMENTS)
    assert bash('jaxcifar prepare-data ""') == {"cifar10", "cifar100"}


def test_options_and_their_choices(bash):
    assert bash("jaxcifar train demo --warm") == {"--warmup-epochs"}
    assert bash("jaxcifar train demo --lr") == {"--lr"}
    assert bash('jaxcifar sweep demo --mode ""') >= {"auto", "vmap"}
    assert bash("jaxcifar visualize --grad") == {"--grad-cam"}


def test_files_and_folders(bash):
    assert bash('jaxcifar evaluate ""') == {"runs"}
    assert bash('jaxcifar train demo --workdir ""') == {"runs"}
    assert "weights.pth" in bash('jaxcifar train demo --weights ""')
    assert "weights.pth" in bash('jaxcifar export runs ""')
    assert "weights.pth" not in bash('jaxcifar reproduce --out ""')


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_is_printed_for_each_shell(run_command, shell):
    status, out, error = run_command("--print-completion", shell)
    assert (status, error) == (0, "")
    for word in (*COMMANDS, "warmup-epochs"):
        assert word in out
    assert "jaxcifar" in out.split("\n\n")[0] + out.splitlines()[-1]
