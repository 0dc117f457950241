import pytest

from jaxcifar.commands import prepare_data
from jaxcifar.data import prepare_cifar10
from tests.data import made_archives as made


@pytest.fixture
def prepare(run_command, source, monkeypatch, tmp_path):
    """Run `jaxcifar prepare-data` in this process, on archives with few images."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR")

    def small(*arguments, **named):
        return prepare_cifar10(*arguments, source=source, **named)

    monkeypatch.setattr(prepare_data, "prepare_cifar10", small)
    return lambda *arguments: run_command("prepare-data", *arguments)


def test_a_local_archive_is_prepared(prepare, data_dir, archives):
    arguments = ("cifar10", "--data-dir", data_dir, "--from-archive", archives["python"])
    for _ in range(2):
        status, out, _ = prepare(*arguments)
        assert (status, out.strip()) == (0, str(data_dir / "cifar10" / "3.0.2"))


def test_a_repacked_archive_needs_its_digest(prepare, data_dir, tmp_path, images):
    path = made.write_archive(
        tmp_path / "anew.tar.gz",
        made.binary_members(*images),
        lambda tar: made.add(tar, "note.txt", b"packed anew"),
    )
    arguments = ("cifar10", "--data-dir", data_dir, "--from-archive", path)
    status, _, error = prepare(*arguments)
    digest = made.sha256(path)
    assert status == 2
    assert f"add --sha256 {digest}" in error
    assert prepare(*arguments, "--sha256", digest)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from-archive", "none.tar.gz"], "does not exist"),
        (["--sha256", "0" * 64], "local archive only"),
        (["--data-dir", "/no/where"], "does not exist"),
    ],
)
def test_an_error_is_one_line_and_status_2(prepare, arguments, message):
    status, out, error = prepare("cifar10", *arguments)
    assert (status, out) == (2, "")
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_help_tells_a_new_user_what_to_do(prepare):
    status, text, _ = prepare("--help")
    assert status == 0
    for word in ("--data-dir", "--from-archive", "--sha256", "TFDS_DATA_DIR", "downloads 170 MB"):
        assert word in text


def test_an_unknown_dataset_is_refused(prepare):
    status, _, error = prepare("cifar1000")
    assert status == 2
    assert "choose from" in error
