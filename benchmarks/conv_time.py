"""Time every form of every convolution of a ResNet-18, pass by pass.

  python -m benchmarks.conv_time                 both stems at 32x32, batch 128, float32
  python -m benchmarks.conv_time --only "16x16x128 3x3 ->"
  python -m benchmarks.conv_time --width 16 --image-size 64

The result is the table in `jaxcifar/models/conv.py`. A program runs a pass four times, with
operands that change each time; otherwise XLA would move part of the work out of the loop. "auto" is
the library's choice: on a CPU the forms listed after it, with a large batch in parts. The other
forms process the whole batch at once. XLA's own weight gradient is timed only with --all, because
in a loop it takes seconds instead of milliseconds.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from benchmarks.harness import (
    IDEAL_COLOR,
    Variant,
    compare,
    make_parser,
    new_figure,
    save,
    seconds_per_step,
    start,
)
from benchmarks.programs import compiled_anew
from jaxcifar.models.conv import conv2d, cpu_forms

TIMES = 4  # that one program runs a pass
PASSES = ("forward", "weight", "input")
MARKERS = {"xla": "x", "patches": "s", "dense": "^", "winograd": "o"}


class Layer(NamedTuple):
    """A convolution of a square feature map."""

    side: int
    c_in: int
    c_out: int
    size: int
    stride: int

    @property
    def name(self) -> str:
        """Input map, kernel, stride and output channels."""
        stride = f"/{self.stride}" if self.stride > 1 else ""
        kernel = f"{self.size}x{self.size}{stride}"
        return f"{self.side}x{self.side}x{self.c_in} {kernel} -> {self.c_out}"


def layers(image_size: int, width: int) -> list[Layer]:
    """The convolutions of a ResNet-18, with the CIFAR stem and with the ImageNet stem."""
    stems = [Layer(image_size, 3, width, 3, 1), Layer(image_size, 3, width, 7, 2)]
    stages = [
        Layer(side // 2**i, width * 2**i, width * 2 ** (i + down), 3, 1 + down)
        for side in (image_size, image_size // 4)
        for i in range(4)
        for down in ((0, 1) if i < 3 else (0,))
    ]
    return [*stems, *stages, Layer(image_size, width, 2 * width, 1, 2)]


def forms_of(layer: Layer) -> list[str]:
    """The forms that apply to the layer and do not take too long."""
    forms = ["auto", "xla", "patches"]
    if layer.side <= 4 and layer.size == 3:
        forms.append("dense")
    if layer.size == 3 and layer.stride == 1:
        forms.append("winograd")
    return forms


def variant(layer: Layer, lowering: str, which: str, batch_size: int) -> Variant:
    """A pass of a layer, `TIMES` times; each result changes the next operands a little."""
    rng = np.random.default_rng()

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    conv = partial(
        conv2d,
        stride=layer.stride,
        padding=layer.size // 2,
        lowering=lowering,  # type: ignore[arg-type]
    )
    images = draw(batch_size, layer.side, layer.side, layer.c_in)
    kernel = draw(layer.size, layer.size, layer.c_in, layer.c_out)
    cotangent = draw(*jax.eval_shape(conv, images, kernel).shape)
    passes: dict[str, Callable[..., jax.Array]] = {
        "forward": lambda x, w, y: conv(x, w),
        "weight": lambda x, w, y: jax.vjp(lambda w: conv(x, w), w)[1](y)[0],
        "input": lambda x, w, y: jax.vjp(lambda x: conv(x, w), x)[1](y)[0],
    }

    def once(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        *operands, _ = carry
        result = passes[which](*operands)
        change = 1 + 1e-6 * result.ravel()[0]
        return (*(operand * change for operand in operands), result)

    @jax.jit
    def program(*operands: jax.Array) -> jax.Array:
        result = jax.eval_shape(passes[which], *operands)
        nothing = jnp.zeros(result.shape, result.dtype)
        return jax.lax.fori_loop(0, TIMES, once, (*operands, nothing))[-1]

    operands = (images, kernel, cotangent)
    compiled, seconds = compiled_anew(lambda: program.lower(*operands).compile())
    return Variant(lambda: jax.block_until_ready(compiled(*operands)), seconds, TIMES)


def cell(median: float | None) -> str:
    """A number in the table."""
    return "-" if median is None else f"{median:.3g}"


def draw(timings: dict[str, Any]) -> Figure:
    """For each layer and form, the time of the three passes together over that of "auto"."""
    figure, (axes,) = new_figure(1, 0.35 * len(timings) + 1)
    for form, marker in MARKERS.items():
        points = []
        for i, layer in enumerate(timings.values()):
            medians = {k: row["median_ms"] for k, row in layer["results"].items()}
            if all(f"{form}, {which}" in medians for which in PASSES):
                total, base = (sum(medians[f"{f}, {p}"] for p in PASSES) for f in (form, "auto"))
                points.append((total / base, i))
        if points:
            axes.plot(*zip(*points, strict=True), marker, label=form)
    axes.axvline(1, color=IDEAL_COLOR, lw=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(timings)), list(timings), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("time of the three passes over that of auto")
    axes.legend(fontsize=8)
    return figure


def main() -> None:
    """Measure, print, save."""
    parser = make_parser(__doc__, repeats=3, result="conv_time")
    parser.add_argument("--batch-size", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--image-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--width", type=int, default=64, help="default: %(default)s")
    parser.add_argument("--all", action="store_true", help="time XLA's own weight gradient too")
    parser.add_argument("--only", default="", help="only layers whose name contains this text")
    parsed = start(parser)
    settings = {
        "batch_size": parsed.batch_size,
        "image_size": parsed.image_size,
        "width": parsed.width,
        "dtype": "float32",
        "times": TIMES,
    }
    timings, table = {}, []
    candidates = layers(parsed.image_size, parsed.width)
    for layer in [layer for layer in candidates if parsed.only in layer.name]:
        variants = {
            f"{form}, {which}": variant(layer, form, which, parsed.batch_size)
            for form in forms_of(layer)
            for which in PASSES
            if parsed.all or (form, which) != ("xla", "weight")
        }
        timings[layer.name] = compare(seconds_per_step(variants, repeats=parsed.repeats), {})
        medians = {k: row["median_ms"] for k, row in timings[layer.name]["results"].items()}
        shape = (parsed.batch_size, layer.side, layer.side, layer.c_in)
        kernel = (layer.size, layer.size, layer.c_in, layer.c_out)
        forms = cpu_forms(shape, kernel, layer.stride, layer.size // 2)
        cells = [
            f"{form} " + " / ".join(cell(medians.get(f"{form}, {which}")) for which in PASSES)
            for form in forms_of(layer)
        ]
        table.append(f"{layer.name:<28}" + " | ".join(cells) + f" | auto: {'/'.join(forms[:3])}")
        print(table[-1], flush=True)
        result = {"settings": settings, "table": table, "layers": timings}
        save("conv_time", result, out=parsed.out, complete=False)
    save("conv_time", result, out=parsed.out, figure=draw(timings))


if __name__ == "__main__":
    main()
