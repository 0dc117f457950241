import json


def test_a_sweep_over_the_side_of_pictures_needs_no_other_side(run_command, photos, tmp_path):
    """Their sizes differ, so a recipe for them needs one: the first of the sweep."""
    words = ("--width", "2", "--epochs", "1", "--batch-size", "4")
    command = ("sweep", "scratch", *words, "--workdir", tmp_path / "s", "--field", "resize")
    status, out, err = run_command(
        *command, "--values", "16", "24", "--dataset", f"folder:{photos}"
    )
    assert status == 0, err
    assert "2 members" in out
    for side in (16, 24):
        config = json.loads((tmp_path / "s" / f"resize={side}" / "config.json").read_text())
        assert config["recipe"]["resize"] == side
    moved = photos.rename(tmp_path / "elsewhere")
    more = (*command, "--values", "16", "24", "--resume")
    assert "were moved" in run_command(*more)[2]
    status, _, err = run_command(*more, "--dataset", f"folder:{moved}")
    assert status == 0, err
