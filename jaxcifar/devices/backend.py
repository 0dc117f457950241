"""The first use of JAX's devices, which fails where the platform asked for is not there.

Importing this module does not import JAX.
"""

import os
from typing import TYPE_CHECKING

from jaxcifar.common.errors import DeviceError
from jaxcifar.common.messages import printable

if TYPE_CHECKING:
    import jax

VARIABLE = "JAX_PLATFORMS"


def find_devices() -> "list[jax.Device]":
    """`jax.devices()`: all devices of the default platform.

    Raises:
        DeviceError: JAX has no device of the platform that JAX_PLATFORMS, or its configuration,
            asks for.
    """
    import jax

    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX 0.10: an empty one for "cuda"
        asked = getattr(jax.config, "jax_platforms", None)
        raise DeviceError(_explain(asked, error)) from None


def _explain(asked: str | None, error: Exception) -> str:
    first = str(error).strip().split("\n")[0]
    reason = printable(first.partition(f" (set {VARIABLE}")[0])  # JAX's way out: ours follows
    because = f" ({reason})" if reason else ""
    if not asked:
        return f"JAX finds no device{because}: set {VARIABLE}=cpu to compute on the processor"
    set_by = VARIABLE if os.environ.get(VARIABLE) == asked else "JAX's setting jax_platforms"
    return (
        f"{set_by} is {asked!r}, and JAX finds no such device here{because}: unset it or set it to "
        "cpu to compute on the processor; an NVIDIA GPU needs jaxcifar[cuda13] with a driver of at "
        "least 580, or jaxcifar[cuda12] with one of at least 525"
    )
