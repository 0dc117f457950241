import numpy as np
import pytest

import jaxcifar
from tests.conftest import CLASSES


def test_features_of_a_split_have_labels_and_names(run_command, photo_run, photos, tmp_path):
    out = tmp_path / "f.npz"
    status, printed, _ = run_command("features", photo_run, "--out", out)
    assert (status, printed) == (0, f"wrote {out} (features 9x4)\n")
    with np.load(out) as file:
        found = dict(file)
    assert found["class_names"].tolist() == list(CLASSES)
    assert found["labels"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    network = jaxcifar.load(photo_run)
    expected = network.features(photos / "test")
    np.testing.assert_allclose(found["features"], expected, atol=1e-5)
    assert str(found["network"]) == network.name
    assert str(found["dataset"]) == f"folder:{photos}"
    assert (str(found["layer"]), str(found["split"])) == ("avgpool", "test")
    status, _, err = run_command("features", photo_run, "--out", out)
    assert status == 2
    assert "--overwrite" in err


def test_features_of_a_folder_have_its_files(run_command, photo_run, photos, tmp_path):
    out = tmp_path / "f.npz"
    folder = photos / "test" / CLASSES[1]
    assert (
        run_command("features", photo_run, "--split", folder, "--layer", "layer1", "--out", out)[0]
        == 0
    )
    with np.load(out) as file:
        assert file["files"].tolist() == [str(path) for path in sorted(folder.iterdir())]
        assert file["features"].shape == (3, 4, 4, 4)
        assert (str(file["layer"]), str(file["split"])) == ("layer1", str(folder))
        assert str(file["network"]) == jaxcifar.load(photo_run).name
        assert "dataset" not in file


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "f.txt"), "must end in .npz"),
        (("--out", "f.npz", "--layer", "layr1"), "did you mean 'layer1'"),
        (
            ("--out", "f.npz", "--split", "vali"),
            "--split vali is no split, and there is no folder of that name; did you mean 'valid",
        ),
        (("--out", "f.npz", "--split", "tset", "--dataset", "digits"), "did you mean 'test'"),
        (("--out", "f.npz", "--split", ".", "--dataset", "digits"), "--dataset is for a split"),
    ],
)
def test_a_mistake_is_one_line(run_command, photo_run, arguments, message):
    status, out, err = run_command("features", photo_run, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_weights_have_the_features_of_the_data_that_are_named(
    run_command, photo_run, photos, tmp_path
):
    jaxcifar.load(photo_run).save(tmp_path / "w.safetensors")
    out = tmp_path / "new" / "f.npz"
    status, _, err = run_command("features", tmp_path / "w.safetensors", "--out", out)
    assert status == 2
    assert "name them with --dataset" in err
    command = ("features", tmp_path / "w.safetensors", "--out", out)
    assert run_command(*command, "--dataset", f"folder:{photos}")[0] == 0
    with np.load(out) as file:
        assert file["class_names"].tolist() == list(CLASSES)
        expected = jaxcifar.load(photo_run).features(photos / "test")
        np.testing.assert_allclose(file["features"], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("w.safetensors", "--checkpoint", "last"), "which='last' (--checkpoint) is for a run"),
        (("RUN", "--size", "64"), "size is for a file of weights: the run"),
        (("my/runs/none",), "there is no run my/runs/none. "),
    ],
)
def test_a_model_is_looked_for_as_by_the_other_commands(
    run_command, photo_run, tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    jaxcifar.load(photo_run).save(tmp_path / "w.safetensors")
    given = [photo_run if word == "RUN" else word for word in arguments]
    command = ("features", *given, "--out", tmp_path / "f.npz")
    for more in ((), ("--dataset", "digits")):
        status, out, err = run_command(*command, *more)
        assert (status, out) == (2, "")
        assert message in err
