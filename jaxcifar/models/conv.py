"""One convolution, lowered to the fastest form for the backend and the shape.

On a GPU or TPU this is plain `lax.conv_general_dilated`. On the CPU, XLA's own convolution makes a
ResNet-18 step at 32x32 five times slower than PyTorch's: it is slow on small maps and on few
channels, and its gradients are always slow. There, each of the three passes (forward, weight
gradient, input gradient) uses the form that suits its shape.

The forms, all equal up to rounding:

* ``xla``: `lax.conv_general_dilated`.
* ``patches``: the input slices of all kernel positions, concatenated, then one matrix product.
  (`conv_general_dilated_patches` is not used: it is itself a convolution.)
* ``dense``: the whole linear map from input pixels to output pixels as one matrix. On maps of one
  or two pixels it does less arithmetic than the other forms, which multiply padding.
* ``winograd``: 3x3 kernels with stride 1 in a quarter of the multiplications, see `winograd`.

The table has milliseconds for forward / weight gradient / input gradient: batch 128, float32, 2
cores of an AVX-512 EPYC, JAX 0.10.2, four runs in a loop, medians of 2 (`python -m
benchmarks.conv_time`; a second measurement of the same program differs by up to 40 %). "auto" is
`cpu_forms`. XLA's weight gradient is left out; it took 1 to 2.4 s for the two stems. Since then, the
7x7 stem's columns are joined in two steps, and winograd's two gradients share their tiles.

======================  ==================  ==================  ==================  ==================  ==================
input map, kernel       auto                xla                 patches             dense               winograd
======================  ==================  ==================  ==================  ==================  ==================
32x32x3 3x3 -> 64         21 /   23 /   21    19 /    - /   25    16 /   24 /   21                        54 /   59 /   64
32x32x3 7x7/2 -> 64      9.5 /   16 /   27   8.8 /    - /   29    18 /   23 /   45
32x32x64 3x3 -> 64        93 /  122 /  107   171 /    - /  399   198 /  236 /  216                       111 /  112 /   89
32x32x64 3x3/2 -> 128     75 /   76 /  101    92 /    - /  115    65 /   88 /  107
16x16x128 3x3 -> 128      60 /   59 /   56    63 /    - /  350   133 /  160 /  139                        55 /   56 /   49
16x16x128 3x3/2 -> 256    55 /   49 /   72    50 /    - /  124    48 /   49 /   69
8x8x256 3x3 -> 256        35 /   37 /   39    66 /    - /  335    99 /  126 /  105                        40 /   39 /   46
8x8x256 3x3/2 -> 512      48 /   42 /   55    46 /    - /  148    45 /   44 /   56
4x4x512 3x3 -> 512        38 /   34 /   40    69 /    - /  337    73 /   85 /   84   272 /  353 /  289    49 /   32 /   40
8x8x64 3x3 -> 64         4.4 /  5.3 /  4.4   8.0 /    - /   20    11 /   11 /   13                       4.2 /  4.2 /  4.7
8x8x64 3x3/2 -> 128      5.0 /  4.8 /   12   6.4 /    - /  8.0   3.0 /  3.6 /   11
4x4x128 3x3 -> 128       2.9 /  2.8 /  3.2   6.1 /    - /   19   7.3 /  8.4 /  9.0    14 /   22 /   12   3.1 /  2.4 /  3.1
4x4x128 3x3/2 -> 256     2.3 /  2.9 /  4.6   4.1 /    - /  6.2   2.7 /  2.9 /  4.8   5.6 /  7.5 /  5.9
2x2x256 3x3 -> 256       1.8 /  1.9 /  2.4   114 /    - /  9.9   4.7 /  5.5 /  5.4   2.8 /  5.8 /  2.9   1.8 /  1.8 /  2.4
2x2x256 3x3/2 -> 512     1.2 /  1.3 /  1.2   108 /    - /  3.6   2.5 /  2.4 /  3.5   1.3 /  1.2 /  1.1
1x1x512 3x3 -> 512       1.1 /  0.7 /  1.0    53 /    - /  2.6   5.2 /  4.8 /  6.0   1.0 /  0.7 /  0.9   6.2 /  6.4 /   11
32x32x64 1x1/2 -> 128     13 /   17 /   13    16 /    - /   14    13 /   16 /   12
======================  ==================  ==================  ==================  ==================  ==================
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax import lax

from jaxcifar.common.target import target_platform
from jaxcifar.models.winograd import winograd

# The largest intermediate array of a form, in numbers (537 MB in float32): larger batches are
# processed in parts, which share no tiles between the passes. With parts of 2**25 numbers a step with
# the CIFAR stem and a batch of 500 took 4.9 s instead of 3.8 and 4 % less memory. Cache-sized parts
# were faster only for the 7x7 stem: 9 ms instead of 19.
PART_NUMBERS = 2**27
STEM_NUMBERS = 2**19
Lowering = Literal["auto", "xla", "patches", "dense", "winograd"]
Form = Callable[[jax.Array, jax.Array, int, int], jax.Array]


def conv2d(
    images: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    padding: int = 0,
    lowering: Lowering = "auto",
) -> jax.Array:
    """Two-dimensional cross-correlation with explicit symmetric zero padding, as in PyTorch.

    Args:
        images: [n, h, w, c_in], any float dtype.
        kernel: [k, k, c_in, c_out], same dtype.
        stride: in both directions.
        padding: pixels added on each of the four sides.
        lowering: "auto" chooses by backend and shape: a form per pass on the CPU (see the module's
            table), "xla" elsewhere. The name of a form forces it for all three passes.

    Returns:
        [n, (h + 2 padding - k) // stride + 1, same for w, c_out], same dtype.

    Raises:
        ValueError: the lowering is unknown, the channel counts differ, or the kernel is larger than
            the padded map.

    Every lowering supports reverse-mode differentiation. On the CPU, forward mode (`jax.jvp`) of a
    convolution needs "xla", because the other forms define their own gradients. A network in train
    mode has none in any case, because of its BatchNorms.
    """
    if lowering not in get_args(Lowering):
        raise ValueError(
            f"unknown lowering {lowering!r}; choose from {', '.join(get_args(Lowering))}"
        )
    if images.shape[3] != kernel.shape[2]:
        raise ValueError(
            f"the images have {images.shape[3]} channels, but the kernel takes {kernel.shape[2]}"
        )
    if min(output_size(images, kernel, stride, padding)) < 1:
        raise ValueError(
            f"a {kernel.shape[0]}x{kernel.shape[1]} kernel does not fit a map of "
            f"{images.shape[1]}x{images.shape[2]} with padding {padding}; use larger images"
        )
    if lowering != "auto":
        return FORMS[lowering](images, kernel, stride, padding)
    if target_platform() != "cpu":
        return xla_form(images, kernel, stride, padding)
    forms = cpu_forms(images.shape, kernel.shape, stride, padding)
    if forms.forward == forms.weight == forms.input and len(images) <= forms.images:
        return FORMS[forms.forward](images, kernel, stride, padding)
    return _conv_by_pass(images, kernel, stride, padding, forms)


class Forms(NamedTuple):
    """The form of each pass of a convolution, and the largest part of the batch done at once."""

    forward: Lowering
    weight: Lowering
    input: Lowering
    images: int  # the most images in a part; the parts run one after another


def cpu_forms(images: tuple[int, ...], kernel: tuple[int, ...], stride: int, padding: int) -> Forms:
    """The forms measured fastest on the CPU for these shapes (see the module's table)."""
    n, height, width, c_in = images
    size = kernel[0]
    if size == 1:
        return Forms("patches", "patches", "patches", n)
    if max(height, width) == 1 or (max(height, width) == 2 and stride > 1):
        return Forms("dense", "dense", "dense", n)
    columns = -(-height // stride) * -(-width // stride) * size * size * c_in
    if size > 3 and c_in <= 4:
        return Forms("xla", "patches", "patches", max(1, STEM_NUMBERS // columns))
    if c_in > 4 and size == 3 and stride == padding == 1:
        tiles = 3 * height * width * max(kernel[2:])  # 2.25 times the map, and more at its borders
        part = max(1, PART_NUMBERS // tiles)
        # The transforms' share of the arithmetic grows with side / channels. Forward, XLA's own
        # form is faster for 32x32x16 maps (9 against 29 ms) and as fast for 16x16x32.
        if max(height, width) > max(2, 0.75 * min(kernel[2:])):
            return Forms("xla", "winograd", "xla", part)
        return Forms("winograd", "winograd", "winograd", part)
    return Forms("patches", "patches", "patches", max(1, PART_NUMBERS // columns))


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv_by_pass(
    images: jax.Array, kernel: jax.Array, stride: int, padding: int, forms: Forms
) -> jax.Array:
    form = FORMS[forms.forward]
    if forms.forward == "xla":
        return form(images, kernel, stride, padding)
    return _in_parts(lambda x: form(x, kernel, stride, padding), forms.images, images)


def _forward(
    images: jax.Array, kernel: jax.Array, stride: int, padding: int, forms: Forms
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _conv_by_pass(images, kernel, stride, padding, forms), (images, kernel)


def _backward(
    stride: int,
    padding: int,
    forms: Forms,
    residuals: tuple[jax.Array, jax.Array],
    cotangent: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    images, kernel = residuals

    def of_images(x: jax.Array, cotangent: jax.Array) -> jax.Array:
        if forms.input == "xla" and stride == 1:
            # As a forward pass: XLA's own gradient took 127 ms instead of 9 for 32x32x16 maps.
            return xla_form(cotangent, _flipped(kernel), 1, kernel.shape[0] - 1 - padding)
        _, pull = jax.vjp(lambda x: FORMS[forms.input](x, kernel, stride, padding), x)
        return pull(cotangent)[0]

    def of_kernel(x: jax.Array, cotangent: jax.Array) -> jax.Array:
        _, pull = jax.vjp(lambda w: FORMS[forms.weight](x, w, stride, padding), kernel)
        return pull(cotangent)[0]

    return (
        _in_parts(of_images, forms.images, images, cotangent),
        _in_parts(of_kernel, forms.images, images, cotangent, summed=True),
    )


_conv_by_pass.defvjp(_forward, _backward)


def _flipped(kernel: jax.Array) -> jax.Array:
    """The kernel turned by 180 degrees and with its channels swapped, [k, k, c_out, c_in].

    Correlating the output gradient of a stride-1 convolution with it gives the input gradient.
    """
    return jnp.swapaxes(kernel[::-1, ::-1], 2, 3)


def _in_parts(
    f: Callable[..., jax.Array], most: int, *batches: jax.Array, summed: bool = False
) -> jax.Array:
    """Apply `f` to parts of the batches, of at most `most` images; concatenate or sum the results.

    Sums are taken in float32 or wider.
    """
    n = len(batches[0])
    if n <= most:
        return f(*batches)
    even = max(size for size in range(1, most + 1) if n % size == 0)
    size = even if 2 * even >= most else most
    whole = n - n % size
    # A part takes images at regular intervals, so that a batch sharded over devices stays in place.
    parts = tuple(
        jnp.swapaxes(batch[:whole].reshape(size, whole // size, *batch.shape[1:]), 0, 1)
        for batch in batches
    )
    rest = tuple(batch[whole:] for batch in batches)
    if not summed:
        outputs = jnp.swapaxes(lax.map(lambda part: f(*part), parts), 0, 1)
        outputs = outputs.reshape(whole, *outputs.shape[2:])
        return outputs if whole == n else jnp.concatenate([outputs, f(*rest)])
    shape = jax.eval_shape(f, *(part[0] for part in parts))
    wide = jnp.promote_types(shape.dtype, jnp.float32)
    first = jnp.zeros(shape.shape, wide) if whole == n else f(*rest).astype(wide)
    total, _ = lax.scan(lambda total, part: (total + f(*part).astype(wide), None), first, parts)
    return total.astype(shape.dtype)


def output_size(images: jax.Array, kernel: jax.Array, stride: int, padding: int) -> tuple[int, int]:
    """Height and width of the output map."""
    height = (images.shape[1] + 2 * padding - kernel.shape[0]) // stride + 1
    width = (images.shape[2] + 2 * padding - kernel.shape[1]) // stride + 1
    return height, width


def xla_form(images: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """XLA's own convolution."""
    return lax.conv_general_dilated(
        images,
        kernel,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _columns(images: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """The inputs that each output depends on: [n, h_out, w_out, k k c_in], in the kernel's order."""
    height, width = output_size(images, kernel, stride, padding)
    padded = jnp.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    k_h, k_w = kernel.shape[:2]

    def across(x: jax.Array, j: int) -> jax.Array:
        return x[:, :, j : j + stride * (width - 1) + 1 : stride]

    def down(x: jax.Array, i: int) -> jax.Array:
        return x[:, i : i + stride * (height - 1) + 1 : stride]

    # A 7x7 stem's weight gradient took 11 ms with rows joined first, and 14 with all positions
    # joined at once; the input gradient of 3x3 kernels takes up to twice as long that way.
    if k_w > 3:
        joined = jnp.concatenate([across(padded, j) for j in range(k_w)], axis=-1)
        return jnp.concatenate([down(joined, i) for i in range(k_h)], axis=-1)
    slices = [across(down(padded, i), j) for i in range(k_h) for j in range(k_w)]
    return jnp.concatenate(slices, axis=-1)


def patches_form(images: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """The slices of all kernel positions, concatenated, times the kernel as one matrix."""
    columns = _columns(images, kernel, stride, padding)
    n, height, width, depth = columns.shape
    product = columns.reshape(-1, depth) @ kernel.reshape(depth, -1)
    return product.reshape(n, height, width, kernel.shape[3])


def dense_form(images: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """One matrix from all input pixels to all output pixels.

    It consists of the kernel's c_in x c_out blocks, and of zeros where an output pixel does not
    depend on an input pixel.
    """
    n, h_in, w_in, c_in = images.shape
    h_out, w_out = output_size(images, kernel, stride, padding)
    k_h, k_w, _, c_out = kernel.shape
    if (h_out, w_out) == (1, 1) and padding + max(h_in, w_in) <= min(k_h, k_w):
        # A single block, as it lies in the kernel. By the blocks below, its gradient would be a sum
        # of kernels of zeros with one block each.
        matrix = kernel[padding : padding + h_in, padding : padding + w_in].reshape(-1, c_out)
        return (images.reshape(n, -1) @ matrix).reshape(n, 1, 1, c_out)
    zero = jnp.zeros((c_in, c_out), kernel.dtype)

    def block(y_in: int, x_in: int, y_out: int, x_out: int) -> jax.Array:
        i, j = y_in - y_out * stride + padding, x_in - x_out * stride + padding
        return kernel[i, j] if 0 <= i < k_h and 0 <= j < k_w else zero

    matrix = jnp.concatenate(
        [
            jnp.concatenate([block(y, x, v, u) for v in range(h_out) for u in range(w_out)], axis=1)
            for y in range(h_in)
            for x in range(w_in)
        ],
        axis=0,
    )
    return (images.reshape(n, -1) @ matrix).reshape(n, h_out, w_out, c_out)


def winograd_form(images: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """The convolution with fewer multiplications, see `winograd`.

    Raises:
        ValueError: the kernel is not 3x3, or stride or padding is not 1.
    """
    if kernel.shape[:2] != (3, 3) or (stride, padding) != (1, 1):
        raise ValueError(
            f"winograd needs a 3x3 kernel with stride 1 and padding 1, not {kernel.shape[0]}x"
            f"{kernel.shape[1]} with stride {stride} and padding {padding}; use lowering 'auto'"
        )
    return winograd(images, kernel)


FORMS: dict[str, Form] = {
    "xla": xla_form,
    "patches": patches_form,
    "dense": dense_form,
    "winograd": winograd_form,
}
