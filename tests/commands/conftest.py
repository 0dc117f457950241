import pytest

# For prepare-data, which is tested on the archives of the data's own tests.
from tests.data.conftest import archives, data_dir, images, source

__all__ = ["archives", "data_dir", "images", "source"]


@pytest.fixture
def run_command(tmp_path, monkeypatch, capsys):
    """Run `jaxcifar ARGUMENTS` in this process and an empty folder: (status, stdout, stderr)."""
    from jaxcifar.commands.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", "restored after the test")
    monkeypatch.setattr("signal.signal", lambda *_: None)  # pytest has its own

    def run(*arguments):
        with pytest.raises(SystemExit) as end:
            main(arguments=[str(argument) for argument in arguments])
        return end.value.code, *capsys.readouterr()

    return run
