"""What a function computes with besides its arguments: its code, and what that reads from outside.

A compiled program keeps the values that a function read when it was traced. In a notebook a global
number, an attribute of an object or the code itself may change under the same name, and a program
compiled before must not be taken for the new one.
"""

import functools
import sys
import types
import weakref
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

import flax.linen as nn
import numpy as np
from flax.core import FrozenDict

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_BY_IDENTITY = ("jax", "jaxlib", "numpy", "builtins")  # objects of their types
_LIBRARIES = (*_BY_IDENTITY, "optax", "flax", "jaxcifar")  # wherever they are installed
# Beyond these, objects are compared by identity: a global may lead to a whole program.
_MOST_OBJECTS, _MOST_LEVELS = 20_000, 100


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


def function_state(function: Any) -> Hashable:
    """A value that changes when the function would compute something else.

    Numbers, texts, tuples, lists and dicts are compared by value, functions of Python by their code
    and what they read, also in functions inside them, classes by their methods, objects by their
    attributes, modules of one's own by what is read from them, everything else (arrays, compiled
    functions) by identity. What functions and classes of installed packages read is not followed.
    """
    return _Walk().state(function)


class _Walk:
    """One walk over all that a function reads: what is met again is named by its number."""

    def __init__(self) -> None:
        self._met: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no other object gets the `id` of one that was met
        self._level = 0

    def state(self, value: Any) -> Hashable:
        """See `function_state`."""
        if isinstance(value, _PLAIN):
            return type(value).__name__, value
        if isinstance(value, np.generic):
            return str(value.dtype), value.tobytes()
        if isinstance(value, types.MethodType):  # made anew each time it is read
            return self.state(value.__func__), self.state(value.__self__)
        number = self._met.get(id(value))
        if number is not None:
            return "met", number
        if len(self._met) >= _MOST_OBJECTS or self._level >= _MOST_LEVELS:
            return _Same(value)
        self._met[id(value)] = len(self._met)
        self._kept.append(value)
        self._level += 1
        try:
            return self._state_of_parts(value)
        finally:
            self._level -= 1

    def _state_of_parts(self, value: Any) -> Hashable:
        if isinstance(value, (tuple, list)):
            return self._states(value)
        if isinstance(value, (dict, FrozenDict)):
            return tuple((self.state(key), self.state(value[key])) for key in value)
        if isinstance(value, functools.partial):
            return self._states((value.func, *value.args)), self._named(value.keywords)
        if isinstance(value, types.FunctionType):
            return self._of_function(value)
        if isinstance(value, type):
            return _Same(value), tuple(self._of_class(value))
        if isinstance(value, nn.Module):  # another one with equal fields is the same
            names = {field.name for field in fields(value)} - {"parent", "name"}
            own = {name: getattr(value, name) for name in names}
            return self.state(type(value)), self._named(own)
        if _package(type(value).__module__) in _BY_IDENTITY:
            return _Same(value)
        return _Same(value), self.state(type(value)), self._named(_attributes(value))

    def _states(self, values: Iterable[Any]) -> Hashable:
        return tuple(map(self.state, values))

    def _named(self, values: Mapping[str, Any]) -> Hashable:
        return tuple((name, self.state(value)) for name, value in sorted(values.items()))

    def _of_function(self, function: types.FunctionType) -> Hashable:
        """Its code, its defaults, its closure, and the globals that the code names."""
        inner = getattr(function, "__wrapped__", None)
        if inner is not None and _is_library(function.__globals__.get("__name__")):
            return self.state(inner)  # as flax wraps the methods of modules
        parts = [_code_state(function.__code__), self._states(function.__defaults__ or ())]
        parts.append(self._named(function.__kwdefaults__ or {}))
        for cell in function.__closure__ or ():
            try:
                parts.append(self.state(cell.cell_contents))
            except ValueError:  # not assigned yet
                parts.append(None)
        if not _is_library(function.__globals__.get("__name__")):
            parts += self._read(function.__globals__, tuple(_names(function.__code__)))
        return tuple(parts)

    def _read(self, namespace: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[Hashable]:
        """The names in a namespace, and in modules of one's own that are in it."""
        for name in dict.fromkeys(names):
            if name in namespace:
                value = namespace[name]
                yield name, self.state(value)
                if isinstance(value, types.ModuleType) and not _is_library(value.__name__):
                    yield from self._read(
                        {n: x for n, x in vars(value).items() if n not in namespace}, names
                    )

    def _of_class(self, own: type) -> Iterator[Hashable]:
        """What it and the classes it inherits from have in their bodies."""
        for base in own.__mro__:
            if _is_library(base.__module__):
                continue
            for name, value in sorted(vars(base).items()):
                if isinstance(value, (staticmethod, classmethod)):
                    value = value.__func__
                if isinstance(value, (property, functools.cached_property)):
                    value = value.fget if isinstance(value, property) else value.func
                data = isinstance(value, (*_PLAIN, tuple, list, dict)) and name[:2] != "__"
                if data or isinstance(value, types.FunctionType):
                    yield name, self.state(value)


def _attributes(value: Any) -> dict[str, Any]:
    """The attributes of an object, also those in slots."""
    found = dict(vars(value)) if hasattr(value, "__dict__") else {}
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                found[name] = getattr(value, name)
    return found


def _package(module: Any) -> str:
    """The package of a module's name; code that is executed may have none."""
    return str(module).partition(".")[0]


def _is_library(module: Any) -> bool:
    """Whether it is a module of an installed package, which is not changed while it is used."""
    if _package(module) in _LIBRARIES or _package(module) in sys.stdlib_module_names:
        return True
    file = str(getattr(sys.modules.get(str(module)), "__file__", None))
    return "site-packages" in file or "dist-packages" in file


def _code_state(code: types.CodeType) -> Hashable:
    constants = (
        _code_state(value) if isinstance(value, types.CodeType) else (type(value), value)
        for value in code.co_consts
    )
    return code.co_code, code.co_names, tuple(constants)


def _names(code: types.CodeType) -> Iterator[str]:
    """The names that code reads, and the functions inside it."""
    yield from code.co_names
    for value in code.co_consts:
        if isinstance(value, types.CodeType):
            yield from _names(value)
