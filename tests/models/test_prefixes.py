"""Weights whose keys have a prefix load as those without, and the report names the prefix."""

import re

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from safetensors.numpy import save_file

from jaxcifar.common.errors import WeightsError
from jaxcifar.models.pretrained import fill_model, load_pretrained, model_of, to_torch
from jaxcifar.models.resnet import ARCHITECTURES, ResNet
from jaxcifar.models.weights import read
from jaxcifar.models.weights.hub import HubFile
from tests.conftest import assert_trees_identical, random_variables

TINY = {"stage_sizes": (1, 1), "width": 4, "num_classes": 5}
MODEL = ResNet(**TINY)
PREFIXES = [
    "module.",
    "_orig_mod.",
    "model.",
    "backbone.",
    "encoder.",
    "encoder_q.",
    "net.",
    "resnet.",
    "module.encoder_q.",
    "_orig_mod.module.",
    "0.",
    "layer1.",
    "fc.",
]
ONE = np.zeros(1, np.float32)


def tensors_of(prefix="", model=MODEL):
    return {prefix + key: array for key, array in to_torch(random_variables(model)).items()}


def with_counters(tensors):
    means = [key for key in tensors if key.endswith("running_mean")]
    counters = {key.replace("running_mean", "num_batches_tracked"): np.array(3) for key in means}
    return tensors | counters


def fill(tensors, model=MODEL, **options):
    return fill_model(model, tensors, source="file", **options)


def refusal(tensors, model=MODEL, **options):
    with pytest.raises(WeightsError) as caught:
        fill(tensors, model, **options)
    return str(caught.value)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_usual_prefix_in_a_safetensors_file_is_taken_off_and_reported(tmp_path, prefix):
    path = tmp_path / "w.safetensors"
    save_file(with_counters(tensors_of(prefix)), path)
    filled, report = load_pretrained(path, MODEL)
    assert_trees_identical(filled, random_variables(MODEL))
    assert report.prefix == report.to_dict()["prefix"] == prefix
    assert f"the prefix '{prefix}' was taken off" in str(report)
    assert f"{prefix}bn1.num_batches_tracked" in report.unused


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.from_regex(r"[^\W\d]\w{0,8}", fullmatch=True), max_size=4),
    st.lists(st.integers(1, 2), max_size=2),
    st.booleans(),
    st.sampled_from(["imagenet", "cifar"]),
    st.sampled_from(["linear", "sequential"]),
)
def test_any_prefix_changes_no_bit(words, sizes, bottleneck, stem, head):
    model = ResNet(tuple(sizes), bottleneck, num_classes=3, width=4, stem=stem, head=head)
    prefix = "".join(f"{word}." for word in words)
    filled, report = fill(tensors_of(prefix, model), model)
    assert_trees_identical(filled, random_variables(model))
    assert report.prefix == prefix
    assert ("was taken off" in str(report)) == bool(prefix)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "a.module."])
def test_the_counter_of_averaged_models_is_left_out_and_listed(prefix):
    counter = prefix.removesuffix("module.") + "n_averaged"
    filled, report = fill({counter: np.array(3), **tensors_of(prefix)})
    assert_trees_identical(filled, random_variables(MODEL))
    assert report.unused == (counter,)
    assert f"left out: {counter}" in str(report)


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        ("n_averaged", "unexpected, outside 'model.': n_averaged"),
        ("model.n_averaged", "unexpected: n_averaged"),
    ],
)
def test_such_a_counter_elsewhere_is_refused(extra, text):
    assert text in refusal({extra: ONE} | tensors_of("model."))


@pytest.mark.parametrize("extra", ["criterion.weight", "queue", "modelling.x", "bn1.weight"])
def test_any_other_key_beside_the_network_is_refused_by_name_with_the_way_out(extra):
    state = {extra: ONE} | tensors_of("model.")
    text = refusal(state)
    assert "the keys begin with 'model.'" in text.split("\n")[1]
    assert f"unexpected, outside 'model.': {extra}" in text
    filled, _ = fill(saved_by(text, state))
    assert_trees_identical(filled, random_variables(MODEL))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("encoder_q.", "encoder_k."),
        ("module.encoder_q.", "module.encoder_k."),
        ("student.backbone.", "teacher.backbone."),
        ("online.net.", "target.net."),
        ("", "ema."),
        ("model.", "model._orig_mod."),
    ],
)
def test_of_two_networks_none_is_chosen(first, second):
    state = tensors_of(first) | tensors_of(second) | {"queue": ONE}
    text = refusal(state, new_head=True, key=jax.random.key(0))
    assert text.startswith("file has 2 networks")
    assert repr(first) in text
    assert repr(second) in text
    assert len(text.split("\n")) == 2
    assert "unexpected" not in text
    filled, _ = fill(saved_by(text, state))
    assert_trees_identical(filled, random_variables(MODEL))


def saved_by(text, state):
    """What the line of Python in a message saves."""
    saved = {}

    class torch:
        save = staticmethod(lambda value, name: saved.update({name: value}))

    exec(re.search(r"torch\.save\(.*", text)[0], {"torch": torch, "state": state})
    return saved["weights.pth"]


@pytest.mark.parametrize("prefix", ["backbone.", "model.backbone.", "module.encoder."])
@pytest.mark.parametrize("parent", [True, False])
def test_a_projection_head_beside_or_below_is_left_out_if_the_head_is_new(prefix, parent):
    body = {k: v for k, v in tensors_of(prefix).items() if not k.startswith(f"{prefix}fc.")}
    above = prefix.rpartition(prefix.split(".")[-2])[0] if parent else prefix
    head = {f"{above}fc.0.weight": ONE, f"{above}fc.2.weight": ONE}
    filled, report = fill(body | head, new_head=True, key=jax.random.key(0))
    assert report.unused == tuple(sorted(head))
    assert_trees_identical(filled["batch_stats"], random_variables(MODEL)["batch_stats"])
    assert "unexpected" in refusal(body | head)


@pytest.mark.parametrize("name", ["head.fc", "classifier", "linear", "projector", "backbone.head"])
def test_a_head_of_another_name_is_named_and_left_out_only_if_the_head_is_new(name):
    prefix = "backbone." if name.startswith("backbone") else ""
    renamed = {
        key.replace(f"{prefix}fc.", f"{name}."): array for key, array in tensors_of(prefix).items()
    }
    text = refusal(renamed)
    assert f"the file's head is {name.removeprefix(prefix)}.weight: rename its keys to fc" in text
    assert "use new_head" in text
    _, report = fill(renamed, new_head=True, key=jax.random.key(0))
    assert report.unused == (f"{name}.bias", f"{name}.weight")


def test_weights_of_the_hub_load_without_their_prefix(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_file(tensors_of("model."), path)
    monkeypatch.setattr(read, "fetch", lambda _: HubFile(path, path.name, "ab" * 32, {}))
    filled, report = load_pretrained("someone/resnet", MODEL)
    assert_trees_identical(filled, random_variables(MODEL))
    assert report.prefix == "model."


def test_model_of_reads_names_without_the_prefix(monkeypatch):
    monkeypatch.setitem(ARCHITECTURES, "tiny", {"stage_sizes": (1, 1), "bottleneck": False})
    model = ResNet(**TINY, stem="cifar", head="sequential")
    tensors = tensors_of("_orig_mod.module.", model)
    assert model_of(tensors, "tiny") == model_of(tensors_of("", model), "tiny") == model


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "wrapper",
    [
        "parallel",
        *(pytest.param(w, marks=pytest.mark.slow) for w in ("compiled", "averaged")),
        "compiled parallel",
    ],
)
def test_the_wrappers_of_torch_load_as_the_bare_network(tmp_path, wrapper, suffix):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file as save_tensors

    from benchmarks.peers.torch_resnet import ResNet as Twin

    bare = Twin(MODEL.stage_sizes, bottleneck=False, width=4, num_classes=5)
    wrap = {
        "parallel": torch.nn.DataParallel,
        "compiled": torch.compile,
        "averaged": torch.optim.swa_utils.AveragedModel,
        "compiled parallel": lambda model: torch.compile(torch.nn.DataParallel(model)),
    }[wrapper]
    prefix = {"compiled": "_orig_mod.", "compiled parallel": "_orig_mod.module."}
    files = []
    for model in (bare, wrap(bare)):
        files.append(tmp_path / f"{len(files)}.{suffix}")
        save = torch.save if suffix == "pth" else save_tensors
        save(dict(model.state_dict()), files[-1])
    expected, _ = load_pretrained(files[0], MODEL)
    filled, report = load_pretrained(files[1], MODEL)
    assert_trees_identical(filled, expected)
    assert report.prefix == prefix.get(wrapper, "module.")
    assert ("n_averaged" in report.unused) == (wrapper == "averaged")


def test_a_lightning_checkpoint_loads(tmp_path):
    torch = pytest.importorskip("torch")
    state = {key: torch.tensor(array) for key, array in tensors_of("net.").items()}
    path = tmp_path / "last.ckpt"
    torch.save({"epoch": 3, "state_dict": state, "hyper_parameters": {"lr": 0.1}}, path)
    filled, report = load_pretrained(path, MODEL)
    assert_trees_identical(filled, random_variables(MODEL))
    assert report.prefix == "net."
