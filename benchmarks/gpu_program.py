r"""Compile the training programs for a GPU that is not there, and read what they would run.

  pip install --no-deps --target cuda_wheels jax-cuda12-pjrt==VERSION jax-cuda12-plugin==VERSION \
    nvidia-cuda-nvcc-cu12 nvidia-cuda-runtime-cu12       VERSION: that of jaxlib; 226 MB of wheels
  python -m benchmarks.gpu_program --wheels cuda_wheels  every case, for an NVIDIA H100
  python -m benchmarks.gpu_program --wheels cuda_wheels --only speedrun --out speedrun.json

XLA's GPU compiler needs no GPU: it is told what the GPU is like (`h100_target.txt`). Each case is
compiled in a process of its own, once as it is and once with the switch that puts the loop into a
CUDA graph. Counted is one step of the loop over an epoch's steps; of the peer, which has no loop,
the whole program. Bytes are what the kernels read and write in the device's memory, if every array
is read once by each kernel that uses it.

Not covered: the choice of kernels by measuring them (autotuning), the time they take, and whatever
only fails when it runs.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from matplotlib.figure import Figure

from benchmarks.harness import BAR_COLOR, RESULTS, make_parser, new_figure, save, timed
from benchmarks.hlo import Program
from jaxcifar.commands.exit_status import exit_with_status
from jaxcifar.common.errors import RunError
from jaxcifar.common.target import built_for
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.stage import make_stage
from jaxcifar.step import metrics
from jaxcifar.step.state import state_shapes
from jaxcifar.training.stage import resident_epoch

TARGET = Path(__file__).parent / "h100_target.txt"
GRAPH_SWITCH = "--xla_gpu_enable_command_buffer=+CONVOLUTION,+WHILE"
SIDE = 32  # of CIFAR-10's images
WHEELS = "JAXCIFAR_CUDA_WHEELS"  # the environment variable for --wheels
_LAUNCH = re.compile(r"^( *)\d+: k(\w+)")
_ATOMIC = re.compile(r"^\s*(?:@!?%\w+ )?(?:atom|red)\.", re.MULTILINE)


def recipe_of(name: str, **settings: Any) -> Recipe:
    """A preset that starts from random weights, because no numbers are needed."""
    settings = {"weights": None, "new_head": False, "adapt_stem": False} | settings
    return replace(get_experiment(name).recipe, **settings)


def lower_recipe(recipe: Recipe, place: Callable[[Any], Any]) -> jax.stages.Lowered:
    """The loop over the full batches of the recipe's first epochs, on CIFAR-10's images."""
    size = recipe.train_images
    stage = make_stage(recipe)
    epoch = resident_epoch(stage, size)
    shape = jax.ShapeDtypeStruct
    data = {"image": shape((size, SIDE, SIDE, 3), jnp.uint8), "label": shape((size,), jnp.int32)}
    return epoch.whole.lower(  # type: ignore[attr-defined]
        place(state_shapes(stage.model, stage.tx, image_size=recipe.image_size)),
        place(data),
        place(shape((size,), jnp.int32)),
        place(jax.eval_shape(metrics.zeros)),
        place(shape((), jnp.int32)),
        place(dict(epoch.numbers)),
    )


def lower_flax(place: Callable[[Any], Any], *, stem: str, batch_size: int) -> jax.stages.Lowered:
    """The step of the stock Flax peer with Adam, in bfloat16."""
    from benchmarks.peers import flax_resnet

    model = flax_resnet.ResNet(width=64, stem=stem, dtype=jnp.dtype("bfloat16"))
    images = jax.ShapeDtypeStruct((batch_size, SIDE, SIDE, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
    state = jax.eval_shape(lambda x: flax_resnet.create_train_state(model, x, 0.01), images)
    program = jax.jit(flax_resnet.train_step, donate_argnums=0)
    return program.lower(place(state), place({"image": images, "label": labels}))


_CIFAR = {"stem": "cifar", "dtype": "bfloat16", "batch_size": 512}
CASES: dict[str, Callable[[Callable[[Any], Any]], jax.stages.Lowered]] = {
    "flax_cifar_512": partial(lower_flax, stem="cifar", batch_size=512),
    "scratch_cifar_512": lambda place: lower_recipe(recipe_of("scratch", **_CIFAR), place),
    "flax_imagenet_512": partial(lower_flax, stem="imagenet", batch_size=512),
    "scratch_imagenet_512": lambda place: lower_recipe(
        recipe_of("scratch", dtype="bfloat16", batch_size=512), place
    ),
    **{
        name: lambda place, name=name: lower_recipe(recipe_of(name), place)  # type: ignore[misc]
        for name in ("scratch", "freeze_a", "mini", "speedrun", "speedrun_sgd")
    },
}
PEERS = {"scratch_cifar_512": "flax_cifar_512", "scratch_imagenet_512": "flax_imagenet_512"}


# In the process of a case.


def compile_case(name: str, target: Path, dump: Path) -> dict[str, Any]:
    """Compile a case for the target, and count; XLA writes what else it knows to `dump`."""
    topology = topologies.get_topology_desc(
        platform="cuda", topology_name="", topology="1x1x1", target_config=target.read_text()
    )
    sharding = SingleDeviceSharding(topology.devices[0])

    def place(tree: Any) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    with built_for("gpu"):
        lowered = CASES[name](place)
    compiled, seconds = timed(lowered.compile)
    memory: Any = compiled.memory_analysis()
    return {
        **count(Program(compiled.as_text())),
        "kernels_with_atomics": atomics(dump),
        "graphs": graphs(dump),
        "temporary_bytes": int(memory.temp_size_in_bytes),
        "donated_bytes": int(memory.alias_size_in_bytes),
        "compile_seconds": round(seconds, 1),
    }


def count(program: Program) -> dict[str, Any]:
    """Launches, bytes and convolutions of a step."""
    body = program.loop_body()
    launches = list(program.launches(body))
    traffic = sum(program.traffic(where, launch) for where, launch in launches)
    convolutions = Counter(
        f"{'/'.join(sorted(set(conv.dtypes)))} {'NHWC' if conv.channels_last else conv.labels}"
        for conv in program.convolutions(body)
    )
    return {
        "kernels": len(launches),
        "gigabytes": round(traffic / 1e9, 3),
        "kinds": dict(Counter(launch.opcode for _, launch in launches).most_common()),
        "convolutions": dict(convolutions.most_common()),
    }


def atomics(dump: Path) -> int:
    """How many of the program's kernels add, or compare, in memory that others write, too."""
    return sum(bool(_ATOMIC.search(path.read_text())) for path in _dumped(dump, "*.ptx"))


def graphs(dump: Path) -> dict[str, int]:
    """CUDA graphs (XLA's command buffers), and launches inside and outside of them."""
    (path,) = _dumped(dump, "*.thunk_sequence_after_thunk_passes.txt")
    return count_graphs(path.read_text())


def count_graphs(sequence: str) -> dict[str, int]:
    """See `graphs`; the lines are indented by what they lie in."""
    found = {"graphs": 0, "launches_inside": 0, "launches_outside": 0}
    inside: int | None = None  # the indentation of the graph that the lines lie in
    for line in sequence.splitlines():
        matched = _LAUNCH.match(line)
        if matched is None:
            continue
        indent, kind = len(matched.group(1)), matched.group(2)
        if inside is not None and indent <= inside:
            inside = None
        if kind == "CommandBuffer":
            found["graphs"] += 1
            inside = indent if inside is None else inside
        elif kind not in ("While", "Sequential", "Conditional"):
            found["launches_outside" if inside is None else "launches_inside"] += 1
    return found


def _dumped(dump: Path, pattern: str) -> list[Path]:
    """XLA's files of the largest program that it compiled for the GPU."""
    texts = list(dump.glob("*gpu_after_optimizations.txt"))
    if not texts:
        raise FileNotFoundError(f"XLA wrote no GPU program to {dump}")
    module = max(texts, key=lambda path: path.stat().st_size).name.split(".sm_")[0]
    return sorted(dump.glob(f"{module}{pattern}"))


# In the process of the benchmark.


def environment(wheels: Path, dump: Path, switch: str) -> dict[str, str]:
    """The environment in which JAX compiles for a GPU that is not there."""
    places = [str(wheels), os.getcwd(), os.environ.get("PYTHONPATH", "")]
    flags = f"--xla_gpu_autotune_level=0 --xla_dump_to={dump} {switch}"
    return os.environ | {
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
        "JAX_PLATFORMS": "cuda,cpu",
        "PYTHONPATH": os.pathsep.join(place for place in places if place),
        "XLA_FLAGS": flags.strip(),
    }


def run_case(name: str, wheels: Path, target: Path, switch: str = "") -> dict[str, Any]:
    """The counts of a case, from a process of its own.

    Raises:
        RuntimeError: it could not be compiled; the message has the end of what it printed.
    """
    with tempfile.TemporaryDirectory() as dump:
        command = [sys.executable, "-m", "benchmarks.gpu_program", "--target", str(target)]
        done = subprocess.run(
            [*command, "--case", name, dump],
            env=environment(wheels, Path(dump), switch),
            capture_output=True,
            text=True,
        )
    if done.returncode:
        raise RuntimeError(f"{name} was not compiled:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def check_wheels(wheels: Path | None) -> Path:
    """The folder with JAX's CUDA plugin.

    Raises:
        RunError: it is not there.
    """
    if wheels is None or not (wheels / "jax_plugins").is_dir():
        named = (
            f"{wheels} has no jax_plugins" if wheels else f"neither --wheels nor {WHEELS} is set"
        )
        raise RunError(
            f"{named}: install JAX's CUDA plugin into a folder of its own, as the first lines of "
            "`python -m benchmarks.gpu_program --help` say"
        )
    return wheels.resolve()


def draw(cases: dict[str, Any]) -> Figure:
    """Kernels and gigabytes of a step, by case."""
    figure, panels = new_figure(2, 0.35 * len(cases) + 1)
    for axes, field, title in zip(
        panels,
        ("kernels", "gigabytes"),
        ("kernels a step", "GB read and written a step"),
        strict=True,
    ):
        values = [case[field] for case in cases.values()]
        bars = axes.barh(list(cases), values, color=BAR_COLOR)
        axes.bar_label(bars, [f"{value:,.4g}" for value in values], padding=3, fontsize=8)
        axes.set_xlim(0, 1.2 * max(values))
        axes.invert_yaxis()
        axes.tick_params(labelsize=8)
        axes.set_title(title, fontsize=9)
    panels[1].set_yticks([])
    return figure


def ratios(cases: dict[str, Any]) -> dict[str, Any]:
    """Ours over the peer's, where both were compiled."""
    return {
        f"{ours} / {peer}": {
            field: round(cases[ours][field] / cases[peer][field], 3)
            for field in ("kernels", "gigabytes", "temporary_bytes")
        }
        for ours, peer in PEERS.items()
        if ours in cases and peer in cases
    }


def show(name: str, case: dict[str, Any]) -> None:
    """Print a line of the table."""
    graph = case["with_graph_switch"]
    print(
        f"  {name:<22}{case['kernels']:>6} kernels{case['gigabytes']:>8.2f} GB"
        f"{case['temporary_bytes'] / 1e9:>7.2f} GB temporary, atomics in "
        f"{case['kernels_with_atomics']}, graphs {case['graphs']['graphs']} "
        f"(with the switch {graph['graphs']}, outside {graph['launches_outside']}), convolutions "
        + ", ".join(f"{n} {kind}" for kind, n in case["convolutions"].items()),
        flush=True,
    )


def write(cases: dict[str, Any], gpu: str, out: Path | None, *, complete: bool = True) -> None:
    """The JSON file, and at the end the figure."""
    result = {"gpu": gpu, "graph_switch": GRAPH_SWITCH, "cases": cases, "ratios": ratios(cases)}
    figure = draw(cases)
    figure.suptitle(f"compiled for an {gpu}, which was not there", fontsize=9)
    path = out or RESULTS / "gpu_program_h100.json"  # whatever device JAX has here
    save("gpu_program_h100", result, out=path, figure=figure, complete=complete)


def main() -> None:
    """Compile, count, save after every case."""
    parser = make_parser(__doc__, repeats=None, result="gpu_program_h100", suffix="")
    default = os.environ.get(WHEELS)
    parser.add_argument(
        "--wheels",
        type=Path,
        metavar="FOLDER",
        default=default and Path(default),
        help=f"with JAX's CUDA plugin (default: ${WHEELS})",
    )
    parser.add_argument("--target", type=Path, default=TARGET, help="of the GPU; default: H100")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.case is not None:
        name, dump = parsed.case
        print(json.dumps(compile_case(name, parsed.target, Path(dump))))
        return
    wheels = check_wheels(parsed.wheels)
    if parsed.out is None and (parsed.only != list(CASES) or parsed.target != TARGET):
        raise RunError(
            "the file of all cases for an H100 would be replaced by fewer, or by those of another "
            "GPU: name another one by --out"
        )
    found = re.search(r'device_description_str: "(.*)"', parsed.target.read_text())
    gpu = found.group(1) if found else parsed.target.name
    cases: dict[str, Any] = {}
    for name in parsed.only:
        started = time.perf_counter()
        case = run_case(name, wheels, parsed.target)
        case["with_graph_switch"] = run_case(name, wheels, parsed.target, GRAPH_SWITCH)["graphs"]
        cases[name] = case
        show(name, case)
        print(f"  {time.perf_counter() - started:.0f} s", flush=True)
        write(cases, gpu, parsed.out, complete=False)
    write(cases, gpu, parsed.out)


if __name__ == "__main__":
    exit_with_status(main)
