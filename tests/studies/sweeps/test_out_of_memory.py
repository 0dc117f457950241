import dataclasses
import weakref

import jax
import pytest

from jaxcifar.common.errors import RunError
from jaxcifar.studies.sweeps import read_sweep, sweep
from jaxcifar.studies.sweeps.directory import SweepDirectory
from tests.studies.sweeps.test_loop import quick_fit


class Arrays:
    """Stands for what a member holds in memory."""


@pytest.mark.parametrize(
    "error", [MemoryError("9 bytes"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 9 bytes\nx")]
)
def test_a_member_out_of_memory_is_tried_again_and_the_others_are_trained(
    recipe, digits, tmp_path, monkeypatch, error
):
    trained, held, full = [], [], True

    def fit_of_memory(member, splits, **settings):
        assert not any(reference() for reference in held), "the memory was not given back"
        if full and member.batch_size > 40:
            arrays = Arrays()
            held.append(weakref.ref(arrays))
            raise type(error)(*error.args)
        trained.append(member.batch_size)
        quick_fit(member, splits, **settings)

    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.fit", fit_of_memory)
    files, values = SweepDirectory(tmp_path / "s"), [60, 20, 120, 40]
    message = (
        r"batch_size=60 \(.*9 bytes\); batch_size=120 \(.*9 bytes\); the rest is written; "
        ".*--eval-batch-size.*--resume.* another --workdir$"
    )
    with pytest.raises(RunError, match=message):
        sweep(recipe, "batch_size", values, digits, workdir=files.path)
    assert trained == [20, 40]
    assert files.read()["failures"] == {}
    assert files.figure.is_file()
    rows = files.table.read_text().splitlines()[2:]
    assert ["| - |" in row for row in rows] == [True, False, True, False]
    full = False
    fewer = dataclasses.replace(recipe, eval_batch_size=7)  # which may take less memory
    result = sweep(fewer, "batch_size", values, digits, workdir=files.path, resume=True)
    assert trained == [20, 40, 60, 120]
    assert len(result.finished) == 4
    assert read_sweep(files.path).eval_batch_size == 7


def test_another_error_of_a_member_ends_the_sweep(recipe, digits, tmp_path, monkeypatch):
    def fit_with_a_bug(*_, **__):
        raise jax.errors.JaxRuntimeError("INTERNAL: bug")

    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.fit", fit_with_a_bug)
    with pytest.raises(jax.errors.JaxRuntimeError, match="bug"):
        sweep(recipe, "batch_size", [20, 40], digits, workdir=tmp_path / "s")


def test_one_program_out_of_memory_gives_way_to_one_member_after_another(
    recipe, digits, tmp_path, monkeypatch, capsys
):
    def fail(*_, **__):
        raise MemoryError("9 bytes")

    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.fit", quick_fit)
    monkeypatch.setattr("jaxcifar.studies.sweeps.loop.train_together", fail)
    rates = ("learning_rate", [0.1, 0.2], digits)
    with pytest.warns(
        UserWarning, match="memory ran out as one program: the members run one after"
    ):
        result = sweep(recipe, *rates, workdir=tmp_path / "s", mode="vmap", verbose=True)
    assert (result.mode, len(result.finished)) == ("sequential", 2)
    assert SweepDirectory(tmp_path / "s").read()["mode"] == "sequential"
    assert "\nlearning_rate=0.1\n" in capsys.readouterr().out  # each says what it does
    monkeypatch.setattr("jaxcifar.studies.sweeps.measured_mode.make_programs", fail)
    result = sweep(recipe, *rates, workdir=tmp_path / "measured")
    assert (result.mode, len(result.finished)) == ("sequential", 2)
    assert result.why == "memory ran out while one program was measured"
