"""Prediction of photos beside the evaluation of the same images, and its memory.

  python -m benchmarks.predict_time RUN                the time, for a run on CIFAR-10
  python -m benchmarks.predict_time RUN --memory       the memory, with large pictures (minutes)

Time: the 10,000 test images are predicted by `TrainedNetwork.predict`, as an array and from a
folder of PNG files, and scored by the program of `evaluate_run`, with the images on the device and
read as `jaxcifar evaluate` reads them: from the cache of decoded images, and (--dataset) from the
same files; in turn in one process. Compiling is not counted. Memory:
5,000 JPEGs of 2,000x1,500 pixels (links to 20 different ones) are predicted in a new process; its
peak is compared with that of a process that predicts one.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.harness import compare, interleave, make_parser, save, show, start
from jaxcifar.data import Rows, load_labelled
from jaxcifar.inference.load import load
from jaxcifar.inference.network import TrainedNetwork
from jaxcifar.inference.photos import Photos
from jaxcifar.step import metrics
from jaxcifar.step.precision import computed_at
from jaxcifar.step.steps import make_eval_step
from jaxcifar.training.evaluation import to_device
from jaxcifar.training.resident import make_evaluation

NAME = "predict_time"
PICTURES, DIFFERENT, SIZE = 5_000, 20, (2_000, 1_500)
CHILD = """
import sys, time
from pathlib import Path
from jaxcifar import load

network = load(sys.argv[1])
start = time.perf_counter()
count = len(network.predict(sys.argv[2:]))
seconds = time.perf_counter() - start
status = Path("/proc/self/status").read_text()
print(count, seconds, int(status.split("VmHWM:")[1].split()[0]) / 1_000, sep="\\n")
"""


def write_images(network: TrainedNetwork, folder: Path, count: int | None) -> int:
    """The test images of the network's data as PNG files by class; returns how many."""
    test = network.split("test")
    rows = np.arange(len(test) if count is None else min(count, len(test)))
    data = test.read(rows)
    for row, pixels, label in zip(rows, data.images, data.labels, strict=True):
        path = folder / network.class_names[label] / f"{row:05}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return len(rows)


def measure_time(parsed: argparse.Namespace) -> None:
    """Predict and evaluate in turn."""
    network = load(parsed.run)
    with tempfile.TemporaryDirectory() as folder:
        count = write_images(network, Path(folder), parsed.images)
        rows = np.arange(count)
        test = network.split("test").read(rows)
        step = make_eval_step(
            network.model,
            normalize=network.preprocess,
            mirror=network.mirror,
            shift=network.shift,
        )
        evaluation = make_evaluation(step, size=count, batch_size=network.batch_size)
        scoring = evaluation.over(to_device(test))
        correct: dict[str, float] = {}

        def predict(name: str, images: Photos) -> None:
            found = network.predict(images, top=1)
            classes = np.array([network.class_names.index(each.class_name) for each in found])
            labels = test.labels
            if isinstance(images, str):
                labels = labels[[int(Path(each.image).stem) for each in found]]
            correct[name] = float(np.mean(classes == labels))

        def evaluate() -> None:
            correct["evaluate"] = metrics.compute(scoring.run(network.variables))["accuracy"]

        def read_and_evaluate() -> None:
            images = load_labelled(network.dataset.name, side=network.image_size).source.read(rows)
            sums = evaluation.over(to_device(images)).run(network.variables)
            correct["read and evaluate"] = metrics.compute(sums)["accuracy"]

        def read_files_and_evaluate() -> None:
            source = load_labelled(f"folder:{folder}", side=network.image_size).source
            sums = evaluation.over(to_device(Rows(source, rows))).run(network.variables)
            correct["read files and evaluate"] = metrics.compute(sums)["accuracy"]

        variants: dict[str, Callable[[], None]] = {
            "evaluate": evaluate,
            "read and evaluate": read_and_evaluate,
            "read files and evaluate": read_files_and_evaluate,
            "predict an array": partial(predict, "predict an array", test.images),
            "predict files": partial(predict, "predict files", folder),
        }
        names = [name for name in variants if name.startswith("predict")]
        bases = list(variants)[:3]
        ratios = {f"{name} / {base}": (name, base) for name in names for base in bases}

        def keep(seconds: Mapping[str, Sequence[float]]) -> None:
            result = {"images": count, "accuracy": correct, **compare(seconds, ratios)}
            save(NAME, result, out=parsed.out, complete=False)

        # Compiled by its warm-up.
        with computed_at(network.precision):
            seconds = interleave(variants, repeats=parsed.repeats, keep=keep)
    compared = compare(seconds, ratios)
    show(f"{count:,} images", compared)
    print(f"accuracy: {correct}")
    save(NAME, {"images": count, "accuracy": correct, **compared}, out=parsed.out)


def measure_memory(parsed: argparse.Namespace) -> None:
    """Predict one large picture, then many, each in a new process."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder, rows = Path(name), []
        for i in range(DIFFERENT):
            noise = rng.integers(0, 256, (SIZE[1] // 10, SIZE[0] // 10, 3), np.uint8)
            Image.fromarray(noise).resize(SIZE).save(folder / f"{i:05}.jpg", quality=90)
        for i in range(DIFFERENT, parsed.images or PICTURES):
            (folder / f"{i:05}.jpg").hardlink_to(folder / f"{i % DIFFERENT:05}.jpg")
        for paths in ([str(folder / "00000.jpg")], [name]):
            command = [sys.executable, "-c", CHILD, str(parsed.run), *paths]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            count, seconds, peak = map(float, done.stdout.split())
            rows.append({"pictures": int(count), "seconds": seconds, "peak_mb": peak})
            print(json.dumps(rows[-1]), flush=True)
            result = {"size": list(SIZE), "peaks": rows}
            save("predict_memory", result, out=parsed.out, complete=False)
    save("predict_memory", {"size": list(SIZE), "peaks": rows}, out=parsed.out)


def main() -> None:
    """Measure, print and save."""
    parser = make_parser(__doc__, repeats=5, result=NAME)
    parser.add_argument("run", type=Path, help="a run, for the time one on CIFAR-10")
    parser.add_argument("--memory", action="store_true", help="measure the memory")
    parser.add_argument("--images", type=int, help="fewer images, to try it")
    parsed = start(parser)
    measure_memory(parsed) if parsed.memory else measure_time(parsed)


if __name__ == "__main__":
    main()
