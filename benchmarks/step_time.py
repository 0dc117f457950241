"""Time a training step of ResNet-18 with Adam: several forms of ours, Flax, PyTorch and Keras.

  python -m benchmarks.step_time                  ImageNet stem at 32x32, batch 128, float32
  python -m benchmarks.step_time --stem cifar --batch-size 128 512 --dtype float32 bfloat16
  python -m benchmarks.step_time --only one-program flax torch-channels-last

The images are random and on the device, except for "host-fed" and Keras. A call runs --steps
training steps (at least ten for the one-program epoch and Keras) and waits for the device; its time
is divided by the steps. The FLOPs are the same for every variant: those of the algorithm
(`harness.algorithm_flops`). A variant that is not installed, does not compile or does not fit into
memory is left out, and a line says why. For a GPU:

  python -m benchmarks.step_time --stem cifar --batch-size 512 --dtype bfloat16
    --only one-program step flax torch-compile torch-reduce-overhead
"""

import argparse
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks.failures import LeftOut, try_variant
from benchmarks.harness import (
    Variant,
    add_network_options,
    algorithm_flops,
    compare,
    epoch_variant,
    make_parser,
    new_state,
    random_data,
    recipe_step,
    save,
    scratch_recipe,
    seconds_per_step,
    show,
    start,
    timed,
)
from benchmarks.peak import Peak, matrix_peak
from benchmarks.programs import compiled_anew
from jaxcifar.devices.layout import AXIS, Layout
from jaxcifar.devices.memory import on_host
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.stage import make_stage
from jaxcifar.step.state import TrainState

EPOCH_STEPS = 10  # the fewest in one program


@dataclass(frozen=True)
class Case:
    """The recipe and the images of every variant."""

    recipe: Recipe
    image_size: int
    steps: int  # in a call
    data: dict[str, jax.Array]  # for the one-program epoch

    @property
    def batch(self) -> dict[str, jax.Array]:
        """The first batch."""
        return {name: values[: self.recipe.batch_size] for name, values in self.data.items()}

    @property
    def normalized(self) -> jax.Array:
        """The images of the first batch, preprocessed for a peer."""
        return self.recipe.make_preprocess()(self.batch["image"])

    def state(self) -> TrainState:
        """A new state."""
        return new_state(self.recipe, self.image_size)


def jitted(
    case: Case, step: Callable[..., Any], state: Any, batch: dict[str, jax.Array]
) -> Variant:
    """Jitted calls one after another; each donates its state."""
    program = jax.jit(step, donate_argnums=0)
    compiled, seconds = compiled_anew(lambda: program.lower(state, batch).compile())
    holder = [state]

    def run() -> None:
        for _ in range(case.steps):
            holder[0], _ = compiled(holder[0], batch)
        jax.block_until_ready(holder[0])

    return Variant(run, seconds, case.steps)


def one_program(case: Case) -> Variant:
    """The library's epoch."""
    step = make_stage(case.recipe).make_train_step()
    size, batch_size = len(case.data["label"]), case.recipe.batch_size
    return epoch_variant(step, case.state(), case.data, size=size, batch_size=batch_size)


def one_program_pmap(case: Case) -> Variant:
    """The library's epoch under pmap on all devices, even on one."""
    batch_size, size = case.recipe.batch_size, len(case.data["label"])
    layout = Layout("pmap", Mesh(np.array(jax.devices()), (AXIS,)))
    if not layout.divides(batch_size):
        raise LeftOut(f"a batch of {batch_size} cannot be split over {layout.size} devices")
    host = {name: np.asarray(values) for name, values in case.data.items()}
    return epoch_variant(
        make_stage(case.recipe).make_train_step(),
        layout.replicate(case.state()),
        layout.share_rows(lambda rows: {name: v[rows] for name, v in host.items()}, size),
        size=size,
        batch_size=batch_size,
        layout=layout,
        axis_step=make_stage(case.recipe).make_train_step(axis_name=layout.axis_name),
    )


def jitted_step(case: Case) -> Variant:
    """The library's step, called once per batch."""
    return jitted(case, make_stage(case.recipe).make_train_step(), case.state(), case.batch)


def xla_step(case: Case) -> Variant:
    """The library's step with XLA's own convolutions."""
    return jitted(case, recipe_step(case.recipe, "xla"), case.state(), case.batch)


def host_fed(case: Case) -> Variant:
    """The library's step, fed as in notebooks: NumPy takes, converts and scales a float32 batch."""
    step = jax.jit(make_stage(case.recipe).make_train_step(), donate_argnums=0)
    images, labels = (np.asarray(case.data[name]) for name in ("image", "label"))
    rng = np.random.default_rng()

    def batch() -> dict[str, Any]:
        rows = rng.integers(0, len(labels), case.recipe.batch_size)
        return {"image": images[rows].astype(np.float32) / 255, "label": labels[rows]}

    state = case.state()
    compiled, seconds = compiled_anew(lambda: step.lower(state, batch()).compile())
    holder = [state]

    def run() -> None:
        for _ in range(case.steps):
            holder[0], _ = compiled(holder[0], batch())
        jax.block_until_ready(holder[0])

    return Variant(run, seconds, case.steps)


def flax(case: Case) -> Variant:
    """The layers of flax.linen with optax.adam."""
    from benchmarks.peers import flax_resnet

    recipe = case.recipe
    dtype = jnp.dtype(recipe.dtype)
    model = flax_resnet.ResNet(width=recipe.width, stem=recipe.stem, dtype=dtype)
    images = case.normalized
    state = flax_resnet.create_train_state(model, images, recipe.learning_rate)
    batch = {"image": images, "label": case.batch["label"]}
    return jitted(case, flax_resnet.train_step, state, batch)


def keras(case: Case) -> Variant:
    """`fit` of a Keras model on the JAX backend."""
    if importlib.util.find_spec("keras") is None:
        raise LeftOut("keras is not installed")
    from benchmarks.peers.keras_resnet import make_model

    recipe = case.recipe
    model = make_model(
        stem=recipe.stem,
        width=recipe.width,
        image_size=case.image_size,
        dtype=recipe.dtype,
        learning_rate=recipe.learning_rate,
    )
    # Each call of fit costs some milliseconds, which a user pays once per epoch.
    steps = max(EPOCH_STEPS, case.steps if on_host() else 10 * case.steps)
    images = np.tile(np.asarray(case.normalized), (steps, 1, 1, 1))
    labels = np.tile(np.asarray(case.batch["label"]), steps)

    def run() -> None:
        model.fit(images, labels, batch_size=recipe.batch_size, shuffle=False, verbose=0)

    one = slice(recipe.batch_size)
    _, seconds = compiled_anew(
        lambda: model.fit(images[one], labels[one], recipe.batch_size, verbose=0)
    )
    return Variant(run, seconds, steps)


def torch(case: Case, **form: Any) -> Variant:
    """PyTorch in one of its forms; bfloat16 is autocast; compiled for CUDA, Adam is fused."""
    if importlib.util.find_spec("torch") is None:
        raise LeftOut("torch is not installed")
    os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"  # or compiling again takes no time
    from benchmarks.peers import torch_training

    if form.get("mode") == "reduce-overhead" and torch_training.device().type != "cuda":
        raise LeftOut("CUDA graphs need a CUDA device, and PyTorch has none here")
    recipe = case.recipe
    step = torch_training.make_step(
        stem=recipe.stem,
        width=recipe.width,
        learning_rate=recipe.learning_rate,
        autocast=recipe.dtype == "bfloat16",
        **form,
    )
    images, labels = torch_training.to_device(
        np.asarray(case.normalized),
        np.asarray(case.batch["label"]),
        channels_last=form.get("channels_last", True),
    )

    def run(steps: int = case.steps) -> None:
        for _ in range(steps):
            step(images, labels)
        torch_training.synchronize()

    try:
        _, seconds = timed(lambda: run(1))
    except Exception as error:  # any class: a missing compiler raises one of its own
        if not form.get("compiled"):
            raise
        raise LeftOut(str(error).strip().split("\n")[0][:200]) from error
    return Variant(run, seconds if form.get("compiled") else 0.0, case.steps)


VARIANTS: dict[str, tuple[str, Callable[[Case], Variant]]] = {
    "one-program": ("jaxcifar, epoch as one program", one_program),
    "pmap": ("jaxcifar, epoch as one program, pmap", one_program_pmap),
    "step": ("jaxcifar, jitted step", jitted_step),
    "host-fed": ("jaxcifar, jitted step, host-fed float32", host_fed),
    "xla": ("jaxcifar, jitted step, XLA's convolution", xla_step),
    "flax": ("flax.linen layers, optax, jitted step", flax),
    "torch-channels-last": ("PyTorch eager, channels_last", torch),
    "torch-contiguous": ("PyTorch eager, contiguous", lambda c: torch(c, channels_last=False)),
    "torch-compile": ("PyTorch torch.compile, channels_last", lambda c: torch(c, compiled=True)),
    "torch-reduce-overhead": (
        "PyTorch torch.compile, CUDA graphs, channels_last",
        lambda c: torch(c, compiled=True, mode="reduce-overhead"),
    ),
    "keras": ("Keras 3 on JAX, fit", keras),
}


def measure(
    case: Case, only: list[str], peak: float, *, repeats: int, keep: Callable[[Any], object]
) -> dict[str, Any]:
    """The table of one case, with the share of the device's peak that each variant reaches.

    `keep` is called with the table of the rounds so far.
    """
    flops = algorithm_flops(case.recipe, case.batch)  # first: without it nothing need be timed
    variants: dict[str, Variant] = {}
    left_out: dict[str, str] = {}
    for key in only:
        name, build = VARIANTS[key]
        variant = try_variant(name, lambda build=build: build(case), left_out)  # type: ignore[misc]
        if variant is not None:
            variants[name] = variant
            print(f"{name}: compiled in {variant.compile_seconds:.1f} s", flush=True)
    ours = (VARIANTS["one-program"][0], VARIANTS["step"][0])
    pairs = [(a, b) for a, b in combinations(variants, 2) if a in ours]
    ratios = {f"{a} / {b}": (a, b) for a, b in pairs}
    seconds = seconds_per_step(
        variants,
        repeats=repeats,
        left_out=left_out,
        keep=lambda seconds: keep(compare(seconds, ratios)),
    )
    compared = compare(seconds, ratios)
    if left_out:
        compared["left_out"] = left_out
    for name, row in compared["results"].items():
        achieved = 1e3 * flops / row["median_ms"]
        row |= {
            "compile_seconds": round(variants[name].compile_seconds, 2),
            "flops": flops,
            "flops_per_second": achieved,
            "share_of_peak": round(achieved / peak, 4),
        }
    return compared


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, repeats=15, result="step_time_STEM")
    add_network_options(parser)
    parser.add_argument("--batch-size", type=int, nargs="+", default=[128])
    parser.add_argument("--dtype", nargs="+", choices=("float32", "bfloat16"), default=["float32"])
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument(
        "--steps", type=int, help="in a call (default: 1 on a CPU, otherwise 20, all enqueued)"
    )
    parsed = start(parser)
    steps = parsed.steps or (1 if on_host() else 20)
    measure_cases(parsed, steps)


def measure_cases(parsed: argparse.Namespace, steps: int) -> None:
    """Every dtype and batch size in turn; the JSON is written after each."""
    peaks = {dtype: matrix_peak(dtype) for dtype in parsed.dtype}
    for dtype, peak in peaks.items():
        print(f"matrix peak, {dtype}: {peak.flops_per_second / 1e9:.1f} GFLOP/s, {peak[1:]}")
    cases: dict[str, Any] = {}

    def keep(*, complete: bool, **unfinished: Any) -> None:
        result = describe_cases(parsed, steps, peaks, cases | unfinished)
        save(f"step_time_{parsed.stem}", result, out=parsed.out, complete=complete)

    def keep_rounds(title: str, table: Any) -> None:
        keep(complete=False, **{title: table})

    for dtype in parsed.dtype:
        for n in parsed.batch_size:
            recipe = scratch_recipe(stem=parsed.stem, width=parsed.width, batch_size=n, dtype=dtype)
            data = random_data(max(steps, EPOCH_STEPS) * n, parsed.image_size)
            case = Case(recipe, parsed.image_size, steps, data)
            title = f"batch {n}, {dtype}"
            cases[title] = measure(
                case,
                parsed.only,
                peaks[dtype].flops_per_second,
                repeats=parsed.repeats,
                keep=partial(keep_rounds, title),
            )
            keep(complete=False)
            show(f"a training step, {parsed.stem} stem, {title}", cases[title])
    keep(complete=True)


def describe_cases(
    parsed: argparse.Namespace, steps: int, peaks: dict[str, Peak], cases: dict[str, Any]
) -> dict[str, Any]:
    """The contents of the JSON file."""
    return {
        "settings": {
            "stem": parsed.stem,
            "width": parsed.width,
            "image_size": parsed.image_size,
            "steps_in_a_call": steps,
            "steps_in_one_program": max(steps, EPOCH_STEPS),
        },
        "matrix_peak_flops_per_second": {d: peak.flops_per_second for d, peak in peaks.items()},
        "matrix_peak": {d: peak._asdict() for d, peak in peaks.items()},
        "cases": cases,
    }


if __name__ == "__main__":
    main()
