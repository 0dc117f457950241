"""What a function computes with besides its arguments: its code, and what that reads from outside.

A compiled program keeps the values that a function read when it was traced. In a notebook a global
number, an attribute of an object or the code itself may change under the same name, and a program
compiled before must not be taken for the new one.
"""

import functools
import inspect
import types
from collections.abc import Hashable, Iterator
from typing import Any

_DEPTH = 4  # functions that call functions
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def function_state(function: Any, depth: int = _DEPTH) -> Hashable:
    """A value that changes when the function would compute something else.

    Numbers, texts and tuples are compared by value, functions of Python by their code and what they
    read, objects by their attributes, everything else (arrays, modules, compiled functions) by
    identity. What functions of other packages read is not followed.
    """
    if isinstance(function, _PLAIN):
        return type(function).__name__, function
    if depth == 0:
        return id(function)
    if isinstance(function, types.MethodType):
        return function_state(function.__func__, depth), function_state(function.__self__, depth)
    if isinstance(function, functools.partial):
        parts = (function.func, *function.args, *sorted(function.keywords.items()))
        return tuple(function_state(part, depth - 1) for part in parts)
    if isinstance(function, types.FunctionType):
        return _code_state(function.__code__), tuple(_read_by(function, depth))
    if isinstance(function, (tuple, list)):
        return tuple(function_state(value, depth - 1) for value in function)
    if isinstance(function, type):
        own = (value for value in vars(function).values() if inspect.isfunction(value))
        return id(function), tuple(function_state(value, depth - 1) for value in own)
    if _package(type(function)) in ("jax", "jaxlib", "numpy", "builtins"):
        return id(function)
    attributes = vars(function) if hasattr(function, "__dict__") else {}
    return (
        id(function),
        function_state(type(function), depth - 1),
        tuple((name, function_state(value, depth - 1)) for name, value in attributes.items()),
    )


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
    yield function_state(function.__defaults__, depth - 1)
    yield function_state(tuple((function.__kwdefaults__ or {}).items()), depth - 1)
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
