import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings

from jaxcifar.common.errors import WeightsError
from jaxcifar.models.names import named_leaves, torch_name
from jaxcifar.models.preprocessing import Preprocessing
from jaxcifar.models.pretrained import (
    export_weights,
    fill_model,
    load_pretrained,
    model_of,
    to_torch,
)
from jaxcifar.models.resnet import ResNet, make_resnet, resnet18, resnet34, resnet50
from jaxcifar.models.weights import read_weights
from tests.conftest import assert_trees_identical, random_variables

TINY = {"stage_sizes": (1, 1), "width": 4, "num_classes": 5}


def tensors_of(model, seed=0):
    return to_torch(random_variables(model, seed))


def fill(model, tensors, **options):
    return fill_model(model, tensors, source="file", **options)


def refusal(model, tensors, **options):
    with pytest.raises(WeightsError) as caught:
        fill(model, tensors, **options)
    return str(caught.value)


class TestNamesAndLayouts:
    @pytest.mark.parametrize(
        ("make", "params", "stats"),
        [(resnet18, 62, 40), (resnet34, 110, 72), (resnet50, 161, 106)],
    )
    def test_every_leaf_is_filled_once_and_every_key_used_once(self, make, params, stats):
        model = make(1000)
        tensors = tensors_of(model)
        assert len(tensors) == params + stats
        filled, report = fill(model, tensors)
        assert (report.params, report.batch_stats) == (params, stats)
        assert_trees_identical(filled, random_variables(model))

    @pytest.mark.parametrize("make", [resnet18, resnet34, resnet50])
    def test_the_names_and_shapes_are_torchs(self, make):
        torch = pytest.importorskip("torch")
        from benchmarks.peers.torch_resnet import ResNet as Twin

        model = make(10)
        with torch.device("meta"):
            twin = Twin(model.stage_sizes, bottleneck=model.bottleneck)
        theirs = {
            name: tuple(tensor.shape)
            for name, tensor in twin.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        assert {name: array.shape for name, array in tensors_of(model).items()} == theirs

    @settings(max_examples=20, deadline=None)
    @given(
        st.lists(st.integers(1, 2), min_size=0, max_size=2),
        st.booleans(),
        st.sampled_from(["imagenet", "cifar"]),
        st.sampled_from(["linear", "sequential"]),
    )
    def test_a_round_trip_changes_no_bit(self, sizes, bottleneck, stem, head):
        model = ResNet(tuple(sizes), bottleneck, num_classes=3, width=4, stem=stem, head=head)
        filled, report = fill(model, tensors_of(model))
        assert_trees_identical(filled, random_variables(model))
        assert report.unused == report.new == ()

    def test_an_exported_file_gives_the_same_bits(self, tmp_path):
        model = ResNet(**TINY)
        path = tmp_path / "out.safetensors"
        preprocessing = Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 32)
        export_weights(random_variables(model), path, preprocessing=preprocessing, steps=7)
        filled, report = load_pretrained(path, model)
        assert_trees_identical(filled, random_variables(model))
        assert report.preprocessing == preprocessing
        counters = [k for k in read_weights(path).tensors if k.endswith("num_batches_tracked")]
        assert sorted(report.unused) == sorted(counters)
        assert read_weights(path).tensors["bn1.num_batches_tracked"] == 7

    @pytest.mark.parametrize("bottleneck", [False, True])
    @pytest.mark.parametrize("legacy", [False, True])
    def test_a_file_of_torch_gives_torchs_logits(self, tmp_path, bottleneck, legacy):
        torch = pytest.importorskip("torch")
        assert_same_logits(
            torch, tmp_path, ResNet(**TINY, bottleneck=bottleneck), 32, legacy=legacy
        )

    @pytest.mark.slow
    @pytest.mark.parametrize("size", [32, 224])
    @pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
    def test_the_whole_networks_give_torchs_logits(self, tmp_path, name, size, optimised):
        torch = pytest.importorskip("torch")
        assert_same_logits(torch, tmp_path, make_resnet(name, 10), size, double=False)

    def test_a_frozen_models_variables_are_the_same(self):
        model = ResNet(**TINY)
        filled, _ = fill(model.clone(frozen=frozenset({"bn1"})), tensors_of(model))
        assert_trees_identical(filled, random_variables(model))


def assert_same_logits(torch, folder, model, size, *, double=True, legacy=False):
    """The twin's state dict, saved by torch and read here, gives the same logits within 1e-4."""
    from benchmarks.peers.torch_resnet import ResNet as Twin

    torch.manual_seed(0)
    twin = Twin(
        model.stage_sizes,
        bottleneck=model.bottleneck,
        width=model.width,
        num_classes=model.num_classes,
    )
    for module in twin.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    path = folder / "weights.pth"
    torch.save(twin.state_dict(), path, _use_new_zipfile_serialization=not legacy)

    variables, _ = load_pretrained(path, model)
    images = np.random.default_rng(0).normal(size=(4, size, size, 3)).astype(np.float32)
    ours = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    twin.eval()
    inputs = torch.tensor(images.transpose(0, 3, 1, 2))
    if double:
        twin.double()
        inputs = inputs.double()
    with torch.no_grad():
        theirs = twin(inputs).numpy()
    assert np.abs(theirs).max() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


class TestStrictness:
    model = ResNet(**TINY)

    def test_everything_wrong_is_listed_at_once(self):
        tensors = tensors_of(self.model)
        del tensors["layer1.0.conv2.weight"]
        tensors["layer1.0.conv9.weight"] = np.zeros(3, np.float32)
        tensors["bn1.weight"] = np.zeros(7, np.float32)
        tensors["bn1.bias"] = np.zeros(4, np.int64)
        tensors["bn1.running_var"] = np.full(4, -1, np.float32)
        tensors["conv1.weight"] = np.full((4, 3, 7, 7), np.nan, np.float32)
        lines = refusal(self.model, tensors).split("\n  ")
        assert lines[0] == "file does not fit the model:"
        assert set(lines[1:]) == {
            "missing: layer1.0.conv2.weight",
            "unexpected: layer1.0.conv9.weight",
            "bn1.weight: (7,) in the file, (4,) in the model",
            "bn1.bias: int64 in the file, not floating-point numbers",
            "bn1.running_var: a variance is negative",
            "conv1.weight: not all numbers are finite",
        }

    @settings(max_examples=25, deadline=None)
    @given(st.data())
    def test_any_key_that_is_missing_or_extra_is_refused_by_name(self, data):
        tensors = tensors_of(self.model)
        gone = data.draw(st.sampled_from(sorted(tensors)))
        value = tensors.pop(gone)
        assert f"missing: {gone}" in refusal(self.model, tensors)
        extra = data.draw(st.sampled_from(["layer3.0.conv1.weight", "fc.0.weight", "x", "bn1"]))
        text = refusal(self.model, {**tensors, gone: value, extra: np.zeros(1, np.float32)})
        assert f"unexpected: {extra}" in text

    def test_batch_counters_are_skipped_only_if_they_belong_to_a_batch_norm(self):
        tensors = tensors_of(self.model)
        counter = np.array(3, np.int64)
        _, report = fill(self.model, {**tensors, "bn1.num_batches_tracked": counter})
        assert report.unused == ("bn1.num_batches_tracked",)
        text = refusal(self.model, {**tensors, "bn7.num_batches_tracked": counter})
        assert "unexpected: bn7.num_batches_tracked" in text

    @pytest.mark.parametrize(
        ("file", "model"),
        [("resnet18", "resnet34"), ("resnet34", "resnet18"), ("resnet50", "resnet34")],
    )
    def test_weights_of_another_depth_are_recognised(self, file, model):
        text = refusal(make_resnet(model), tensors_of(make_resnet(file)))
        assert f"these are the weights of a {file}: build that model" in text

    def test_half_precision_becomes_float32(self):
        tensors = {k: v.astype(np.float16) for k, v in tensors_of(self.model).items()}
        filled, _ = fill(self.model, tensors)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(filled)} == {"float32"}
        kernel = filled["params"]["layer1"]["0"]["conv1"]["kernel"]
        expected = tensors["layer1.0.conv1.weight"].astype(np.float32).transpose(2, 3, 1, 0)
        np.testing.assert_array_equal(kernel, expected)


class TestHead:
    file = ResNet(**{**TINY, "num_classes": 9})

    @pytest.mark.parametrize("head", ["linear", "sequential"])
    def test_another_head_is_refused_without_new_head(self, head):
        model = ResNet(**TINY, head=head)
        tensors = tensors_of(self.file)
        text = refusal(model, tensors)
        assert "use new_head" in text
        assert ("the file has a linear head" in text) == (head == "sequential")
        filled, report = fill(model, tensors, new_head=True, key=jax.random.key(1))
        heads = {n for n in named_leaves(random_variables(model)["params"]) if n.startswith("fc.")}
        assert set(report.new) == heads
        assert report.unused == ("fc.bias", "fc.weight")
        ours, theirs = (
            {torch_name(n): v for n, v in named_leaves(tree).items()}
            for tree in (filled["params"], random_variables(self.file)["params"])
        )
        for name in theirs:
            if not name.startswith("fc."):
                np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)

    def test_the_new_head_is_that_of_init(self):
        model = ResNet(**TINY)
        key = jax.random.key(5)
        filled, _ = fill(model, tensors_of(self.file), new_head=True, key=key)
        image = jnp.zeros((1, 32, 32, 3))
        init = jax.jit(
            lambda key: model.init(key, image, train=False)["params"]["fc"],
            compiler_options={"xla_backend_optimization_level": 0},
        )
        expected = init(key)
        assert_trees_identical(filled["params"]["fc"], expected)

    def test_a_head_that_fits_is_replaced_only_on_request(self):
        model = ResNet(**TINY)
        kept, _ = fill(model, tensors_of(model))
        new, report = fill(model, tensors_of(model), new_head=True, key=jax.random.key(0))
        assert_trees_identical(kept["params"]["fc"], random_variables(model)["params"]["fc"])
        assert not np.array_equal(new["params"]["fc"]["kernel"], kept["params"]["fc"]["kernel"])
        assert report.new == ("fc.bias", "fc.kernel")

    def test_without_a_key_no_head_can_be_drawn(self):
        with pytest.raises(ValueError, match="pass a key"):
            fill(ResNet(**TINY), tensors_of(self.file), new_head=True)


class TestStem:
    imagenet, cifar = ResNet(**TINY), ResNet(**TINY, stem="cifar")

    def test_the_imagenet_stem_becomes_the_cifar_stem_only_on_request_and_is_reported(self):
        tensors = tensors_of(self.imagenet)
        text = refusal(self.cifar, tensors)
        assert "conv1.weight: (4, 3, 7, 7) in the file, (4, 3, 3, 3) in the model" in text
        assert "use adapt_stem" in text
        filled, report = fill(self.cifar, tensors, adapt_stem=True)
        kernel = random_variables(self.imagenet)["params"]["conv1"]["kernel"]
        np.testing.assert_array_equal(filled["params"]["conv1"]["kernel"], kernel[2:5, 2:5])
        assert "3x3 centre" in report.adapted
        assert report.adapted in str(report)

    def test_the_cifar_stem_does_not_become_the_imagenet_stem(self):
        text = refusal(self.imagenet, tensors_of(self.cifar), adapt_stem=True)
        assert "build the model with stem='cifar'" in text

    def test_adapting_a_stem_that_fits_changes_nothing(self):
        filled, report = fill(self.imagenet, tensors_of(self.imagenet), adapt_stem=True)
        assert_trees_identical(filled, random_variables(self.imagenet))
        assert report.adapted is None


def test_a_tensor_without_elements_does_not_determine_the_network():
    for kernel, head in (
        ((0, 3, 7, 7), (10, 8)),
        ((1 << 40, 0, 3, 3), (0, 8)),
        ((4, 3, 7, 0), (0, 0)),
    ):
        tensors = {"conv1.weight": np.zeros(kernel), "fc.weight": np.zeros(head)}
        with pytest.raises(WeightsError, match="does not fit the model"):
            fill_model(model_of(tensors, "resnet18"), tensors, source="w")


def test_names_from_a_file_are_printed_without_control_characters_and_up_to_a_limit():
    tensors = tensors_of(ResNet(**TINY)) | {f"\x1b[2J{i}": np.zeros(1) for i in range(5_000)}
    text = refusal(ResNet(**TINY), tensors)
    assert r"unexpected: \x1b[2J0" in text
    assert "\x1b" not in text
    assert text.endswith("and 4,990 more keys that do not fit")
    assert len(text.split("\n")) == 12
