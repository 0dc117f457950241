import jax
import jax.numpy as jnp
import pytest

from jaxcifar.models.resnet import resnet18


@pytest.fixture(scope="session")
def params():
    """The shapes of a ResNet-18's parameters."""
    image = jnp.zeros((1, 32, 32, 3))
    key = jax.random.key(0)
    return jax.eval_shape(lambda: resnet18().init(key, image, train=False))["params"]
