import json
import os
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_program
from benchmarks.gpu_program import (
    GRAPH_SWITCH,
    TARGET,
    WHEELS,
    atomics,
    check_wheels,
    count,
    count_graphs,
    run_case,
)
from benchmarks.hlo import Program
from jaxcifar.common.errors import RunError

RESULT = Path(__file__).parent.parent / "benchmarks/results/gpu_program_h100.json"
# A loop whose step gathers two rows of a table, convolves, and updates a row of the carry in place.
TEXT = """\
HloModule jit_steps, is_scheduled=true

%take (param_0: u8[1000,8], param_1: s32[2]) -> bf16[2,8] {
  %param_0 = u8[1000,8]{1,0} parameter(0)
  %param_1 = s32[2]{0} parameter(1), metadata={op_name="x(y)"}
  %gather = u8[2,8]{1,0} gather(%param_0, %param_1), offset_dims={1}
  ROOT %convert = bf16[2,8]{1,0} convert(%gather)
}

%put (param_0: f32[100,8], param_1: f32[1,8]) -> f32[100,8] {
  %param_0 = f32[100,8]{1,0} parameter(0)
  %param_1 = f32[1,8]{1,0} parameter(1)
  %zero = s32[] constant(0)
  ROOT %put.1 = f32[100,8]{1,0} dynamic-update-slice(%param_0, %param_1, %zero, %zero)
}

%body (arg: (s32[], u8[1000,8], s32[2], f32[100,8], /*index=4*/f32[1,8])) -> (s32[], f32[100,8]) {
  %arg = (s32[], u8[1000,8]{1,0}, s32[2]{0}, f32[100,8]{1,0}, /*index=4*/f32[1,8]{1,0}) parameter(0)
  %table = u8[1000,8]{1,0} get-tuple-element(%arg), index=1
  %index = s32[2]{0} get-tuple-element(%arg), index=2
  %carry = f32[100,8]{1,0} get-tuple-element(%arg), index=3
  %row = f32[1,8]{1,0} get-tuple-element(%arg), index=4
  %rows = bf16[2,8]{1,0} fusion(%table, %index), kind=kLoop, calls=%take
  %images = bf16[1,2,2,4]{3,2,1,0} bitcast(%rows)
  %kernel = bf16[4,1,1,4]{3,2,1,0} constant({...})
  %conv = (bf16[1,2,2,4]{3,2,1,0}, u8[0]{0}) custom-call(%images, %kernel), window={size=1x1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="a(b)"}
  %new = f32[100,8]{1,0} fusion(%carry, %row), kind=kLoop, calls=%put
  %copy = s32[] copy(%index)
  ROOT %tuple = (s32[], f32[100,8]{1,0}) tuple(%copy, %new)
}

%cond (arg: (s32[])) -> pred[] {
  %arg.1 = (s32[]) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (p: s32[]) -> s32[] {
  %p = s32[] parameter(0)
  %start = f32[4]{0} copy(%p)
  %while = (s32[]) while(%p), condition=%cond, body=%body
  ROOT %result = s32[] get-tuple-element(%while), index=0
}
"""


def test_a_step_is_the_body_of_the_loop():
    assert count(Program(TEXT)) == {
        "kernels": 4,
        # take: 16 uint8 rows, 2 indices, 16 bfloat16 out; conv: 32 + 32 in, 32 out; put: a row in
        # and out; copy: 8 in, 4 out.
        "gigabytes": round((16 + 8 + 32 + 96 + 64 + 12) / 1e9, 3),
        "kinds": {"fusion": 2, "custom-call": 1, "copy": 1},
        "convolutions": {"bf16 NHWC": 1},
    }
    program = Program(TEXT)
    traffic = {
        launch.name: program.traffic(where, launch)
        for where, launch in program.launches(program.loop_body())
    }
    assert traffic == {"%rows": 16 + 8 + 32, "%conv": 96, "%new": 64, "%copy": 12}


BRANCHES = """\
%left (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  ROOT %left.1 = f32[4]{0} copy(%a)
}

%right (b: f32[4]) -> f32[4] {
  %b = f32[4]{0} parameter(0)
  ROOT %right.1 = f32[4]{0} negate(%b)
}

ENTRY %main (p: s32[], q: f32[4]) -> f32[4] {
  %p = s32[] parameter(0)
  %q = f32[4]{0} parameter(1)
  ROOT %either = f32[4]{0} conditional(%p, %q, %q), CALLED
}
"""


@pytest.mark.parametrize(
    "called",
    ["branch_computations={%left, %right}", "true_computation=%left, false_computation=%right"],
)
def test_all_branches_are_counted(called):
    program = Program(BRANCHES.replace("CALLED", called))
    names = [launch.name for _, launch in program.launches(program.entry)]
    assert names == ["%left.1", "%right.1"]


def test_a_loop_inside_of_the_step_cannot_be_counted():
    inner = "  %inner = (s32[]) while(%index), condition=%cond, body=%cond\n  %copy = s32[]"
    program = Program(TEXT.replace("  %copy = s32[]", inner))
    with pytest.raises(ValueError, match="%inner is a loop inside of %body"):
        count(program)


def test_another_layout_is_not_called_channels_last():
    text = TEXT.replace("b01f_o01i->b01f", "bf01_oi01->bf01")
    assert count(Program(text))["convolutions"] == {"bf16 bf01_oi01->bf01": 1}


def test_a_program_without_a_loop_is_its_own_step():
    text = TEXT.replace("  %while = (s32[]) while(%p), condition=%cond, body=%body\n", "").replace(
        "get-tuple-element(%while)", "get-tuple-element(%p)"
    )
    assert count(Program(text))["kinds"] == {"copy": 1}


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        Program("HloModule nothing")


def test_launches_are_inside_of_a_graph_by_their_indentation():
    sequence = """\
000: kCustomKernel [source] a grid: [1, 1, 1]
001: kWhile        [source]
condition:
    002: kCustomKernel [source] b
  body:
    003: kCommandBuffer [source]
        004: kCustomKernel [source] c
        005: kConvolution [source] kConvolution
    006: kConvolution [source] kConvolution
    007: kCommandBuffer [source]
        008: kCopy [source] kCopy
"""
    assert count_graphs(sequence) == {"graphs": 2, "launches_inside": 3, "launches_outside": 3}


def test_atomic_instructions_are_found_and_shared_memory_is_not(tmp_path):
    (tmp_path / "module_0001.jit_f.sm_9.0a_gpu_after_optimizations.txt").write_text("x" * 9)
    shared = "  ld.shared.b32 \t%r1, [%r2];\n"
    for number, text in enumerate(
        (shared, shared + "\t@%p1 atom.global.add.f32 %f1, [%rd1], 0;\n")
    ):
        (tmp_path / f"module_0001.jit_f.{number}.ptx").write_text(text)
    (tmp_path / "module_0002.jit_g.0.ptx").write_text("\tred.global.add.f32 [%rd1], %f1;\n")
    assert atomics(tmp_path) == 1


def test_a_folder_without_the_plugin_is_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.delenv(WHEELS, raising=False)
    for folder in (None, tmp_path):
        with pytest.raises(RunError, match="--help"):
            check_wheels(folder)


@pytest.mark.parametrize("options", [["--only", "scratch"], ["--target", "other.txt"]])
def test_the_file_of_all_cases_is_not_replaced_by_others(options, tmp_path, monkeypatch):
    (tmp_path / "jax_plugins").mkdir()
    monkeypatch.setattr(sys, "argv", ["gpu_program", "--wheels", str(tmp_path), *options])
    with pytest.raises(RunError, match="--out"):
        gpu_program.main()


def test_the_committed_figures_hold_what_was_promised():
    result = json.loads(RESULT.read_text())
    check(result["cases"])
    assert result["graph_switch"] == GRAPH_SWITCH


def check(cases):
    ours, peer = cases["scratch_cifar_512"], cases["flax_cifar_512"]
    assert ours["gigabytes"] <= 0.97 * peer["gigabytes"]
    assert ours["kernels"] <= 0.95 * peer["kernels"]
    assert cases["speedrun"]["kernels"] <= 650
    for name in ("scratch_cifar_512", "speedrun"):
        case = cases[name]
        assert case["kernels_with_atomics"] == 0
        assert set(case["convolutions"]) == {"bf16 NHWC"}
        graph = case["with_graph_switch"]
        assert (graph["graphs"], graph["launches_outside"]) == (1, 0)


@pytest.mark.slow
def test_the_programs_compiled_here_hold_it_too():
    try:
        wheels = check_wheels(Path(os.environ[WHEELS]) if WHEELS in os.environ else None)
    except RunError as error:
        pytest.skip(str(error))
    cases = {}
    for name in ("flax_cifar_512", "scratch_cifar_512", "speedrun"):
        cases[name] = run_case(name, wheels, TARGET)
        cases[name]["with_graph_switch"] = run_case(name, wheels, TARGET, GRAPH_SWITCH)["graphs"]
    check(cases)
