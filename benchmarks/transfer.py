"""The same small transfer task with jaxcifar and with Keras 3 on JAX: lines, time, accuracy.

  python -m benchmarks.transfer WEIGHTS.safetensors

`transfer_jaxcifar` and `transfer_keras` train on the same 2,000 images of CIFAR-10 for 5 epochs and
score all test images, each in a new process, in turn, with the seeds 0, 1, ... The times are taken
from outside, when the line of an epoch appears: to the first one (imports, weights, compiling, and
the epoch), a later epoch (with its validation), and the whole process. jaxcifar runs twice with
each seed: first with an empty cache of programs, then with what it left there; Keras keeps none.
Before, both networks get the same weights, and their logits are compared. Lines are those with
code: no blank ones, comments or docstrings.
"""

import ast
import io
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.harness import BAR_COLOR, compare, make_parser, new_figure, save, show, start
from jaxcifar import load_dataset, load_pretrained, resnet18
from jaxcifar.step.augment import make_normalize

ROOT = Path(__file__).parents[1]
SPLIT, EPOCHS = (2_000, 1_000), 5
SCRIPTS = {"jaxcifar": "transfer_jaxcifar", "Keras": "transfer_keras"}
CACHED = "jaxcifar, programs cached"
VARIANTS = ("jaxcifar", CACHED, "Keras")
EPOCH_LINE = re.compile(rf"epoch +\d+/{EPOCHS} |\d+/\d+ - \d+s")
SPACE = (tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER)
MOMENTS = {
    "whole": "the whole process",
    "first": "from its start to the end of epoch 1",
    "epoch": "one of the later epochs",
}


def count_lines(source: str) -> dict[str, int]:
    """Lines of code in all, and of each function: no blank lines, comments or docstrings."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (*SPACE, tokenize.COMMENT):
            lines |= set(range(token.start[0], token.end[0] + 1))
    tree = ast.parse(source)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    documented: list[ast.Module | ast.FunctionDef] = [tree, *functions]
    for node in documented:
        if ast.get_docstring(node) is not None:
            lines -= set(span(node.body[0]))
    return {"all": len(lines)} | {node.name: len(lines & set(span(node))) for node in functions}


def span(node: ast.stmt) -> range:
    """The numbers of a statement's lines."""
    assert node.end_lineno is not None
    return range(node.lineno, node.end_lineno + 1)


def write_data(path: Path) -> np.ndarray:
    """The images and labels that both scripts read; returns some of the test images."""
    splits = load_dataset("cifar10", split=SPLIT, seed=0, stratified=True)
    arrays: dict[str, Any] = {}
    for part in ("train", "validation", "test"):
        data = getattr(splits, part)
        arrays |= {f"x_{part}": data.images, f"y_{part}": data.labels}
    np.savez(path, **arrays)
    return arrays["x_test"][:100]


def compare_logits(weights: str, images: np.ndarray) -> dict[str, float]:
    """The largest difference of the two networks' logits, for the same weights and the same head,
    and the largest logit.
    """
    from benchmarks.transfer_keras import load_pretrained as load_in_keras

    model = resnet18(num_classes=10)
    variables, _ = load_pretrained(weights, model, new_head=True, key=jax.random.key(0))
    head, theirs = variables["params"]["fc"], load_in_keras(weights, classes=10)
    theirs.get_layer("fc").set_weights([np.asarray(head["kernel"]), np.asarray(head["bias"])])
    ours = model.apply(variables, make_normalize("imagenet")(jnp.asarray(images)), train=False)
    assert isinstance(ours, jax.Array)
    difference = np.abs(np.asarray(ours) - np.asarray(theirs(images, training=False)))
    return {"largest_difference": float(difference.max()), "largest": float(abs(ours).max())}


def run(script: str, data: Path, weights: str, seed: int, cache: str) -> dict[str, Any]:
    """Seconds of a new process that trains, and the test accuracy that it prints.

    Raises:
        RuntimeError: it failed, or did not print an epoch or the accuracy.
    """
    # A cache of JAX's own, if the user has one, would spare both scripts the compiling.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-u", "-m", f"benchmarks.{script}", str(data), weights]
    started = time.perf_counter()
    with subprocess.Popen(
        [*command, "--seed", str(seed)],
        cwd=ROOT,
        env=environment | {"JAXCIFAR_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [(time.perf_counter() - started, line) for line in process.stdout]
    whole = time.perf_counter() - started
    ends = [seconds for seconds, line in lines if EPOCH_LINE.match(line)]
    accuracy = [line.split()[-1] for _, line in lines if line.startswith("test accuracy")]
    if process.returncode or len(ends) != EPOCHS or len(accuracy) != 1:
        raise RuntimeError(
            f"{script} ended with status {process.returncode}; it printed {len(ends)} of {EPOCHS} "
            f"epochs and {len(accuracy)} of 1 test accuracies"
        )
    later = (ends[-1] - ends[0]) / (EPOCHS - 1)
    return {"whole": whole, "first": ends[0], "epoch": later, "test_accuracy": float(accuracy[0])}


def measure(data: Path, weights: str, repeats: int) -> Iterator[dict[str, Any]]:
    """A row of `run` for each seed and variant, in turn."""
    for seed in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            for variant in VARIANTS:
                script = SCRIPTS[variant.split(",")[0]]
                row = {"variant": variant, "seed": seed} | run(script, data, weights, seed, cache)
                print(row, flush=True)
                yield row


def summarize(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians and ratios of the times, mean and standard deviation of the accuracies."""

    def column(name: str) -> dict[str, list[float]]:
        return {v: [row[name] for row in rows if row["variant"] == v] for v in VARIANTS}

    ratios = {f"{name} / Keras": (name, "Keras") for name in VARIANTS[:-1]}
    seconds = {title: compare(column(name), ratios) for name, title in MOMENTS.items()}
    accuracy = {
        name: {
            "values": values,
            "mean": round(statistics.mean(values), 4),
            "std": round(statistics.stdev(values), 4),
        }
        for name, values in column("test_accuracy").items()
    }
    return {"seconds": seconds, "test_accuracy": accuracy}


def draw(lines: Mapping[str, Mapping[str, int]], rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Lines, times and accuracies side by side: bars are medians, points are the runs."""
    figure, panels = new_figure(4, 2.2)
    panels[0].barh(
        list(VARIANTS), [lines[v.split(",")[0]]["all"] for v in VARIANTS], color=BAR_COLOR
    )
    panels[0].set_title("lines of code", fontsize=9)
    titles = {"whole": "the whole process, s", "epoch": "a later epoch, s"}
    for axes, (name, title) in zip(
        panels[1:], (titles | {"test_accuracy": "test accuracy"}).items(), strict=True
    ):
        draw_runs(axes, name, rows)
        axes.set_title(title, fontsize=9)
        axes.set_yticklabels([])
    for axes in panels:
        axes.invert_yaxis()
        axes.tick_params(labelsize=8)
    return figure


def draw_runs(axes: Axes, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A panel: the median of each variant as a bar, each run as a point."""
    for i, variant in enumerate(VARIANTS):
        values = [row[name] for row in rows if row["variant"] == variant]
        axes.barh(i, statistics.median(values), color=BAR_COLOR)
        axes.plot(values, [i] * len(values), "k.", markersize=5)
    axes.set_yticks(range(len(VARIANTS)))


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, repeats=3, result="transfer")
    parser.add_argument("weights", help="of a ResNet-18, with torchvision's key names")
    parsed = start(parser)
    weights = str(Path(parsed.weights).absolute())
    sources = {name: ROOT / "benchmarks" / f"{script}.py" for name, script in SCRIPTS.items()}
    lines = {name: count_lines(source.read_text()) for name, source in sources.items()}
    # The very first process reads the libraries from the disk: it is not timed.
    for script in SCRIPTS.values():
        command = [sys.executable, "-m", f"benchmarks.{script}", "--help"]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        logits = compare_logits(weights, write_data(data))
        print(f"lines {lines}, logits {logits}", flush=True)
        settings = {"weights": Path(weights).name, "split": list(SPLIT), "epochs": EPOCHS}
        about = {"settings": settings, "lines": lines, "logits": logits}
        rows: list[dict[str, Any]] = []
        for row in measure(data, weights, parsed.repeats):
            rows.append(row)
            save("transfer", about | {"runs": rows}, out=parsed.out, complete=False)
    result = summarize(rows)
    for title, compared in result["seconds"].items():
        show(title, compared)
    print(f"test accuracy: {result['test_accuracy']}")
    about |= {**result, "runs": rows}
    save("transfer", about, out=parsed.out, figure=draw(lines, rows))


if __name__ == "__main__":
    main()
