import importlib.util
import sys
from pathlib import Path

import pytest

from jaxcifar.data import prepare_cifar10
from tests.data import made_archives as made

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_data.py"


@pytest.fixture
def script(source, monkeypatch):
    """Runs the script in this process, on archives with few images."""
    spec = importlib.util.spec_from_file_location("prepare_data_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def small(*arguments, **named):
        return prepare_cifar10(*arguments, source=source, **named)

    monkeypatch.setattr(module, "prepare_cifar10", small)
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)  # pytest has its own

    def run(*arguments) -> int:
        monkeypatch.setattr(sys, "argv", ["prepare_data.py", *map(str, arguments)])
        return module.main()

    return run


def test_a_local_archive_is_prepared(script, data_dir, archives, capsys):
    arguments = ("cifar10", "--data-dir", data_dir, "--from-archive", archives["python"])
    for _ in range(2):
        assert script(*arguments) == 0
        assert capsys.readouterr().out.strip() == str(data_dir / "cifar10" / "3.0.2")


def test_an_archive_packed_anew_needs_its_digest(script, data_dir, tmp_path, images, capsys):
    path = made.write_archive(
        tmp_path / "anew.tar.gz",
        made.binary_members(*images),
        lambda tar: made.add(tar, "note.txt", b"packed anew"),
    )
    arguments = ("cifar10", "--data-dir", data_dir, "--from-archive", path)
    assert script(*arguments) == 2
    digest = made.sha256(path)
    assert f"add --sha256 {digest}" in capsys.readouterr().err
    assert script(*arguments, "--sha256", digest) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from-archive", "none.tar.gz"], "does not exist"),
        (["--sha256", "0" * 64], "local archive only"),
        (["--data-dir", "/no/where"], "does not exist"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(script, capsys, arguments, message):
    assert script("cifar10", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_help_tells_a_new_user_what_to_do(script, capsys):
    with pytest.raises(SystemExit) as caught:
        script("--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for word in ("--data-dir", "--from-archive", "--sha256", "TFDS_DATA_DIR", "examples:"):
        assert word in text


def test_an_unknown_dataset_is_refused(script, capsys):
    with pytest.raises(SystemExit) as caught:
        script("cifar100")
    assert caught.value.code == 2
    assert "choose from" in capsys.readouterr().err
