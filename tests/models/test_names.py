import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.models.names import (
    batch_norm_bias_mask,
    count_params,
    is_below,
    kernel_mask,
    named_leaves,
    torch_name,
)
from jaxcifar.models.resnet import batch_norm_names, resnet18


@pytest.fixture(scope="module")
def params():
    image = jnp.zeros((1, 32, 32, 3))
    key = jax.random.key(0)
    return jax.eval_shape(lambda: resnet18().init(key, image, train=False))["params"]


def test_names_are_paths_in_the_tree_with_dots(params):
    named = named_leaves(params)
    assert named["layer1.0.conv1.kernel"].shape == (3, 3, 64, 64)
    assert named["layer2.0.downsample.0.kernel"].shape == (1, 1, 64, 128)
    assert named["layer2.0.downsample.1.scale"].shape == (128,)
    assert named["fc.bias"].shape == (10,)
    assert len(named) == 62


def test_names_come_in_the_trees_order(params):
    leaves = named_leaves(params).values()
    assert all(a is b for a, b in zip(leaves, jax.tree.leaves(params), strict=True))


def test_torchs_names_are_those_of_its_resnet(params):
    torch_resnet = pytest.importorskip("benchmarks.peers.torch_resnet")
    twin = torch_resnet.ResNet((2, 2, 2, 2))
    ours = {torch_name(name) for name in named_leaves(params)}
    assert ours == {name for name, _ in twin.named_parameters()}


def test_layer1_is_not_layer10():
    assert is_below("layer1.0.bn1", frozenset({"layer1"}))
    assert not is_below("layer10.0.bn1", frozenset({"layer1"}))
    assert not is_below("layer1", frozenset({"layer1.0"}))


def test_the_bias_mask_is_true_for_the_biases_of_the_20_batch_norms_only(params):
    named = named_leaves(batch_norm_bias_mask(params))
    chosen = {name for name, value in named.items() if value}
    assert chosen == {f"{name}.bias" for name in batch_norm_names(resnet18())}
    assert len(named) == 62


def test_the_kernel_mask_is_true_for_the_21_weights_and_has_the_same_tree(params):
    mask = kernel_mask(params)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    named = named_leaves(mask)
    assert sum(named.values()) == 21
    assert {name.rsplit(".")[-1] for name, value in named.items() if value} == {"kernel"}
    assert {name.rsplit(".")[-1] for name, value in named.items() if not value} == {"scale", "bias"}


def test_a_module_called_kernel_is_not_a_kernel():
    mask = kernel_mask({"kernel": {"bias": np.zeros(2)}, "my_kernel": np.zeros(2)})
    assert mask == {"kernel": {"bias": False}, "my_kernel": False}


def test_parameters_are_counted():
    tree = {"a": np.zeros((2, 3)), "b": {"c": np.zeros(()), "d": np.zeros((4, 0))}}
    assert count_params(tree) == 7
