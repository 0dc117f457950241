import jax
import jax.numpy as jnp

from jaxcifar.common.target import built_for, target_platform
from jaxcifar.models.conv import conv2d


def test_the_target_is_the_default_device_unless_something_is_built_for_another():
    assert target_platform() == jax.default_backend()
    with built_for("gpu"):
        assert target_platform() == "gpu"
        with built_for("tpu"):
            assert target_platform() == "tpu"
        assert target_platform() == "gpu"
    assert target_platform() == jax.default_backend()


def test_a_program_built_for_a_gpu_has_plain_convolutions():
    images, kernel = jnp.zeros((2, 8, 8, 32)), jnp.zeros((3, 3, 32, 32))

    def convolutions(platform):
        with built_for(platform):
            text = jax.jit(lambda x, w: conv2d(x, w, padding=1)).lower(images, kernel).as_text()
        return text.count("stablehlo.convolution")

    assert (convolutions("gpu"), convolutions("cpu")) == (1, 0)
