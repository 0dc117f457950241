import jax
import pytest

from jaxcifar.common.errors import FreezeError
from jaxcifar.step.freeze import FREEZE_A, FREEZE_B, label_params, layer_decay
from jaxcifar.step.freeze_text import parse_rules


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("none", (("*", "trained"),)),
        ("freeze_a", FREEZE_A),
        ("freeze-b", FREEZE_B),
        ("conv1 bn1 layer1", FREEZE_A),
        ("conv1,bn1, layer1", FREEZE_A),
        ("all_but:fc", FREEZE_B),
        ("up-to:layer1", FREEZE_A),
        ("layer4=0.1@5 fc=trained *=frozen", (("layer4", "0.1@5"), *FREEZE_B)),
    ],
)
def test_text_stands_for_rules(params, text, rules):
    assert label_params(params, parse_rules(text, params)) == label_params(params, rules)


def test_layer_decay_is_the_function(params):
    labels = label_params(params, layer_decay(params, 0.5))
    assert label_params(params, parse_rules("layer_decay:0.5", params)) == labels


def test_a_frozen_front_and_decaying_rates_above_it_combine(params):
    labels = label_params(params, parse_rules("up_to:layer1 layer_decay:0.5", params))
    by_child = {child: set(jax.tree.leaves(labels[child])) for child in labels}
    assert [by_child[c] for c in ("conv1", "bn1", "layer1")] == [{"frozen"}] * 3
    assert by_child["layer2"] == {"0.125"}
    assert by_child["fc"] == {"trained"}


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
            "no rule matches bn1.bias, bn1.scale, conv1.kernel and 47 more; end the rules with",
        ),
        ("layer1 layer1.0", "'layer1.0' has no effect: earlier rules match all its parameters"),
        ("layer1 up_to:layer1.0 up_to:bn1", "'up_to:bn1' has no effect: earlier rules match"),
        ("up_to:fc", "nothing is trained in the first epoch; train at least the head"),
        ("**", "nothing is trained"),
        ("layer1.0.bn1.weight", "BatchNorm layer1.0.bn1 would be partly frozen"),
        ("layer1.0.bn1.bias=0.1@5 *=trained", "layer1.0.bn1 would be partly frozen"),
        ("*=frozen", "nothing is trained"),
        ("*=trained@2", "nothing is trained in the first epoch"),
        ("fc=half *=frozen", "cannot read the label 'half'"),
        ("fc=-1 *=frozen", "cannot read the label '-1'"),
        ("fc=0 *=trained", "cannot read the label '0'"),
        ("fc=trained@0 *=frozen", "cannot read the label 'trained@0'"),
        ("", "no freeze rules are given; write none"),
        ("upto:layer1", "did you mean 'up_to:'"),
        ("up_to:layer7", "up_to:layer7 is not a child of the network or a block; did you"),
        ("layer_decay:2", "needs a number above 0 and at most 1"),
        ("layer_decay:much", "needs a number above 0 and at most 1"),
    ],
)
def test_invalid_rules_are_refused_with_the_way_out(params, text, message):
    with pytest.raises(FreezeError, match=message):
        label_params(params, parse_rules(text, params))
