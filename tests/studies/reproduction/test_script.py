"""scripts/reproduce.py as a user runs it."""

import itertools
import os
import shlex
import subprocess
import sys

from jaxcifar.studies.reproduction import PLAN


def run(root, cwd, *arguments):
    command = [sys.executable, str(root / "scripts" / "reproduce.py"), *arguments]
    env = os.environ | {"PYTHONPATH": str(root)}
    return subprocess.run(command, cwd=cwd, env=env, text=True, capture_output=True, check=False)


def test_the_plan_is_listed_and_nothing_written(root, tmp_path):
    listed = run(root, tmp_path, "--list")
    assert [line.split()[0] for line in listed.stdout.splitlines()] == [i.name for i in PLAN]
    assert listed.returncode == 0
    assert not list(tmp_path.iterdir())


def test_a_foreign_directory_is_one_line_and_left_alone(root, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "thesis.tex").write_text("years of work")
    refused = run(root, tmp_path, "--scale", "smoke")
    assert refused.returncode == 2
    assert refused.stderr == (
        "error: report is not empty and holds no report (no plan.json): it is left as it is; "
        "choose another --out\n"
    )
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["thesis.tex"]


def test_the_readmes_commands_do_not_refuse_each_other(root):
    section = (root / "README.md").read_text().split("\n## The whole report\n")[1].split("```")[1]
    commands = [shlex.split(ln) for ln in section.splitlines() if ln.startswith("python ")]
    scales = {}
    for words in commands:
        options = dict(itertools.pairwise(words))
        if "--list" not in words:
            scales.setdefault(options.get("--out"), set()).add(options.get("--scale"))
            assert options["--weights"] == "resnet18.pth"
    assert scales == {None: {None}, "report_smoke": {"smoke"}}
