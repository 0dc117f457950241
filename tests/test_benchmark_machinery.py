"""What every benchmark relies on: FLOPs anywhere, results kept, failures left out, the peak."""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import monitoring

from benchmarks import failures, harness, peak, programs, step_time
from jaxcifar.common.errors import DeviceError
from jaxcifar.common.target import built_for
from tests.conftest import with_devices

# The second of two CPU devices plays a GPU, whose client counts no FLOPs.
COUNT = """
import jax, jax.numpy as jnp
original = jax.stages.Lowered.cost_analysis

def cost_analysis(self):
    (device,) = self.compile().input_shardings[0][0].device_set
    return original(self) if device.id == 0 else None

jax.stages.Lowered.cost_analysis = cost_analysis
jax.config.update("jax_default_device", jax.devices()[1])
from benchmarks.harness import count_flops
x, shape = jnp.ones((8, 8)), jax.ShapeDtypeStruct((8, 8), jnp.float32)
placed = jax.device_put(x, jax.devices()[1])  # committed to it
for arguments in ((x, x), (shape, shape), (placed, shape)):
    print(count_flops(lambda a, b: a @ b, *arguments))
"""


def test_flops_are_counted_whatever_the_default_device_is(root):
    done = subprocess.run(
        [sys.executable, "-c", COUNT],
        env=os.environ | {"XLA_FLAGS": with_devices(2), "JAX_PLATFORMS": "cpu"},
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(2.0 * 8**3)] * 3, done.stderr


def test_flops_do_not_depend_on_the_platform_that_is_built_for(recipe):
    side = recipe.image_size
    batch = {"image": np.zeros((8, side, side, 3), np.uint8), "label": np.zeros(8, np.int32)}
    recipe = replace(recipe, stem="imagenet")  # with max pooling
    flops = harness.algorithm_flops(recipe, batch)
    with built_for("gpu"):
        assert harness.algorithm_flops(recipe, batch) == flops


def test_without_the_cpu_the_way_out_is_named(monkeypatch):
    def fail(backend):
        raise RuntimeError(f"Unknown backend {backend}")

    monkeypatch.setattr(jax, "local_devices", fail)
    with pytest.raises(DeviceError, match="set it to .*,cpu"):
        harness.count_flops(lambda x: x, 1.0)


def test_a_result_before_the_end_is_kept_beside_an_earlier_one(tmp_path):
    out, partial = tmp_path / "result.json", tmp_path / "result.partial.json"
    harness.save("unused", {"cases": 3}, out=out)
    harness.save("unused", {"cases": 1}, out=out, complete=False)
    assert json.loads(partial.read_text())["complete"] is False
    assert json.loads(out.read_text())["cases"] == 3
    harness.save("unused", {"cases": 2}, out=out)
    result = json.loads(out.read_text())
    assert (result["cases"], "complete" in result) == (2, False)
    assert not partial.exists()


def run_step_time(monkeypatch, out, variants, *, batch_sizes):
    """`step_time` with stand-ins for the variants and the peak."""
    monkeypatch.setattr(step_time, "VARIANTS", {n: (n, build) for n, build in variants.items()})
    monkeypatch.setattr(step_time, "matrix_peak", lambda dtype: peak.Peak(1e9, "jax", 8))
    words = ["--width", "4", "--image-size", "8", "--repeats", "2", "--out", str(out)]
    words += ["--batch-size", *map(str, batch_sizes), "--only", *variants]
    monkeypatch.setattr(sys, "argv", ["step_time", *words])
    monkeypatch.setattr(step_time, "algorithm_flops", lambda recipe, batch: 1e6)
    # The first two of ours are named in the ratios.
    step_time.VARIANTS |= {n: (n, None) for n in ("one-program", "step") if n not in variants}
    step_time.main()


def test_a_crash_loses_no_finished_case(monkeypatch, tmp_path):
    def build(case):
        assert case.recipe.batch_size != 4, "a mistake"
        return harness.Variant(lambda: time.sleep(0.001))

    with pytest.raises(AssertionError, match="a mistake"):
        run_step_time(monkeypatch, tmp_path / "x.json", {"a": build}, batch_sizes=[2, 4])
    kept = json.loads((tmp_path / "x.partial.json").read_text())
    assert list(kept["cases"]) == ["batch 2, float32"]
    assert kept["complete"] is False


def test_a_variant_that_fails_is_left_out_with_its_reason(monkeypatch, tmp_path, capsys):
    def no_memory(case):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmany lines")

    def fails_while_timed(case):
        def run():
            raise MemoryError("no memory")

        return harness.Variant(run)

    variants = {"bad": no_memory, "late": fails_while_timed, "good": lambda case: harness.Variant(
        lambda: time.sleep(0.001))}  # fmt: skip
    run_step_time(monkeypatch, tmp_path / "x.json", variants, batch_sizes=[2])
    (case,) = json.loads((tmp_path / "x.json").read_text())["cases"].values()
    assert list(case["results"]) == ["good"]
    assert case["left_out"] == {
        "bad": "JaxRuntimeError: RESOURCE_EXHAUSTED: Out of memory",
        "late": "MemoryError: no memory",
    }
    assert "left out: bad: JaxRuntimeError: RESOURCE_EXHAUSTED" in capsys.readouterr().out


@pytest.mark.parametrize("error", [TypeError("x"), KeyError("x"), KeyboardInterrupt()])
def test_a_mistake_or_an_interruption_is_no_reason_to_leave_out(error):
    def fail():
        raise error

    with pytest.raises(type(error)):
        failures.try_variant("a", fail, {})


def test_rounds_are_kept_before_the_last():
    kept = []
    harness.interleave(
        {"a": lambda: None}, repeats=4, warmup=1, keep=lambda s: kept.append(len(s["a"]))
    )
    assert kept == [2, 3]


@pytest.fixture
def cache(tmp_path):
    """A compilation cache that keeps everything, and the events it reports."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    for name, value in zip(names, (str(tmp_path), 0.0), strict=True):
        jax.config.update(name, value)
    programs.compilation_cache.reset_cache()
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)
    programs.compilation_cache.reset_cache()


@pytest.mark.slow
def test_a_measured_compilation_neither_reads_nor_writes_the_cache(cache):
    hits = []

    def listen(event, **_):
        hits.append(event)

    def compile():
        jax.clear_caches()
        return jax.jit(lambda x: jnp.sin(x) + 1.25).lower(jnp.float32(1)).compile()

    monitoring.register_event_listener(listen)
    try:
        with programs.without_cache():
            compile()
        assert not list(cache.iterdir())
        compile()
        assert list(cache.iterdir())
        hits.clear()
        compile()
        assert "/jax/compilation_cache/cache_hits" in hits
        hits.clear()
        programs.compiled_anew(compile)
        assert "/jax/compilation_cache/cache_hits" not in hits
        compile()
        assert "/jax/compilation_cache/cache_hits" in hits  # on again
    finally:
        monitoring.unregister_event_listener(listen)


def test_a_platform_that_is_not_there_is_one_line(monkeypatch, capsys):
    def fail():
        raise DeviceError("no such device")

    monkeypatch.setattr(programs, "find_devices", fail)
    with pytest.raises(SystemExit) as stopped:
        programs.start(argparse.ArgumentParser(), [])
    assert stopped.value.code == 2
    assert "no such device" in capsys.readouterr().err


def fake_libraries(monkeypatch, speeds):
    """Libraries whose products take the time of these FLOP/s, on a clock of their own."""
    clock = [0.0]
    monkeypatch.setattr(peak.time, "perf_counter", lambda: clock[0])
    calls = []

    def make(name):
        def of_size(size):
            def run():
                calls.append((name, size))
                speed = speeds[name](size)
                if isinstance(speed, Exception):
                    raise speed
                clock[0] += 2 * size**3 / speed

            return run

        return of_size

    monkeypatch.setattr(peak, "candidates", lambda dtype: [(n, 1, make(n)) for n in speeds])
    return calls, clock


@pytest.mark.parametrize("best", ["a", "b", "c"])
@pytest.mark.parametrize("size", [1024, 2048])
def test_the_peak_is_the_best_of_libraries_and_sizes(monkeypatch, best, size):
    speeds = {
        name: lambda n, name=name: 3e12 if (name, n) == (best, size) else 1e12 for name in "abc"
    }
    fake_libraries(monkeypatch, speeds)
    found = peak.matrix_peak("float32")
    assert found.flops_per_second == pytest.approx(3e12)
    assert (found.library, found.size) == (best, size)


def test_the_peak_is_bounded_in_time_and_survives_a_library_without_memory(monkeypatch):
    speeds = {"a": lambda n: 1e10, "b": lambda n: RuntimeError("out of memory")}
    calls, clock = fake_libraries(monkeypatch, speeds)
    found = peak.matrix_peak("float32", seconds=4)
    assert (found.library, found.size) == ("a", 1024)  # a product of 2048 takes 1.7 s
    assert clock[0] < 4
    assert ("a", 3072) not in calls


def test_cuda_graphs_are_left_out_on_a_cpu():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    _, build = step_time.VARIANTS["torch-reduce-overhead"]
    with pytest.raises(failures.LeftOut, match="CUDA device"):
        build(None)
