"""What a function computes with besides its arguments: its code, and what that reads from outside.

A compiled program keeps the values that a function read when it was traced. In a notebook a global
number, an attribute of an object or the code itself may change under the same name, and a program
compiled before must not be taken for the new one.
"""

import functools
import inspect
import types
import weakref
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

_DEPTH = 4  # functions that call functions
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


class _Same:
    """An object compared by identity.

    Its `id` alone would not do: the next object may have it, once this one is gone. An array is not
    kept for the comparison (but a dict is): one that is gone is the same as no other.
    """

    def __init__(self, value: Any) -> None:
        """Of this object."""
        self._id = id(value)
        try:
            self._get: Any = weakref.ref(value)
        except TypeError:  # a number of NumPy's, a dict
            self._get = lambda: value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Same):
            return NotImplemented
        value = self._get()
        return self is other or (value is not None and value is other._get())

    def __hash__(self) -> int:
        return self._id


def function_state(function: Any, depth: int = _DEPTH) -> Hashable:
    """A value that changes when the function would compute something else.

    Numbers, texts and tuples are compared by value, functions of Python by their code and what they
    read, objects by their attributes, everything else (arrays, modules, compiled functions) by
    identity. What functions of other packages read is not followed.
    """
    if isinstance(function, _PLAIN):
        return type(function).__name__, function
    if isinstance(function, np.generic):
        return str(function.dtype), function.tobytes()
    if isinstance(function, types.MethodType):  # made anew each time it is read
        return function_state(function.__func__, depth), function_state(function.__self__, depth)
    if depth == 0:
        return _Same(function)
    if isinstance(function, functools.partial):
        return _states((function.func, *function.args), depth), _named(function.keywords, depth)
    if isinstance(function, types.FunctionType):
        return _code_state(function.__code__), tuple(_read_by(function, depth))
    if isinstance(function, (tuple, list)):
        return _states(function, depth)
    if isinstance(function, type):
        own = (value for value in vars(function).values() if inspect.isfunction(value))
        return _Same(function), _states(own, depth)
    if _package(type(function)) in ("jax", "jaxlib", "numpy", "builtins"):
        return _Same(function)
    attributes = vars(function) if hasattr(function, "__dict__") else {}
    return (
        _Same(function),
        function_state(type(function), depth - 1),
        _named(attributes, depth),
    )


def _states(values: Iterable[Any], depth: int) -> Hashable:
    return tuple(function_state(value, depth - 1) for value in values)


def _named(values: Mapping[str, Any], depth: int) -> Hashable:
    return tuple((name, function_state(value, depth - 1)) for name, value in sorted(values.items()))


def _package(named: Any) -> str:
    """The package that a function or class is from; code that is executed may have none."""
    return str(getattr(named, "__module__", None)).partition(".")[0]


def _code_state(code: types.CodeType) -> Hashable:
    constants = (
        _code_state(value) if isinstance(value, types.CodeType) else (type(value), value)
        for value in code.co_consts
    )
    return code.co_code, code.co_names, tuple(constants)


def _read_by(function: types.FunctionType, depth: int) -> Iterator[Hashable]:
    """The defaults, closure and globals of a function."""
    yield _states(function.__defaults__ or (), depth)
    yield _named(function.__kwdefaults__ or {}, depth)
    for cell in function.__closure__ or ():
        try:
            yield function_state(cell.cell_contents, depth - 1)
        except ValueError:  # not assigned yet
            yield None
    if _package(function) in ("jax", "optax", "flax", "jaxcifar"):
        return
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield name, function_state(function.__globals__[name], depth - 1)
