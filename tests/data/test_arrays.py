"""Splits of images and labels in memory: what is accepted, what is kept, and what is refused."""

import dataclasses
import hashlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcifar import Recipe, Splits
from jaxcifar.common.errors import DataError
from jaxcifar.data import DatasetInfo, dataset_info, load_dataset, load_labelled, split_indices
from jaxcifar.data.info import warn_absent

LEVELS = np.arange(256, dtype=np.uint8)


def images(n=20, side=4, channels=(3,), seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, *channels), np.uint8)


def labels(n=20, classes=2):
    return np.arange(n) % classes


def pair(n=20, seed=0, **shape):
    return images(n, seed=seed, **shape), labels(n)


def same(one, other):
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.labels, other.labels)


def test_three_pairs_are_kept_as_they_are():
    train, validation, test = pair(20), pair(6, seed=1), pair(8, seed=2)
    splits = Splits.from_arrays(train, validation, test, class_names=["cat", "dog"], name="pets")
    for kept, (x, y) in (
        (splits.train, train),
        (splits.validation, validation),
        (splits.test, test),
    ):
        np.testing.assert_array_equal(kept.images, x)
        np.testing.assert_array_equal(kept.labels, y)
        assert (kept.images.dtype, kept.labels.dtype) == (np.uint8, np.int32)
    assert (splits.name, splits.class_names) == ("arrays:pets", ("cat", "dog"))
    assert (splits.info.pool, splits.info.validation, splits.info.test) == (20, 6, 8)
    assert (splits.info.side, splits.info.default_split) == (4, (20, 6))


def test_by_default_a_fifth_of_train_is_for_validation_and_stands_for_the_test():
    x, y = pair(20)
    splits = Splits.from_arrays((x, y))
    train, validation = split_indices(y, (16, 4), seed=0, stratified=False)
    np.testing.assert_array_equal(splits.train.images, x[train])
    np.testing.assert_array_equal(splits.validation.images, x[validation])
    assert splits.test is splits.validation
    assert (splits.name, splits.class_names) == ("arrays", ("0", "1"))


@pytest.mark.parametrize("stratified", [False, True])
def test_a_number_of_training_images_is_taken_by_split_indices(stratified):
    x, y = images(30), labels(30, 3)
    splits = Splits.from_arrays((x, y), np.int64(7), pair(5), seed=3, stratified=stratified)
    rows = split_indices(y, (23, 7), seed=3, stratified=stratified)
    for kept, chosen in zip((splits.train, splits.validation), rows, strict=True):
        np.testing.assert_array_equal(kept.images, x[chosen])
        np.testing.assert_array_equal(kept.labels, y[chosen])
    assert (splits.seed, splits.stratified) == (3, stratified)
    assert len(splits.test) == 5


def test_a_validation_pair_stands_for_a_test_that_is_absent():
    splits = Splits.from_arrays(pair(20), pair(6, seed=1))
    same(splits.test, splits.validation)
    assert splits.info.test == 6


@settings(deadline=None, max_examples=30)
@given(
    data=st.data(),
    n=st.integers(5, 12),
    side=st.integers(1, 5),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
)
def test_every_form_of_the_same_images_gives_the_same_splits(data, n, side, dtype):
    gray = data.draw(st.booleans())
    seed = data.draw(st.integers(0, 1_000))
    x = images(n, side, channels=(1,) if gray else (3,), seed=seed)
    forms = [x, (x / 255).astype(dtype), np.asfortranarray(x), list(x)]
    if gray:
        forms += [x[..., 0], np.repeat(x, 3, axis=-1), (x[..., 0] / 255).astype(dtype)]
    made = [Splits.from_arrays((form, labels(n)), class_names=["a", "b"]) for form in forms]
    for splits in made[1:]:
        assert splits.fingerprint == made[0].fingerprint
        same(splits.train, made[0].train)
        same(splits.validation, made[0].validation)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "longdouble"])
def test_every_level_comes_back_from_floats(dtype):
    x = np.repeat((LEVELS / 255).astype(dtype), 2)[:, None, None]
    splits = Splits.from_arrays((x, labels(512)), (x, labels(512)))
    np.testing.assert_array_equal(splits.train.images[:, 0, 0, 1], np.repeat(LEVELS, 2))


def test_floats_are_rounded_to_the_nearest_level():
    x = (LEVELS[1:-1, None, None] + np.array([-0.49, 0.49])[:, None, None, None]) / 255
    x = x.reshape(-1, 1, 1)
    splits = Splits.from_arrays((x, labels(508)), (x, labels(508)))
    np.testing.assert_array_equal(splits.train.images[:, 0, 0, 0], np.tile(LEVELS[1:-1], 2))


def test_jax_arrays_and_lists_are_taken():
    x, y = pair(10)
    expected = Splits.from_arrays((x, y))
    for each in ((jnp.asarray(x), jnp.asarray(y)), (list(x), y.tolist()), [x, list(y)]):
        assert Splits.from_arrays(each).fingerprint == expected.fingerprint


def test_torch_tensors_are_taken():
    torch = pytest.importorskip("torch")
    x, y = pair(10)
    splits = Splits.from_arrays((torch.tensor(x), torch.tensor(y)))
    assert splits.fingerprint == Splits.from_arrays((x, y)).fingerprint
    with pytest.raises(DataError, match=r"train \(Tensor\) cannot be made a NumPy array: .*grad"):
        Splits.from_arrays((torch.rand(10, 4, 4, requires_grad=True), y))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int64", "uint64", ">i4"])
def test_labels_of_any_integer_type_are_the_same(dtype):
    x, y = pair(10)
    expected = Splits.from_arrays((x, y))
    splits = Splits.from_arrays((x, y.astype(dtype)))
    assert splits.fingerprint == expected.fingerprint
    same(splits.train, expected.train)


@pytest.mark.parametrize("dtype", ["U3", object])
def test_labels_may_be_class_names(dtype):
    x, y = pair(10)
    names = np.array(["dog", "cat"], dtype)
    splits = Splits.from_arrays((x, names[y]), class_names=names)
    same(splits.train, Splits.from_arrays((x, y)).train)
    assert splits.class_names == ("dog", "cat")


def test_later_changes_of_the_callers_arrays_change_nothing():
    x, y, v = *pair(10), images(4, seed=1)
    splits = Splits.from_arrays((x, y), (v, labels(4)), (v, labels(4)))
    before = splits.validation.images.copy(), splits.train.labels.copy()
    x[:], y[:], v[:] = 0, 0, 0
    np.testing.assert_array_equal(splits.validation.images, before[0])
    np.testing.assert_array_equal(splits.train.labels, before[1])
    assert splits.train.images.any()


def test_the_fingerprint_is_of_all_that_a_run_sees():
    given = {
        "train": pair(20), "validation": pair(6, seed=1), "test": pair(8, seed=2),
        "class_names": ("a", "b"),
    }  # fmt: skip
    first = Splits.from_arrays(**given).fingerprint
    assert Splits.from_arrays(**given, name="other").fingerprint == first
    seen = {first}
    for split in ("train", "validation", "test"):
        x, y = (each.copy() for each in given[split])
        x[-1, -1, -1, -1] ^= 1
        seen.add(Splits.from_arrays(**given | {split: (x, given[split][1])}).fingerprint)
        y[-1] = 1 - y[-1]
        seen.add(Splits.from_arrays(**given | {split: (given[split][0], y)}).fingerprint)
    seen.add(Splits.from_arrays(**given | {"class_names": ("b", "a")}).fingerprint)
    swapped = given | {"validation": given["test"], "test": given["validation"]}
    seen.add(Splits.from_arrays(**swapped).fingerprint)
    assert len(seen) == 9


def test_the_fingerprint_is_a_sha256_that_can_be_computed_elsewhere():
    """What runs record must not change with the library."""
    x, y = pair(10)
    splits = Splits.from_arrays((x, y), (x, y), (x, y), class_names=["a", "b"])
    text = json.dumps(["a", "b"]).encode()
    for split in ("train", "validation", "test"):
        text += f"\n{split} [10, 4, 4, 3]\n".encode() + x.tobytes() + y.astype("<i4").tobytes()
    assert splits.fingerprint == hashlib.sha256(text).hexdigest()


def test_a_recipe_works_with_the_info():
    splits = Splits.from_arrays(pair(20), 5, pair(8), name="mine")
    recipe = Recipe(
        dataset=splits.name, info=splits.info, normalization="half", train_size=15,
        validation_size=5, batch_size=5,
    )  # fmt: skip
    assert recipe.split_sizes == (len(splits.train), len(splits.validation))
    assert (recipe.steps_per_epoch, recipe.image_size) == (3, 4)
    assert recipe.dataset_info.num_classes == 2
    by_default = dataclasses.replace(
        recipe, info=splits.info, train_size=None, validation_size=None
    )
    assert by_default.split_sizes == (15, 5)
    assert by_default.located().dataset == "arrays:mine"


@pytest.mark.parametrize("name", ["arrays", "arrays:mine", "arrays:\x1b[31m"])
@pytest.mark.parametrize("look_up", [dataset_info, load_dataset, load_labelled])
def test_arrays_are_not_found_by_name(look_up, name):
    with pytest.raises(DataError, match=r"are arrays in memory, .* pass what .*fit\(recipe, spl"):
        look_up(name)


def test_other_datasets_have_no_info():
    assert load_dataset("digits", split=(20, 10)).info is None


def test_classes_without_an_image_are_warned_of():
    with pytest.warns(UserWarning, match=r"no image of c .* 16 training .*; add images of them"):
        splits = Splits.from_arrays(pair(20), class_names=["a", "b", "c"])
    assert len(splits.class_names) == 3
    images, _ = pair(20)
    with pytest.warns(UserWarning, match=r"no image of 1 among the .*stratified=True"):
        Splits.from_arrays((images, (np.arange(20) == 19).astype(int)))
    for kind in (tuple, list):
        with pytest.warns(UserWarning, match=r"no image of 1 among the 6 .*; add images of them$"):
            Splits.from_arrays(pair(20), kind((images[:6], np.zeros(6, int))))


@pytest.mark.parametrize(("pool", "advice"), [(4, "add images of them"), (5, "use more images")])
def test_a_class_may_have_images_among_those_left_out(pool, advice):
    info = DatasetInfo("mine", ("a", "b"), pool, 0, 8, (3, 1))
    with pytest.warns(UserWarning, match=f"no image of b .*; {advice}"):
        warn_absent(info, {"training": np.zeros(3, int), "validation": np.zeros(1, int)})


X, Y = pair(20)
FLOATS = X / 255


def with_pixel(value, row=13):
    x = FLOATS.copy()
    x[row, 1, 2, 0] = value
    return x


class OnAnotherDevice:
    def __array__(self, *_, **__):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


@pytest.mark.parametrize(
    ("train", "named", "message"),
    [
        # Labels.
        ((X, Y - 1), {}, r"train has labels out of range: row 0 is -1, row 2 is -1, "),
        ((X, np.where(Y, 7, 0)), {"class_names": ["a", "b"]}, r"row 1 is 7.*0 to 1, .*'a'"),
        ((X, Y.astype(np.uint64) + 2**63), {}, r"row 0 is 9223372036854775808"),
        ((X, Y * 1_000_000), {}, r"row 1 is 1000000, .*the limit of 100,000 classes"),
        ((X, Y.astype(float)), {}, r"labels of train are float64: row 0 is 0.0.*y.astype\(int\)"),
        ((X, Y + 0.5), {}, r"labels of train are float64: row 0 is 0.5"),
        ((X, np.eye(2)[Y]), {}, r"have the shape \[20, 2\].*one-hot, use y.argmax\(axis=1\)"),
        ((X, np.eye(2, dtype=int)[Y]), {}, r"have the shape \[20, 2\].*y.argmax\(axis=1\)"),
        ((X, Y[:, None]), {}, r"the shape \[20, 1\]; .*use y\[:, 0\]"),
        ((X, Y == 1), {}, r"labels of train are bool: row 0 is False, row 1 is True"),
        ((X, [None] * 20), {}, r"labels of train are Python objects: row 0 is None"),
        ((X, ["a", "b"] * 10), {}, r"labels of train are names: row 0 is 'a'.* in class_names"),
        ((X, ["a", "x"] * 10), {"class_names": ["a", "b"]}, r"row 1 is 'x'.*expected one of its 2"),
        ((X, Y[:19]), {}, r"train has 20 images, but 19 labels"),
        ((X, []), {}, r"train has 20 images, but 0 labels"),
        ((X, 3), {}, r"labels of train have the shape \[\]"),
        ((X, [[1], [2, 3]]), {}, r"labels of train \(list\) cannot be made a NumPy array"),
        ((X, OnAnotherDevice()), {}, r"labels of train \(OnAnotherDevice\) cannot .*cuda:0"),
        # Images.
        (([*X[:9], X[0, :3, :3]], Y[:10]), {}, r"row 0 is \[4, 4, 3\], row 9 is"),
        ((np.array([X[0], X[0, :3], None], object), Y[:3]), {}, r"have several sizes: row 0 is"),
        ((X.astype(object), Y), {}, r"Python objects \[20, 4, 4, 3\].*numpy.stack"),
        ((np.array([None, None]), Y[:2]), {}, r"an array of Python objects \[2\]"),
        ((with_pixel(np.nan), Y), {}, r"train has pixels that are not finite: row 13 is nan"),
        ((with_pixel(-np.inf), Y), {}, r"not finite: row 13 is -inf"),
        ((with_pixel(-1.5), Y), {}, r"outside \[0, 1\]: row 13 is -1.5.*not normalised"),
        ((with_pixel(1.001), Y), {}, r"row 13 is 1.001; .*numpy.clip"),
        ((X.astype(np.float32), Y), {}, r"outside \[0, 1\]: row 0 is .*: divide them by 255"),
        ((X * 9.0, Y), {}, r"and 13 more; .*: scale them to that range"),
        ((X.astype(np.int64), Y), {}, r"are int64; .*if the values are levels .*numpy.uint8"),
        ((X.astype(np.uint16) * 2, Y), {}, r"are uint16; .*scale the values"),
        ((X > 9, Y), {}, r"are bool; expected uint8 in 0..255, or floats in \[0, 1\]"),
        ((X.astype(complex), Y), {}, r"are complex128; "),
        (([["a"]] * 20, Y), {}, r"are <U1; "),
        ((np.zeros((20, 4, 4, 4), np.uint8), Y), {}, r"\(RGBA\): use x\[..., :3\]"),
        ((np.zeros((20, 4, 4, 2), np.uint8), Y), {}, r"the shape \[20, 4, 4, 2\]; expected"),
        ((np.zeros((20, 3, 8, 8), np.uint8), Y), {}, r"channels first: use numpy.moveaxis"),
        ((np.zeros((20, 1, 8, 8), np.uint8), Y), {}, r"channels first"),
        ((np.zeros((20, 4, 8, 8), np.uint8), Y), {}, r"RGBA.*moveaxis\(x, 1, -1\)\[..., :3\]"),
        ((np.zeros((20, 784), np.uint8), Y), {}, r"are flat: reshape"),
        ((np.uint8(3), Y), {}, r"the shape \[\]"),
        ((np.zeros((20, 4, 5, 3), np.uint8), Y), {}, r"each is 4 x 5 pixels; expected square"),
        ((np.zeros((20, 0, 0, 3), np.uint8), Y), {}, r"each is 0 x 0 pixels"),
        ((X[0], Y), {}, r"each is 4 x 3 pixels.*single image, use x\[None\]"),
        ((X[:0], Y[:0]), {}, r"train has no images"),
        (([], []), {}, r"train has no images"),
        ((OnAnotherDevice(), Y), {}, r"images of train \(OnAnotherDevice\) cannot .*cuda:0"),
        # Pairs.
        (X, {}, r"train is of type ndarray; expected a pair \(images, labels\)$"),
        (None, {}, r"train is of type NoneType; expected a pair"),
        ((X, Y, Y), {}, r"train is of type tuple and length 3"),
        ((X, Y), {"validation": X}, r"validation is of type ndarray; .*or a number of training"),
        ((X, Y), {"validation": 0.2}, r"validation is of type float; .*or a number"),
        ((X, Y), {"validation": True}, r"validation is of type bool"),
        ((X, Y), {"validation": 20}, r"takes 20 of the 20 training images; expected 1 to"),
        ((X, Y), {"validation": -1}, r"validation takes -1 of"),
        ((X[:1], Y[:1]), {}, r"validation takes 1 of the 1 training images"),
        ((X, Y), {"test": 5}, r"test is of type int; expected a pair \(images, labels\)$"),
        ((X, Y), {"test": (X, Y + 99), "class_names": ["a", "b"]}, r"test has labels .* 0 is 99"),
        ((X, Y), {"test": (with_pixel(np.nan, 3), Y)}, r"test has pixels .*row 3 is nan"),
        ((X, Y), {"test": (images(20, side=5), Y)}, r"images of test are 5 pixels .*of train 4"),
        ((X, Y), {"validation": 1, "stratified": True}, r"cannot hold all 2 classes"),
        ((X, Y), {"seed": -1}, r"the seed must be a non-negative integer"),
        # Names.
        ((X, Y), {"class_names": ["a", "a"]}, r"class_names has 'a' for the labels 0 and 1"),
        ((X, Y), {"class_names": ["a", 1]}, r"class_names has 1 for label 1; expected"),
        ((X, Y), {"class_names": ["a", ""]}, r"class_names has '' for label 1"),
        ((X, Y), {"class_names": "cats"}, r"class_names is 'cats'; expected a list"),
        ((X, Y), {"class_names": 2}, r"class_names is 2; expected a list"),
        ((X, Y), {"class_names": []}, r"class_names is empty"),
        ((X, Y), {"name": ""}, r"name is ''; expected a printable text"),
        ((X, Y), {"name": "a\nerror: forged"}, r"name is 'a\\nerror: forged'"),
        ((X, Y), {"name": 3}, r"name is 3; expected"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused_with_one_clear_line(train, named, message):
    with pytest.raises(DataError, match=message) as caught:
        Splits.from_arrays(train, **named)
    assert "\n" not in str(caught.value)


def test_rows_are_those_that_were_given_although_a_split_was_taken():
    x = np.zeros((2_000, 2, 2), np.float32)
    x[[5, 1_700]] = np.nan
    for seed in range(3):
        with pytest.raises(DataError, match=r"train has pixels .*: row (5|1700) is nan"):
            Splits.from_arrays((x, labels(2_000)), seed=seed)


def test_floats_are_converted_in_chunks():
    import tracemalloc

    x = np.zeros((20_000, 8, 8, 3), np.float32)  # 15 MB, and 4 MB as uint8
    tracemalloc.start()
    Splits.from_arrays((x, labels(20_000)), (x[:10], labels(10)))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10e6


def test_large_images_are_converted_few_at_once():
    import tracemalloc

    x = np.broadcast_to(np.float64(0.5), (40, 200, 200, 3))  # 38 MB as an array, 5 MB as uint8
    tracemalloc.start()
    splits = Splits.from_arrays((x, labels(40)), (x[:2], labels(2)))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 50e6
    assert np.unique(splits.train.images).tolist() == [128]
