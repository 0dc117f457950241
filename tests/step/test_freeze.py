import functools
import time

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from jaxcifar.models.names import named_leaves, torch_name
from jaxcifar.models.resnet import batch_norm_names, resnet18
from jaxcifar.step import freeze
from jaxcifar.step.freeze import (
    FREEZE_A,
    FREEZE_B,
    FreezeError,
    freeze_all_but,
    freeze_up_to,
    label_params,
    layer_decay,
    parse_rules,
)


@functools.cache
def resnet18_shapes():
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    model = resnet18()
    init = lambda key, x: model.init(key, x, train=False)  # noqa: E731
    return jax.eval_shape(init, jax.random.key(0), image)["params"]


@pytest.fixture
def params():
    return resnet18_shapes()


def test_names_are_torchvisions_with_dots(params):
    names = freeze.named_leaves(params)
    assert names["layer1.0.conv1.kernel"].shape == (3, 3, 64, 64)
    assert names["layer2.0.downsample.0.kernel"].shape == (1, 1, 64, 128)
    assert names["layer2.0.downsample.1.scale"].shape == (128,)
    assert names["fc.bias"].shape == (10,)
    assert len(names) == 62


def test_names_come_in_the_trees_order(params):
    leaves = freeze.named_leaves(params).values()
    assert all(a is b for a, b in zip(leaves, jax.tree.leaves(params), strict=True))


def test_the_bias_mask_is_true_on_the_20_batch_norms_biases_and_not_on_the_heads(params):
    named = freeze.named_leaves(freeze.batch_norm_bias_mask(params))
    chosen = {name for name, is_one in named.items() if is_one}
    assert chosen == {f"{name}.bias" for name in batch_norm_names(resnet18())}
    assert len(named) == 62


def test_the_kernel_mask_is_true_on_the_21_weights_and_keeps_the_tree(params):
    mask = freeze.kernel_mask(params)
    assert jax.tree.structure(mask) == jax.tree.structure(params)
    named = freeze.named_leaves(mask)
    assert sum(named.values()) == 21
    assert {name.rsplit(".")[-1] for name, value in named.items() if value} == {"kernel"}
    assert {name.rsplit(".")[-1] for name, value in named.items() if not value} == {"scale", "bias"}


def test_a_module_called_kernel_is_not_a_kernel():
    mask = freeze.kernel_mask({"kernel": {"bias": np.zeros(2)}, "my_kernel": np.zeros(2)})
    assert mask == {"kernel": {"bias": False}, "my_kernel": False}


def test_parameters_are_counted():
    tree = {"a": np.zeros((2, 3)), "b": {"c": np.zeros(()), "d": np.zeros((4, 0))}}
    assert freeze.count_params(tree) == 7


def test_the_summary_lists_modules_from_stem_to_head_and_the_total(params):
    lines = freeze.summarize(params).splitlines()
    modules = ["module", "conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc", "total"]
    assert [line.split()[0] for line in lines] == modules
    assert lines[1].split() == ["conv1", "1", "9,408"]
    assert lines[-2].split() == ["fc", "2", "5,130"]
    assert lines[-1].split() == ["total", "62", "11,181,642"]
    assert len({len(line) for line in lines}) == 1


def test_the_summary_says_what_of_it_is_trained_and_how(params):
    rules = parse_rules("up_to:layer1 fc=trained layer4=0.1 *=0.01@5", params)
    lines = freeze.summarize(params, label_params(params, rules)).splitlines()
    assert lines[0].split() == ["module", "leaves", "parameters", "trainable", "as"]
    assert lines[3].split() == ["layer1", "12", "147,968", "0", "frozen"]
    assert lines[4].split() == ["layer2", "15", "525,568", "525,568", "0.01@5"]
    assert lines[7].split() == ["fc", "2", "5,130", "5,130", "trained"]
    assert lines[8].split() == ["total", "62", "11,181,642", "11,024,138"]


class TestNames:
    def test_torchs_names_are_those_of_its_resnet(self, params):
        torch_resnet = pytest.importorskip("benchmarks.peers.torch_resnet")
        twin = torch_resnet.ResNet((2, 2, 2, 2))
        ours = {torch_name(name) for name in named_leaves(params)}
        assert ours == {name for name, _ in twin.named_parameters()}

    @pytest.mark.parametrize(
        ("pattern", "count"),
        [
            ("layer1", 12),
            ("layer1.0", 6),
            ("layer1.0.bn1", 2),
            ("layer1.0.bn1.weight", 1),
            ("layer1.0.bn1.scale", 1),
            ("layer1.0.conv1.weight", 1),
            ("layer?.0.conv1", 4),
            ("layer*.*.bn?", 32),
            ("**.downsample", 9),
            ("**.bn*", 34),
            ("bn1", 2),
            ("*", 62),
        ],
    )
    def test_a_pattern_matches_whole_words_from_the_front(self, params, pattern, count):
        rest = () if pattern == "*" else (("*", "trained"),)
        names = named_leaves(label_params(params, ((pattern, "0.5"), *rest)))
        assert list(names.values()).count("0.5") == count

    def test_many_stars_take_no_time(self, params):
        """As one regular expression they took ten times as long for every two of them."""
        start = time.perf_counter()
        for word in ("*" * 40 + "x", "*a" * 40, "**." * 300 + "x", "?*" * 200):
            with pytest.raises(FreezeError, match="matches no parameter"):
                parse_rules(word, params)
        assert time.perf_counter() - start < 5

    def test_brackets_and_other_signs_are_themselves(self, params):
        for word in ("[cl]*", "!conv1", "(conv1", "conv1|fc", "conv1$", "^conv1"):
            with pytest.raises(FreezeError, match="matches no parameter"):
                parse_rules(word, params)

    def test_layer1_is_not_layer10(self):
        leaf = np.zeros(1)
        params = {f"layer{i}": {"0": {"conv1": {"kernel": leaf}}} for i in (1, 10)}
        labels = label_params(params, (("layer1", "frozen"), ("*", "trained")))
        assert set(jax.tree.leaves(labels["layer1"])) == {"frozen"}
        assert set(jax.tree.leaves(labels["layer10"])) == {"trained"}


class TestRules:
    def test_freeze_a_freezes_the_first_five_children_and_freeze_b_all_but_the_head(self, params):
        for rules, children in (
            (FREEZE_A, {"conv1", "bn1", "layer1"}),
            (FREEZE_B, set(params) - {"fc"}),
        ):
            for name, label in named_leaves(label_params(params, rules)).items():
                assert (label == "frozen") == (name.split(".")[0] in children), name

    @pytest.mark.parametrize(
        ("text", "rules"),
        [
            ("none", (("*", "trained"),)),
            ("freeze_a", FREEZE_A),
            ("freeze-b", FREEZE_B),
            ("conv1 bn1 layer1", FREEZE_A),
            ("conv1,bn1, layer1", FREEZE_A),
            ("all_but:fc", FREEZE_B),
            ("up-to:layer1", None),
            ("layer4=0.1@5 fc=trained *=frozen", (("layer4", "0.1@5"), *FREEZE_B)),
        ],
    )
    def test_text_stands_for_rules(self, params, text, rules):
        expected = FREEZE_A if rules is None else rules
        assert label_params(params, parse_rules(text, params)) == label_params(params, expected)

    def test_the_first_rule_that_matches_decides(self, params):
        rules = (("layer4.1.bn2", "frozen"), ("layer4", "0.1"), ("*", "trained"))
        labels = label_params(params, rules)
        assert labels["layer4"]["1"]["bn2"] == {"scale": "frozen", "bias": "frozen"}
        assert labels["layer4"]["1"]["bn1"] == {"scale": "0.1", "bias": "0.1"}

    def test_up_to_a_block_freezes_the_blocks_before_it_and_itself(self, params):
        labels = label_params(params, freeze_up_to(params, "layer2.0"))
        frozen = {n for n, label in named_leaves(labels).items() if label == "frozen"}
        before = ("conv1.", "bn1.", "layer1.", "layer2.0.")
        assert frozen == {n for n in named_leaves(params) if n.startswith(before)}

    def test_layer_decay_multiplies_once_a_child(self, params):
        labels = label_params(params, layer_decay(params, 0.5))
        found = {child: set(jax.tree.leaves(labels[child])) for child in labels}
        assert found == {
            "fc": {"trained"},
            "layer4": {"0.5"},
            "layer3": {"0.25"},
            "layer2": {"0.125"},
            "layer1": {"0.0625"},
            "conv1": {"0.03125"},
            "bn1": {"0.03125"},
        }
        assert label_params(params, parse_rules("layer_decay:0.5", params)) == labels

    def test_small_rates_of_layer_decay_are_kept_exactly(self, params):
        labels = label_params(params, layer_decay(params, 0.03))
        assert freeze.treatment(labels["conv1"]["kernel"]).scale == 0.03**5

    def test_a_frozen_front_and_decaying_rates_above_it_combine(self, params):
        labels = label_params(params, parse_rules("up_to:layer1 layer_decay:0.5", params))
        found = {child: set(jax.tree.leaves(labels[child])) for child in labels}
        assert [found[c] for c in ("conv1", "bn1", "layer1")] == [{"frozen"}] * 3
        assert found["layer2"] == {"0.125"}
        assert found["fc"] == {"trained"}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("layer5", "'layer5' matches no parameter; did you mean 'layer"),
            ("layer1.0.covn1", "did you mean 'layer1.0.conv1'"),
            ("layer1.0.conv1.wieght", "did you mean 'layer1.0.conv1.weight'"),
            ("layer", "'layer' matches no parameter; did you mean 'layer"),
            ("xyzzy", "choose from conv1, bn1, layer1"),
            (
                "layer1=frozen",
                "no rule covers bn1.bias, bn1.scale, conv1.kernel and 47 more leaves",
            ),
            ("layer1 layer1.0", "'layer1.0' decides nothing: the rules before it"),
            ("layer1 up_to:layer1.0 up_to:bn1", "'up_to:bn1' decides nothing: the rules before"),
            ("up_to:fc", "nothing is trainable"),
            ("**", "nothing is trainable"),
            ("layer1.0.bn1.weight", "BatchNorm layer1.0.bn1 would be frozen by half"),
            ("layer1.0.bn1.bias=0.1@5 *=trained", "layer1.0.bn1 would be frozen by half"),
            ("*=frozen", "nothing is trainable"),
            ("*=trained@2", "nothing is trainable in the first epoch"),
            ("fc=half *=frozen", "cannot read the label 'half'"),
            ("fc=-1 *=frozen", "cannot read the label '-1'"),
            ("fc=0 *=trained", "cannot read the label '0'"),
            ("fc=trained@0 *=frozen", "cannot read the label 'trained@0'"),
            ("", "no rules are given"),
            ("upto:layer1", "did you mean 'up_to:'"),
            ("up_to:layer7", "up_to:layer7 names no child of the network and no block; did you"),
            ("layer_decay:2", "needs a number above 0 and at most 1"),
            ("layer_decay:much", "needs a number above 0 and at most 1"),
        ],
    )
    def test_what_cannot_be_is_refused_with_the_way_out(self, params, text, message):
        with pytest.raises(FreezeError, match=message):
            label_params(params, parse_rules(text, params))


class TestWhatFollows:
    def test_splitting_and_merging_gives_the_same_leaves(self, params):
        labels = label_params(params, FREEZE_A)
        trainable, frozen = freeze.split_params(params, labels)
        assert len(jax.tree.leaves(trainable)) == 47
        assert len(jax.tree.leaves(frozen)) == 15
        assert freeze.merge_params(trainable, frozen) == params

    @given(st.lists(st.sampled_from(["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"])))
    def test_mask_batch_norms_and_prefix_agree_with_the_frozen_children(self, children):
        params = resnet18_shapes()
        rules = (*((child, "frozen") for child in dict.fromkeys(children)), ("*", "trained"))
        labels = label_params(params, rules)
        for name, trained in named_leaves(freeze.trainable_mask(labels)).items():
            assert trained == (name.split(".")[0] not in children)
        expected = {n for n in batch_norm_names(resnet18()) if n.split(".")[0] in children}
        assert freeze.frozen_batch_norms(labels) == expected
        order = ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
        prefix = freeze.frozen_prefix(labels)
        assert prefix == order[: len(prefix)]
        assert set(prefix) <= set(children)
        assert len(prefix) == len(order) or order[len(prefix)] not in children

    def test_a_block_that_is_partly_frozen_ends_the_prefix(self, params):
        labels = label_params(params, freeze_up_to(params, "layer2.0"))
        assert freeze.frozen_prefix(labels) == ["conv1", "bn1", "layer1"]

    def test_what_starts_later_is_frozen_until_then(self, params):
        rules = parse_rules("fc=trained layer4=0.1@3 layer3=trained@5 *=frozen", params)
        labels = label_params(params, rules)
        assert freeze.stage_starts(labels) == [1, 3, 5]
        for epoch, trained in ((1, {"fc"}), (2, {"fc"}), (3, {"fc", "layer4"})):
            now = freeze.labels_at(labels, epoch)
            found = {c for c in now if set(jax.tree.leaves(now[c])) != {"frozen"}}
            assert found == trained
        assert freeze.labels_at(labels, 5) == labels

    def test_all_but_trains_that_alone(self, params):
        labels = label_params(params, freeze_all_but("layer2.1"))
        trained = {n for n, label in named_leaves(labels).items() if label != "frozen"}
        assert trained == {n for n in named_leaves(params) if n.startswith("layer2.1.")}
