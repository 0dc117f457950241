import json

import pytest

from jaxcifar.inference.scoring import evaluate_run


def test_the_views_that_are_asked_for_are_scored(run_command, photo_run):
    for words, views in (
        ((), {}),
        (("--shift", 2), {"shift": 2}),
        (("--shift", 1, "--mirror"), {"shift": 1, "mirror": True}),
    ):
        status, out, _ = run_command("evaluate", photo_run, *words)
        assert status == 0
        assert json.loads(out.splitlines()[-1]) == evaluate_run(photo_run, **views)


@pytest.mark.parametrize("shift", ["16", "-1"])
def test_a_shift_as_large_as_the_image_is_one_line(run_command, photo_run, shift):
    status, out, err = run_command("evaluate", photo_run, f"--shift={shift}")
    assert (status, out) == (2, "")
    assert f"shift {shift} must be at least 0 and under 16 pixels" in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_run_whose_first_layer_whitens_is_trained_and_scored(run_command, tiny, tmp_path):
    command = (
        "train", "demo", "--architecture", tiny, "--width", 8, "--stem", "cifar", "--resize", 8,
        "--epochs", 1, "--train-size", 120, "--validation-size", 40, "--batch-size", 40, "--whiten",
        "--init", "dirac", "--freeze", "conv1=frozen *=trained", "--batch-norm-decay", 0.6,
        "--translate-fill", "reflect", "--test-shift-pixels", 1, "--test-mirror", "--optimizer",
        "muon", "--precision", "highest", "--workdir", tmp_path / "run",
    )  # fmt: skip
    status, _, err = run_command(*command)
    assert status == 0, err
    status, out, err = run_command("evaluate", tmp_path / "run")
    assert status == 0, err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert json.loads(out.splitlines()[-1])["loss"] == summary["best"]["test"]["loss"]
    stored = json.loads((tmp_path / "run" / "config.json").read_text())["recipe"]
    assert (stored["batch_norm_decay"], stored["translate_fill"]) == (0.6, "reflect")
    assert (stored["test_shift_pixels"], stored["precision"]) == (1, "highest")
