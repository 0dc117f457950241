import os

import pytest

from jaxcifar.commands import train
from jaxcifar.common.errors import DeviceError
from jaxcifar.devices.processes import DeviceOptions


def test_device_options_are_read_before_the_others():
    words = "demo --epochs 3 --devices 2 --input stream --no-such-option 1"
    options = train.device_options("jaxcifar train", words.split())
    assert options == DeviceOptions(devices=2, input="stream")


def test_processes_connect_before_an_experiment_is_looked_at(monkeypatch):
    monkeypatch.setattr(train, "enable_compilation_cache", lambda: None)
    monkeypatch.setattr(train, "make_parser", lambda *_: pytest.fail("JAX is used by then"))
    with pytest.raises(DeviceError, match="need --coordinator"):
        train.run("jaxcifar train", ["freeze-a", "--num-processes", "2"])


def test_options_reach_the_run(monkeypatch, tmp_path):
    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", "restored after the test")
    monkeypatch.setattr(train, "enable_compilation_cache", lambda: calls.append("cache"))
    monkeypatch.setattr(train, "load_splits", lambda recipe, folder, lazy: (folder, lazy))
    monkeypatch.setattr(train, "fit", lambda *given, **named: calls.append((given, named)))
    words = "demo --lr 0.5 --bs 32 --overwrite --data-dir . --parallel pmap"
    train.run("jaxcifar train", words.split())
    cache, ((recipe, splits), named) = calls
    assert cache == "cache"
    assert (recipe.learning_rate, recipe.batch_size, recipe.epochs) == (0.5, 32, 12)
    assert [str(splits[0]), splits[1]] == [".", True]
    assert named.pop("devices") == DeviceOptions(parallel="pmap")
    assert str(named.pop("workdir")) == os.path.join("runs", "demo")
    assert named == {"experiment": "demo", "resume": False, "overwrite": True, "verbose": True}


def test_a_resumed_run_whose_data_were_moved_says_how_to_name_them(
    run_command, photo_run, photos, tmp_path
):
    photos.rename(tmp_path / "elsewhere")
    status, _, err = run_command("train", "scratch", "--workdir", photo_run, "--resume")
    assert status == 2
    assert "there is no folder" in err
    assert err.endswith("were moved, name the place where they are with --dataset\n")
    command = ("train", "scratch", "--workdir", photo_run, "--resume", "--dataset", "folder:none")
    assert "were moved" not in run_command(*command)[2]
