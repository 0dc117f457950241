"""What a command prints where a name holds colours and a line end: nothing that is not ours."""

import dataclasses
import json
import warnings

import numpy as np
import pytest
from safetensors.numpy import save

from jaxcifar.commands import export, reproduce, sweep, train, visualize
from jaxcifar.commands.exit_status import exit_with_status
from jaxcifar.common.messages import escaped
from jaxcifar.training.fit import fit
from tests.hostile_names import NAMES, picture_folder, write

both = pytest.mark.parametrize("name", NAMES, ids=["colours", "directions"])
SMALL = ("--train-size", "2", "--validation-size", "1", "--batch-size", "2", "--resize", "8")


@pytest.fixture(autouse=True)
def _no_global_settings(monkeypatch):
    for module in (export, train, sweep, reproduce, visualize):
        monkeypatch.setattr(module, "enable_compilation_cache", lambda: None)
    with warnings.catch_warnings():  # the commands replace how warnings are shown
        yield


def no_run(folder, name):
    return "evaluate", folder / name


def no_run_to_export(folder, name):
    return "export", folder / name, folder / "x.safetensors"


def no_image(folder, name):
    return "visualize", folder / "run", "--image", name


def damaged_image(folder, name):
    return "visualize", folder / "run", "--image", write(folder / f"{name}.png", b"no picture")


def no_target(folder, name):
    return "visualize", folder / "run", "--grad-cam", "--target", name


def no_layer(folder, name):
    return "visualize", folder / "run", "--layers", name


def picture_named_otherwise(folder, name):
    return "visualize", folder / "run", "--confusion", "--out", folder / f"{name}.jpg"


def damaged_picture(folder, name):
    dataset = picture_folder(folder / "own", name, broken=True)
    return "train", "demo", "--dataset", dataset, *SMALL, "--workdir", folder / "new"


def no_dataset(folder, name):
    return "train", "demo", "--dataset", name


def no_freeze_rule(folder, name):
    return "train", "demo", "--freeze", f"{name}=0"


def workdir_in_use(folder, name):
    write(folder / name / "notes", b"")
    return "train", "demo", "--workdir", folder / name


def misfitting_weights(folder, name):
    """A message of many lines."""
    tensors = {name.replace("\udcff", ""): np.zeros(2, np.float32)}
    weights = write(folder / "w.safetensors", save(tensors))
    return "train", "demo", "--weights", weights, "--workdir", folder / "new"


def sweep_directory_in_use(folder, name):
    write(folder / name / "notes", b"")
    return "sweep", "demo", "--field", "seed", "--values", "0", "1", "--workdir", folder / name


def report_in_use(folder, name):
    write(folder / name / "notes", b"")
    return "reproduce", "--scale", "smoke", "--out", folder / name


def listed_report_is_damaged(folder, name):
    write(folder / name / "plan.json", b"[]")
    return "reproduce", "--list", "--out", folder / name


def no_archive(folder, name):
    return "prepare-data", "cifar10", "--from-archive", folder / name, "--data-dir", folder


def damaged_archive(folder, name):
    archive = write(folder / name, b"no archive")
    return "prepare-data", "cifar10", "--from-archive", archive, "--data-dir", folder


COMMANDS = [
    no_run,
    no_run_to_export,
    no_image,
    damaged_image,
    no_target,
    no_layer,
    picture_named_otherwise,
    damaged_picture,
    no_dataset,
    no_freeze_rule,
    workdir_in_use,
    misfitting_weights,
    sweep_directory_in_use,
    report_in_use,
    listed_report_is_damaged,
    no_archive,
    damaged_archive,
]


def assert_printable(text):
    assert all(line.isprintable() for line in text.split("\n"))


@both
@pytest.mark.parametrize("case", COMMANDS)
def test_an_error_has_one_line_that_says_error(case, name, run_command, stored_run, tmp_path):
    status, out, err = run_command(*case(tmp_path, name))
    assert status == 2
    assert_printable(out + err)
    assert len([line for line in err.split("\n") if line.startswith("error: ")]) == 1
    assert escaped(name)[:9] in err
    first, *others = err.removesuffix("\n").split("\n")
    assert first.startswith("error: ")
    assert all(line.startswith("  ") for line in others)  # of weights and pictures, one each
    assert bool(others) == (case in (misfitting_weights, damaged_picture))


@both
def test_an_unexpected_argument_is_one_line(name, run_command):
    status, _, err = run_command("evaluate", "run", name)
    assert status == 2
    assert_printable(err)
    assert err.count("\n") == 1


@both
def test_a_foreign_error_and_a_foreign_warning_are_one_line(name, capsys):
    def command():
        warnings.simplefilter("always")
        warnings.warn(f"{name} is odd", stacklevel=1)
        raise OSError(f"{name} is locked")

    with pytest.raises(SystemExit):
        exit_with_status(command)
    err = capsys.readouterr().err
    assert err == f"warning: {escaped(name)} is odd\nerror: {escaped(name)} is locked\n"


# Orbax cannot write below a folder whose name is no text. A wide space is not printable, either.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(NAMES[0], id="colours", marks=pytest.mark.slow),
        pytest.param(NAMES[1].removesuffix("\udcff"), id="directions"),
        pytest.param("写真\u3000一", id="wide space", marks=pytest.mark.slow),
    ],
)
def test_a_whole_run_prints_its_own_lines(name, recipe, digits, tmp_path, capsys):
    workdir, experiment = tmp_path / name, f"{name} $x$\udcff"
    recipe = dataclasses.replace(recipe, epochs=1)
    fit(recipe, digits, workdir=workdir, experiment=experiment, verbose=True)
    fit(recipe, digits, workdir=workdir, experiment=experiment, resume=True, verbose=True)
    first, last = f"wrote {escaped(workdir)}: figures/curves.png", f"{escaped(workdir)} is complete"
    lines = capsys.readouterr().out.removesuffix("\n").split("\n")
    assert all(line.isprintable() for line in lines)
    assert sum(line.startswith(first) for line in lines) == 2
    assert sum(line.startswith(last) for line in lines) == 1
    assert (workdir / "figures" / "curves.png").exists()
    for file in ("config.json", "summary.json"):  # data keep the true name
        assert json.loads((workdir / file).read_text())["experiment"] == experiment


@both
def test_a_command_names_the_files_it_writes(name, run_command, stored_run, tmp_path):
    run = stored_run.rename(tmp_path / name.removesuffix("\udcff"))
    file = tmp_path / f"{name}.png"
    result = run_command("visualize", run, "--mistakes", "--out", file)
    assert result == (0, f"wrote {escaped(file)}\n", "")
    file = file.with_suffix(".safetensors")
    result = run_command("export", run, file)
    assert result == (0, f"wrote {escaped(file)}\n", "")
