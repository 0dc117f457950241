import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given

from jaxcifar.models.names import named_leaves
from jaxcifar.models.resnet import batch_norm_names, resnet18
from jaxcifar.step import freeze
from jaxcifar.step.freeze import (
    FREEZE_A,
    FREEZE_B,
    freeze_all_but,
    freeze_up_to,
    label_params,
    layer_decay,
)
from jaxcifar.step.freeze_text import parse_rules


class TestRules:
    def test_freeze_a_freezes_the_first_five_children_and_freeze_b_all_but_the_head(self, params):
        for rules, children in (
            (FREEZE_A, {"conv1", "bn1", "layer1"}),
            (FREEZE_B, set(params) - {"fc"}),
        ):
            for name, label in named_leaves(label_params(params, rules)).items():
                assert (label == "frozen") == (name.split(".")[0] in children), name

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
        assert {child: set(jax.tree.leaves(labels[child])) for child in labels} == {
            "fc": {"trained"},
            "layer4": {"0.5"},
            "layer3": {"0.25"},
            "layer2": {"0.125"},
            "layer1": {"0.0625"},
            "conv1": {"0.03125"},
            "bn1": {"0.03125"},
        }

    def test_small_rates_of_layer_decay_are_exact(self, params):
        labels = label_params(params, layer_decay(params, 0.03))
        assert freeze.treatment(labels["conv1"]["kernel"]).scale == 0.03**5

    @pytest.mark.parametrize("decay", ["0.0003", "0.00001", "1e-12"])
    def test_a_share_of_many_decimals_is_read(self, params, decay):
        labels = label_params(params, parse_rules(f"layer_decay:{decay}", params))
        scale = freeze.treatment(labels["conv1"]["kernel"]).scale
        assert scale == float(decay) ** 5 > 0

    def test_all_but_trains_only_that(self, params):
        labels = label_params(params, freeze_all_but("layer2.1"))
        trained = {n for n, label in named_leaves(labels).items() if label != "frozen"}
        assert trained == {n for n in named_leaves(params) if n.startswith("layer2.1.")}


class TestLabels:
    def test_splitting_and_merging_gives_the_same_leaves(self, params):
        labels = label_params(params, FREEZE_A)
        trainable, frozen = freeze.split_params(params, labels)
        assert len(jax.tree.leaves(trainable)) == 47
        assert len(jax.tree.leaves(frozen)) == 15
        assert freeze.merge_params(trainable, frozen) == params

    @given(st.lists(st.sampled_from(["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"])))
    def test_mask_batch_norms_and_prefix_agree_with_the_frozen_children(self, params, children):
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

    def test_a_partly_frozen_block_ends_the_prefix(self, params):
        labels = label_params(params, freeze_up_to(params, "layer2.0"))
        assert freeze.frozen_prefix(labels) == ["conv1", "bn1", "layer1"]

    def test_parameters_that_start_later_are_frozen_until_then(self, params):
        rules = parse_rules("fc=trained layer4=0.1@3 layer3=trained@5 *=frozen", params)
        labels = label_params(params, rules)
        assert freeze.stage_starts(labels) == [1, 3, 5]
        for epoch, expected in ((1, {"fc"}), (2, {"fc"}), (3, {"fc", "layer4"})):
            now = freeze.labels_at(labels, epoch)
            trained = {c for c in now if set(jax.tree.leaves(now[c])) != {"frozen"}}
            assert trained == expected
        assert freeze.labels_at(labels, 5) == labels


def test_up_to_a_block_stops_at_that_block_of_a_long_stage():
    """Block 1 is not block 10."""
    blocks = {str(i): {"conv1": {"kernel": np.zeros(1)}} for i in range(11)}
    params = {"conv1": {"kernel": np.zeros(1)}, "layer1": blocks, "fc": {"kernel": np.zeros(1)}}
    frozen = [pattern for pattern, label in freeze_up_to(params, "layer1.1") if label == "frozen"]
    assert frozen == ["conv1", "layer1.0", "layer1.1"]
