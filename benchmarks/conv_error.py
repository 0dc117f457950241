"""Rounding errors of the forms of the convolutions, on the weights and inputs of a real step.

  python -m benchmarks.conv_error WEIGHTS.safetensors ...      see `benchmarks.stability --keep`

For each file, a batch of 128 training images of CIFAR-10 goes through the network in training mode.
Every convolution keeps its input and the gradient of the loss with respect to its output. From
these, each form computes the three passes in float32, and the plain sum computes them in float64.
The error is the root mean square of the difference, divided by that of the float64 result.

The last column is the error of the whole network: the norm of the difference between the float32
and the float64 gradient of the loss, divided by the norm of the latter. "another batch" is the same
ratio for the gradient of another batch, which shows how much gradients differ from step to step.
"""

import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.harness import RESULTS, save, start
from jaxcifar.data import Dataset
from jaxcifar.models.conv import Lowering, conv2d
from jaxcifar.models.layers import Conv
from jaxcifar.models.pretrained import load_pretrained
from jaxcifar.models.resnet import ResNet
from jaxcifar.recipes.presets import get_experiment
from jaxcifar.recipes.splits import load_splits
from jaxcifar.step.metrics import cross_entropy

LOWERINGS: tuple[Lowering, ...] = ("auto", "patches", "xla")
PASSES = ("forward", "weight gradient", "input gradient")
BATCH = 128
Tree = Any


def loss_of(
    model: ResNet,
    params: Tree,
    batch_stats: Tree,
    images: jax.Array,
    labels: jax.Array,
    additions: Mapping[str, jax.Array] | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The training loss, and the input of every convolution.

    Args:
        additions: added to the outputs of the convolutions, by name. If they are zeros, the
            gradient with respect to them is the gradient with respect to the outputs.
    """
    inputs: dict[str, jax.Array] = {}

    def keep(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result = call(*args, **kwargs)
        if not isinstance(context.module, Conv) or context.method_name != "__call__":
            return result
        name = ".".join(context.module.path)
        inputs[name] = args[0]
        return result if additions is None else result + additions[name]

    variables = {"params": params, "batch_stats": batch_stats}
    with nn.intercept_methods(keep):
        logits, _ = model.apply(variables, images, train=True, mutable=["batch_stats"])
    return jnp.mean(cross_entropy(logits, labels, 0.0)), inputs


def layer_arguments(
    model: ResNet, variables: Mapping[str, Any], images: jax.Array, labels: jax.Array
) -> dict[str, tuple[jax.Array, jax.Array, jax.Array]]:
    """(input, kernel, gradient with respect to the output) of every convolution, by its name."""
    params, stats = variables["params"], variables["batch_stats"]
    shapes: dict[str, Any] = {}

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result = call(*args, **kwargs)
        if isinstance(context.module, Conv) and context.method_name == "__call__":
            shapes[".".join(context.module.path)] = result.shape
        return result

    with nn.intercept_methods(record):
        jax.eval_shape(
            lambda x: model.apply(variables, x, train=True, mutable=["batch_stats"]), images
        )
    zeros = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    gradient = jax.jit(
        jax.grad(lambda added: loss_of(model, params, stats, images, labels, added), has_aux=True)
    )
    cotangents, inputs = gradient(zeros)

    def kernel(name: str) -> jax.Array:
        node = params
        for word in name.split("."):
            node = node[word]
        return node["kernel"]

    return {name: (inputs[name], kernel(name), cotangents[name]) for name in inputs}


def passes(
    x: jax.Array, kernel: jax.Array, cotangent: jax.Array, lowering: Lowering
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The output and the gradients of kernel and input, computed by one form."""
    stride = -(-x.shape[1] // cotangent.shape[1])
    padding = kernel.shape[0] // 2

    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv2d(x, kernel, stride=stride, padding=padding, lowering=lowering)

    output, pull = jax.vjp(convolve, x, kernel)
    of_input, of_kernel = pull(cotangent)
    return output, of_kernel, of_input


def layer_errors(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> dict[str, Any]:
    """The relative error of each pass, for each form."""
    with jax.enable_x64(True):
        wide = (jnp.asarray(np.asarray(a), jnp.float64) for a in (x, kernel, cotangent))
        truth = jax.device_get(jax.jit(partial(passes, lowering="patches"))(*wide))
    errors: dict[str, Any] = {}
    for lowering in LOWERINGS:
        results = jax.device_get(jax.jit(partial(passes, lowering=lowering))(x, kernel, cotangent))
        errors[lowering] = {
            name: float(f"{relative_error(result, true):.3g}")
            for name, result, true in zip(PASSES, results, truth, strict=True)
        }
    return errors


def relative_error(result: Any, truth: Any) -> float:
    """Root mean square of the difference over that of the truth, for arrays or whole trees."""
    squares = [
        (np.square(np.asarray(a, np.float64) - b).sum(), np.square(b).sum())
        for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(truth), strict=True)
    ]
    return float(np.sqrt(sum(d for d, _ in squares) / sum(t for _, t in squares)))


def network_errors(
    model: ResNet,
    variables: Mapping[str, Any],
    batches: Sequence[tuple[Any, Any]],
) -> dict[str, float]:
    """The relative error of the whole gradient for each form, and that of another batch."""

    def gradient(model: ResNet, params: Tree, images: Any, labels: Any) -> Tree:
        stats = jax.tree.map(lambda x: jnp.asarray(x, model.dtype), variables["batch_stats"])
        return jax.grad(lambda p: loss_of(model, p, stats, images, labels)[0])(params)

    first, second = batches
    with jax.enable_x64(True):
        wide = model.clone(dtype=jnp.float64, lowering="patches")
        params = jax.tree.map(
            lambda x: jnp.asarray(np.asarray(x), jnp.float64), variables["params"]
        )
        of_wide = jax.jit(lambda params, x, y: gradient(wide, params, x, y))
        truth, other = (
            jax.device_get(of_wide(params, jnp.asarray(np.asarray(x), jnp.float64), y))
            for x, y in (first, second)
        )
    errors: dict[str, Any] = {}
    for lowering in LOWERINGS:
        narrow = model.clone(lowering=lowering)
        result = jax.jit(lambda params, x, y, m=narrow: gradient(m, params, x, y))(
            variables["params"], *first
        )
        errors[lowering] = float(f"{relative_error(jax.device_get(result), truth):.3g}")
    errors["another batch"] = float(f"{relative_error(other, truth):.3g}")
    return errors


def measure(path: Path, train: Dataset, experiment: str) -> dict[str, Any]:
    """All errors with one file of weights."""
    recipe = get_experiment(experiment).recipe
    model, preprocess = recipe.make_model(), recipe.make_preprocess()
    variables, _ = load_pretrained(path, model)
    batches = [
        (
            preprocess(jnp.asarray(train.images[i : i + BATCH])),
            jnp.asarray(train.labels[i : i + BATCH]),
        )
        for i in (0, BATCH)
    ]
    arguments = layer_arguments(model, variables, *batches[0])
    layers = {name: layer_errors(*values) for name, values in arguments.items()}
    worst = {
        lowering: {p: max(errors[lowering][p] for errors in layers.values()) for p in PASSES}
        for lowering in LOWERINGS
    }
    network = network_errors(model, variables, batches)
    return {"worst_layer": worst, "gradient": network, "layers": layers}


def show(name: str, result: Mapping[str, Any]) -> None:
    """Print the tables."""
    print(name)
    print(f"  {'form':<14}{'worst layer: ' + ', '.join(PASSES):<62}{'whole gradient':>16}")
    for lowering, errors in result["worst_layer"].items():
        numbers = "  ".join(f"{errors[p]:.2g}" for p in PASSES)
        print(f"  {lowering:<14}{numbers:<62}{result['gradient'][lowering]:>16.2g}")
    print(f"  {'another batch':<76}{result['gradient']['another batch']:>16.2g}", flush=True)


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, nargs="+", metavar="WEIGHTS")
    parser.add_argument("--experiment", default="scratch", help="default: %(default)s")
    parser.add_argument("--data-dir", type=Path, help="TFDS directory (default: $TFDS_DATA_DIR)")
    parser.add_argument("--out", type=Path, metavar="PATH.json")
    parsed = start(parser)
    recipe = get_experiment(parsed.experiment).recipe
    splits = load_splits(recipe, parsed.data_dir)
    assert isinstance(splits.train, Dataset)
    results = {}
    for path in parsed.weights:
        results[path.stem] = measure(path, splits.train, parsed.experiment)
        show(path.stem, results[path.stem])
    name = f"conv_error_{jax.default_backend()}"
    save(name, {"files": results}, out=parsed.out or RESULTS / f"{name}.json")


if __name__ == "__main__":
    main()
