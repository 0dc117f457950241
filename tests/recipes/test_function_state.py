import functools

import jax.numpy as jnp
import numpy as np
import pytest

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
