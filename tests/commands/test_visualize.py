import json
import shutil

import pytest

from jaxcifar.commands import visualize
from jaxcifar.common.errors import DataError, RecipeError
from jaxcifar.models.pretrained import export_weights
from jaxcifar.models.resnet import ResNet
from tests.conftest import CLASSES, random_variables


@pytest.fixture
def command(monkeypatch):
    """`jaxcifar visualize` in this process."""
    monkeypatch.setattr(visualize, "enable_compilation_cache", lambda: None)
    return lambda *arguments: visualize.run("jaxcifar visualize", [*map(str, arguments)])


def test_the_command_lists_and_draws(command, stored_run, capsys, tmp_path):
    command(stored_run, "--list-layers")
    assert "layer1.0.conv1" in capsys.readouterr().out
    command("--grad-cam", stored_run, "--image", "8", "--layers", "conv1")
    assert (
        capsys.readouterr().out
        == f"wrote {stored_run / 'figures' / 'grad_cam_image=8_layer=conv1.png'}\n"
    )
    command(stored_run, "--layers", "conv1", "--checkpoint", "last", "--out", tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()
    capsys.readouterr()
    settings = ("--layers", "conv1", "--order", "first", "--scale", "layer")
    command(stored_run, "--image", "8", *settings)
    path = stored_run / "figures" / "activations_8_layers=conv1_order=first_scale=layer.png"
    assert capsys.readouterr().out == f"wrote {path}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name either a RUN or --weights"),
        (("run", "--weights", "x.pth"), "name either a RUN or --weights"),
        (
            ("run", "--mistakes", "--confusion"),
            "one drawing a call, not --mistakes and --confusion",
        ),
        (("run", "--mistakes", "--layers", "conv1"), "--layers does not apply to --mistakes"),
        (("run", "--target", "cat"), "--target does not apply to --activations"),
        (("run", "--grad-cam", "--layers", "conv1", "layer1"), "--grad-cam takes one layer"),
        (("run", "--grad-cam", "--image", "cat", "--count", "5"), "--count does not apply"),
        (("run", "--list-layers", "--out", "x.png"), "--list-layers prints and writes nothing"),
        (("run", "--list-layers", "--size", "own"), "--list-layers takes pixels"),
        (("--weights", "w", "--checkpoint", "last"), "--checkpoint is for a RUN"),
        (("run", "--mistakes", "--order", "first"), "--order does not apply to --mistakes"),
        (("run", "--grad-cam", "--scale", "layer"), "--scale does not apply to --grad-cam"),
        (("run", "--order", "firs"), "'firs' (choose from"),
        (("run", "--size", "big"), "neither own nor pixels"),
        (("run", "--normalization", "half"), "--normalization is for --weights; a run knows its"),
        (("run", "--input-size", "32"), "--input-size is for --weights; a run knows its own"),
        (("--weights", "."), ". is a directory: a RUN is named without --weights"),
        (("run", "--grad-cm"), "unknown option --grad-cm; did you mean '--grad-cam'?"),
    ],
)
def test_contradicting_options_are_one_line(command, arguments, message, capsys):
    with pytest.raises(SystemExit):
        command(*arguments)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_weights_that_say_no_size_see_pictures_at_the_given_one(command, tiny, photos, tmp_path):
    """As torchvision's: their size is neither in the file nor that of the folder's pictures."""
    model = ResNet(stage_sizes=(1,), width=4, num_classes=len(CLASSES))
    export_weights(random_variables(model), tmp_path / "plain.safetensors")
    weights = ("--weights", tmp_path / "plain.safetensors", "--normalization", "imagenet")
    drawing = ("--dataset", f"folder:{photos}", "--confusion", "--out", tmp_path / "counts.png")
    with pytest.raises(RecipeError, match=r"give --size \(visualize: --input-size\)"):
        command(*weights, "--architecture", "tiny", *drawing)
    command(*weights, "--architecture", "tiny", "--input-size", "16", *drawing)
    counts = json.loads((tmp_path / "counts.json").read_text())
    assert sum(map(sum, counts["confusion"])) == 9
    shutil.rmtree(photos / "train")  # a folder to test on alone
    command(*weights, "--architecture", "tiny", "--input-size", "16", *drawing)
    with pytest.raises(DataError, match="nowhere"):
        command(*weights, "--input-size", "16", *drawing, "--dataset", "folder:nowhere")
