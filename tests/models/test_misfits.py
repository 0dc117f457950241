"""A message about weights that do not fit has at most a dozen lines, and keeps its hints."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from jaxcifar.common.errors import WeightsError
from jaxcifar.models.misfits import MAX_LINES
from jaxcifar.models.pretrained import fill_model, list_misfits, to_torch
from jaxcifar.models.resnet import ResNet, make_resnet
from tests.conftest import random_variables

TINY = {"stage_sizes": (1, 1), "width": 4, "num_classes": 5}
MODEL = ResNet(**TINY)
ONE = np.zeros(1, np.float32)


def tensors_of(model=MODEL, prefix=""):
    return {prefix + key: array for key, array in to_torch(random_variables(model)).items()}


def lines_of(model, tensors):
    with pytest.raises(WeightsError) as caught:
        fill_model(model, tensors, source="file")
    return str(caught.value).split("\n")


@pytest.mark.parametrize("prefix", ["", "foo.", "module.encoder_q."])
@pytest.mark.parametrize("file", ["resnet18", "resnet34"])
def test_another_depth_is_a_few_lines_with_the_prefix_first_and_the_hints_last(prefix, file):
    model = make_resnet("resnet50", 7, stem="cifar", head="sequential")
    lines = lines_of(model, tensors_of(make_resnet(file), prefix) | {"foo.x": ONE, "y": ONE})
    assert len(lines) <= MAX_LINES
    assert (f"the keys begin with '{prefix}'" in lines[1]) == bool(prefix)
    text = "\n".join(lines)
    assert "missing: layer1.0.conv3.weight and " in text
    for hint in (
        f"these are the weights of a {file}: build that model",
        "use adapt_stem",
        "the file has a linear head",
        "use new_head",
    ):
        assert hint in text


def test_keys_are_grouped_by_child_and_the_first_is_a_convolution():
    tensors = {k: v for k, v in tensors_of().items() if not k.startswith(("layer1", "fc"))}
    wide = {k: np.zeros((9, *v.shape[1:])) for k, v in tensors.items() if k.startswith("layer2")}
    assert lines_of(MODEL, tensors | wide | {"layer3.a": ONE, "layer3.b": ONE}) == [
        "file does not fit the model:",
        "  missing: layer1.0.conv1.weight and 9 more of layer1",
        "  missing: fc.weight and 1 more of fc",
        "  unexpected: layer3.a and 1 more of layer3",
        "  layer2.0.conv1.weight: (9, 4, 3, 3) in the file, (8, 4, 3, 3) in the model, "
        f"and {len(wide) - 1} more of layer2",
        "  the file has no head: train a new one, by new_head (--new-head of jaxcifar train)",
    ]


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_file_makes_a_message_of_more_than_a_dozen_lines(data):
    tensors = tensors_of(prefix=data.draw(st.sampled_from(["", "foo.", "a.b."])))
    for key in data.draw(st.lists(st.sampled_from(sorted(tensors)), max_size=20)):
        change = data.draw(st.sampled_from(["gone", "shape", "dtype", "nan", "negative"]))
        shape = tensors[key].shape if key in tensors else (1,)
        tensors[key] = {
            "gone": ONE,
            "shape": np.zeros((3, *shape)),
            "dtype": np.zeros(shape, np.int8),
            "nan": np.full(shape, np.nan),
            "negative": np.full(shape, -1.0),
        }[change]
        if change == "gone":
            del tensors[key]
    extra = data.draw(st.lists(st.text(max_size=8), max_size=30))
    heads = data.draw(st.lists(st.sampled_from(["head.weight", "fc.0.weight", "x.fc.a"])))
    tensors |= dict.fromkeys([*extra, *heads], ONE)
    model = MODEL.clone(stem=data.draw(st.sampled_from(["cifar", "imagenet"])))
    try:
        fill_model(model, tensors, source="file")
    except WeightsError as error:
        lines = str(error).split("\n")
        assert len(lines) <= MAX_LINES
        assert all(line.isprintable() for line in lines)
        assert lines[0].startswith("file")


def test_the_full_list_can_be_had():
    tensors = tensors_of(prefix="module.")
    gone = [key for key in tensors if "layer1" in key]
    for key in gone:
        del tensors[key]
    expected = {f"missing: {key.removeprefix('module.')}" for key in gone}
    assert set(list_misfits(MODEL, tensors)) == expected
    assert list_misfits(MODEL, tensors_of()) == []


@pytest.mark.parametrize(
    "keys",
    [
        ("cls_token", "pos_embed", "blocks.0.attn.qkv.weight", "head.weight"),
        ("features.0.weight", "features.0.bias", "classifier.0.weight"),
        ("backbone.vgg.0.weight", "rpn.head.weight", "roi_heads.weight", "fc.weight"),
        ("resnet.embedder.embedder.convolution.weight", "a", "b"),
        ("visual.conv1.weight", "visual.ln_pre.weight", "text.weight"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_other_networks_are_called_so_by_their_first_three_keys(keys, prefix):
    lines = lines_of(MODEL, {prefix + key: ONE for key in keys})
    assert "not the weights of a ResNet with torchvision's key names" in lines[0]
    assert ", ".join(prefix + key for key in keys[:3]) in lines[0]
    assert len(lines) == 2
    assert "new_head" not in "".join(lines)
    assert "missing" not in "".join(lines)


def test_a_file_without_tensors_is_called_so():
    assert "(it has no tensors)" in lines_of(MODEL, {})[0]


@pytest.mark.parametrize("change", ["wide", "squeeze", "grouped"])
def test_no_architecture_is_named_that_the_file_does_not_have(change):
    tensors = tensors_of(make_resnet("resnet34"))
    inner = "layer1.0.conv2.weight"
    if change == "squeeze":
        tensors["layer1.0.se.fc1.weight"] = ONE
    else:
        tensors[inner] = np.zeros((128, 128, 3, 3) if change == "wide" else (64, 2, 3, 3))
    text = "\n".join(lines_of(make_resnet("resnet18"), tensors))
    assert "build that model" not in text
    assert ("wider or grouped" in text) == (change != "squeeze")


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"width": 8}, "build the model with width=8 (--width 8)"),
        ({"stem": "cifar"}, "build the model with stem='cifar' (--stem cifar)"),
        ({"head": "sequential"}, "build the model with head='sequential' (--head sequential)"),
        ({"num_classes": 7}, "use new_head (--new-head)"),
    ],
)
def test_a_hint_names_the_argument_and_the_option(changes, hint):
    lines = lines_of(MODEL, tensors_of(ResNet(**TINY | changes)))
    assert [line for line in lines if hint in line], lines
    assert sum("build the model" in line for line in lines) == ("build" in hint)
