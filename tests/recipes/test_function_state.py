import functools
import logging
import types
import weakref
from collections import UserDict, deque
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcifar.models.layers import BatchNorm
from jaxcifar.models.resnet import ResNet
from jaxcifar.recipes.function_state import function_state

SCALE = 1.0


def inner(x):
    return SCALE * x


def outer(x):
    return inner(x) + 1


class Layer:
    factor = 2

    def __init__(self, number):
        self.number = number

    def __call__(self, x):
        return self.number * x + SCALE


def make(number, default=3):
    def function(x, *, more=default):
        return number * x + more

    return function


def test_the_same_has_the_same_state():
    for function in (outer, make, Layer(1), Layer(1).__call__, jnp.sin, np.sin, len, None, 3.0):
        assert function_state(function) == function_state(function)
        hash(function_state(function))


@pytest.mark.parametrize("function", [inner, outer, Layer(1), functools.partial(outer, 2)])
def test_a_global_that_is_read_belongs_to_it(function, monkeypatch):
    before = function_state(function)
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert function_state(function) != before
    monkeypatch.undo()
    assert function_state(function) == before


class Base(nn.Module):
    def scaled(self, x):
        return inner(x)


class Block(Base):
    @nn.compact
    def __call__(self, x, *, train):
        return nn.Dense(3)(self.scaled(x))


class Net(nn.Module):
    act: object = nn.relu
    block: nn.Module | None = None

    @nn.compact
    def __call__(self, x, *, train):
        return self.act((self.block or Block())(x, train=train))


class Fielded(nn.Module):
    act: object = inner

    @nn.compact
    def __call__(self, x, *, train):
        return self.act(x)


class Slotted:
    __slots__ = ("number",)


def nested(x):
    return jnp.vectorize(lambda row: [SCALE * y for y in row])(x)


def deep(x):
    return (lambda x: nested(x))(x)


class Kept:
    @property
    def scale(self):
        return SCALE

    @staticmethod
    def twice(x):
        return x + inner(x)


def of_a_property(x):
    return Kept().scale


@pytest.mark.parametrize(
    "read",
    [nested, deep, Net(), Net(block=Block()), Fielded(), Kept.twice, of_a_property, (Net, 1)],
)
def test_what_is_read_far_inside_belongs_to_it(read, monkeypatch):
    before = function_state(read)
    assert before == function_state(read)
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert function_state(read) != before


def test_equal_models_have_the_same_state_and_others_another():
    assert function_state(Net()) == function_state(Net())
    assert function_state(Fielded(act=jnp.sin)) == function_state(Fielded(act=jnp.sin))
    assert function_state(Fielded(act=jnp.sin)) != function_state(Fielded(act=jnp.cos))
    assert function_state(Net(block=Block())) == function_state(Net(block=Block()))


def test_the_contents_of_dicts_lists_slots_classes_and_own_modules_belong_to_it(monkeypatch):
    names, module, slotted = {}, types.ModuleType("settings"), Slotted()
    exec("def f(x): return x * (CONFIG['a'] + SHIFTS[0] + settings.ALPHA + S.number)", names)
    names |= {"CONFIG": {"a": 1}, "SHIFTS": [1], "settings": module, "S": slotted}
    module.ALPHA = slotted.number = 1

    def changed(change):
        before = function_state(names["f"])
        change()
        return function_state(names["f"]) != before

    assert changed(lambda: names["CONFIG"].update(a=2))
    assert changed(lambda: names["SHIFTS"].append(2))
    assert changed(lambda: setattr(module, "ALPHA", 2))
    assert changed(lambda: setattr(slotted, "number", 2))
    assert not changed(lambda: setattr(module, "BETA", 2))
    layer = Layer(1)
    before = function_state(layer)
    monkeypatch.setattr(Layer, "factor", 3)
    assert function_state(layer) != before


def test_a_transformed_function_is_another_than_the_one_it_was_made_of():
    forms = [inner, jax.grad(inner), jax.vmap(inner), jax.vmap(inner, in_axes=1)]
    states = [function_state(form) for form in forms]
    assert len(set(states)) == len(forms)
    assert function_state(jax.vmap(inner)) == states[2]


class Scaled(NamedTuple):
    factor: float

    def scaled(self, x):
        return SCALE * self.factor * x


class Hidden:
    __slots__ = ("__number",)

    def __init__(self, number):
        self.__number = number

    def become(self, number):
        self.__number = number


class Proper(nn.Module):
    sizes: tuple = (64, 128)
    helper = functools.partial(inner)

    @property
    def scale(self):
        return SCALE

    @nn.compact
    def __call__(self, x, *, train):
        return self.scale * x


class WithHelper(nn.Module):
    helper = functools.partial(inner)

    @nn.compact
    def __call__(self, x, *, train):
        return self.helper(x)


@pytest.mark.parametrize("read", [Proper(), WithHelper(), Scaled(2.0), jax.vmap(inner)])
def test_bodies_of_classes_are_read_wherever_they_are(read, monkeypatch):
    before = function_state(read)
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert function_state(read) != before


def test_a_private_slot_belongs_to_it():
    hidden = Hidden(1)
    before = function_state(hidden)
    hidden.become(2)
    assert function_state(hidden) != before


def test_equal_tuples_are_equal_wherever_they_come_from():
    sizes = tuple(int(text) for text in ("64", "128"))
    assert function_state(Proper()) == function_state(Proper(sizes=sizes))


def test_only_what_is_read_belongs_to_it(monkeypatch):
    """flax stores `name` and `parent` in modules; they are no globals."""
    net, before = Net(), function_state(Net())
    monkeypatch.setitem(globals(), "name", "a")
    monkeypatch.setitem(globals(), "parent", "b")
    monkeypatch.setitem(globals(), "number", 3)
    assert function_state(net) == before
    layer = Layer(1)
    assert function_state(layer) == function_state(layer)


def test_modules_that_import_each_other_are_read_once():
    names, package, ops, config = {}, *map(types.ModuleType, ("mine", "mine.ops", "mine.config"))
    package.ops, ops.mine, ops.config, config.mine = ops, package, config, package
    ops.focal = config.focal = inner
    exec("def f(x): return mine.ops.focal(x) + mine.ops.config.ALPHA", names)
    names |= {"mine": package, "focal": 1, "ALPHA": 1}
    config.ALPHA = 1
    before = function_state(names["f"])
    assert function_state(names["f"]) == before
    config.ALPHA = 2
    assert function_state(names["f"]) != before
    before = function_state(names["f"])
    ops.focal = outer
    assert function_state(names["f"]) != before


def test_what_fills_its_own_cache_does_not_belong_to_it():
    names = {"log": logging.getLogger("tests.state"), "folder": Path("a/b")}
    exec("def f(x):\n    log.info('x')\n    return x, folder", names)
    before = function_state(names["f"])
    names["log"].info("fills its cache")
    logging.getLogger("tests.state.more")
    hash(names["folder"])
    assert function_state(names["f"]) == before
    names["folder"] = Path("a/b")
    assert function_state(names["f"]) == before
    names["folder"] = Path("a/c")
    assert function_state(names["f"]) != before


def test_holders_of_settings_and_sets_are_looked_into():
    names = {"config": types.SimpleNamespace(alpha=1), "kinds": {1, 2}}
    exec("def f(x): return config.alpha if x in kinds else 0", names)
    before = function_state(names["f"])
    names["config"].alpha = 2
    assert function_state(names["f"]) != before
    before = function_state(names["f"])
    names["kinds"].add(3)
    assert function_state(names["f"]) != before
    for holder, change in (
        (deque([1]), lambda x: x.append(2)),
        (UserDict(a=1), lambda x: x.update(a=2)),
        ({(1, 2)}, lambda x: x.add((3, 4))),
    ):
        names["kinds"] = holder
        before = function_state(names["f"])
        assert function_state(names["f"]) == before
        change(holder)
        assert function_state(names["f"]) != before


def test_one_container_too_large_hides_nothing_else():
    names = {"rows": list(range(200_000)), "SCALE": [1]}
    exec("def f(x): return rows, SCALE", names)
    before = function_state(names["f"])
    names["SCALE"].append(2)
    assert function_state(names["f"]) != before


def test_a_walk_ends():
    names = {"most": []}
    exec("def f(x): return most", names)
    names["most"] += [[number] for number in range(50_000)] + [names["most"]]
    assert function_state(names["f"]) == function_state(names["f"])
    names["most"] = list(range(1_000_000))  # too many: it is compared by identity
    assert len(repr(function_state(names["f"]))) < 1_000
    inmost = names["most"] = []
    for _ in range(2_000):
        names["most"] = [names["most"]]
    before = function_state(names["f"])
    inmost.append(1)  # too deep: it is compared by identity
    assert function_state(names["f"]) == before


def test_a_closure_a_default_an_attribute_and_the_code_belong_to_it():
    assert function_state(make(1)) != function_state(make(2))
    assert function_state(make(1)) != function_state(make(1, default=4))
    layer = Layer(1)
    before = function_state(layer)
    layer.number = 2
    assert function_state(layer) != before
    function = make(1)
    before = function_state(function)
    function.__code__ = make.__code__.replace(co_freevars=("number",), co_cellvars=())
    assert function_state(function) != before


def test_other_numbers_are_other_states_though_they_are_equal():
    assert function_state(1) != function_state(1.0) != function_state(True)


def test_code_without_a_module_and_functions_that_call_themselves_end():
    names = {}
    exec("def f(x): return f(x - 1) if x else SCALE\nSCALE = 1", names)
    before = function_state(names["f"])
    names["SCALE"] = 2
    assert function_state(names["f"]) != before


@pytest.fixture
def names():
    """The globals of a function `f`, which nothing but them keeps alive."""
    names = {}
    exec("def f(x): return SCALE * x", names)
    return names


@pytest.mark.parametrize(
    "make_value", [lambda n: np.full(3, n), jnp.asarray, np.float32, lambda n: {n: n}]
)
def test_an_object_in_the_place_of_an_earlier_one_is_another(names, make_value):
    states = []
    for number in range(30):
        names["SCALE"] = make_value(number)  # Python gives it the place of one that is gone
        states.append(function_state(names["f"]))
    assert all(one != other for i, one in enumerate(states) for other in states[:i])


def test_numbers_of_numpy_are_compared_by_value(names):
    states = []
    for value in (np.float32(2), np.float32(2), np.float64(2), np.float32(3)):
        names["SCALE"] = value
        states.append(function_state(names["f"]))
    assert states[0] == states[1]
    assert len(set(states)) == 3


def test_no_array_is_kept_for_its_state(names):
    names["SCALE"] = np.ones(3)
    gone, before = weakref.ref(names["SCALE"]), function_state(names["f"])
    assert before == function_state(names["f"])
    names["SCALE"] = 1.0
    assert gone() is None
    assert before != function_state(names["f"])
    assert before == before  # a key finds what it was stored with


@pytest.mark.parametrize("model", [ResNet, BatchNorm, nn.Dense])
def test_a_class_has_one_state_however_deep_its_methods_are(model):
    assert function_state(model) == function_state(model)


def test_a_tuple_that_is_read_is_compared_by_value_at_every_depth():
    def nest(value, levels):
        function = lambda x, *, more=(value, "text"): (x, more)  # noqa: E731
        for _ in range(levels):
            function = functools.partial(function, more=value)
        return function

    for levels in range(7):
        function = nest(3, levels)
        assert function_state(function) == function_state(function)
