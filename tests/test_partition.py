import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar import partition
from jaxcifar.resnet import resnet18


@pytest.fixture(scope="module")
def params():
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    model = resnet18()
    init = lambda key, x: model.init(key, x, train=False)  # noqa: E731
    return jax.eval_shape(init, jax.random.key(0), image)["params"]


def test_names_are_torchvisions_with_dots(params):
    names = partition.named_leaves(params)
    assert names["layer1.0.conv1.kernel"].shape == (3, 3, 64, 64)
    assert names["layer2.0.downsample.0.kernel"].shape == (1, 1, 64, 128)
    assert names["layer2.0.downsample.1.scale"].shape == (128,)
    assert names["fc.bias"].shape == (10,)
    assert len(names) == 62


def test_names_come_in_the_trees_order(params):
    leaves = partition.named_leaves(params).values()
    assert all(a is b for a, b in zip(leaves, jax.tree.leaves(params), strict=True))


def test_the_kernel_mask_is_true_on_the_21_weights_and_keeps_the_tree(params):
    mask = partition.kernel_mask(params)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    named = partition.named_leaves(mask)
    assert sum(named.values()) == 21
    assert {name.rsplit(".")[-1] for name, value in named.items() if value} == {"kernel"}
    assert {name.rsplit(".")[-1] for name, value in named.items() if not value} == {"scale", "bias"}


def test_a_module_called_kernel_is_not_a_kernel():
    mask = partition.kernel_mask({"kernel": {"bias": np.zeros(2)}, "my_kernel": np.zeros(2)})
    assert mask == {"kernel": {"bias": False}, "my_kernel": False}


def test_parameters_are_counted():
    tree = {"a": np.zeros((2, 3)), "b": {"c": np.zeros(()), "d": np.zeros((4, 0))}}
    assert partition.count_params(tree) == 7


def test_the_summary_lists_modules_from_stem_to_head_and_the_total(params):
    lines = partition.summarize(params).splitlines()
    modules = ["module", "conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc", "total"]
    assert [line.split()[0] for line in lines] == modules
    assert lines[1].split() == ["conv1", "1", "9,408"]
    assert lines[-2].split() == ["fc", "2", "5,130"]
    assert lines[-1].split() == ["total", "62", "11,181,642"]
    assert len({len(line) for line in lines}) == 1
