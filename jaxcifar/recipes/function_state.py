"""What a function computes with besides its arguments: its code, and what that reads from outside.

A compiled program keeps the values that a function read when it was traced. In a notebook a global
number, an attribute of an object or the code itself may change under the same name, and a program
compiled before must not be taken for the new one.
"""

import argparse
import dis
import functools
import sys
import types
import weakref
from collections import UserDict, UserList, deque
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import PurePath
from typing import Any

import flax.linen as nn
import numpy as np
from flax.core import FrozenDict

_PLAIN = (bool, int, float, complex, str, bytes, type(None))
_LIBRARIES = ("jax", "jaxlib", "numpy", "optax", "flax", "jaxcifar")  # wherever they are installed
# Objects of these packages and of Python's are compared by identity: some keep caches that fill.
_BY_IDENTITY = ("jax", "jaxlib", "numpy", *sys.stdlib_module_names)
_HOLDERS = (types.SimpleNamespace, argparse.Namespace, UserDict, UserList)  # to be changed
_CONTAINERS = (tuple, list, deque, dict, types.MappingProxyType, set, frozenset, FrozenDict)
# Beyond these, objects are compared by identity: a global may lead to a whole program.
_MOST_VALUES, _MOST_LEVELS = 100_000, 100
Names = tuple[str, ...]


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

    Numbers, texts, tuples, lists, dicts and sets of plain values are compared by value, functions
    of Python by their code and what they read, also in functions inside them, classes by their
    bodies and those they inherit from, linen modules by their class and fields, other objects by
    their attributes, modules of one's own by what is read from them. Everything else (arrays,
    compiled functions, objects of Python's own library, containers of very many values) is compared
    by identity. What functions and classes of installed packages read is not followed.
    """
    return _Walk().state(function)


class _Walk:
    """One walk over all that a function reads: what is met again is named by its number."""

    def __init__(self) -> None:
        self._met: dict[int, int] = {}
        self._kept: list[Any] = []  # so that no other object gets the `id` of one that was met
        self._values = self._level = 0

    def state(self, value: Any) -> Hashable:
        """See `function_state`."""
        if isinstance(value, _PLAIN):
            return type(value).__name__, value
        if isinstance(value, np.generic):
            return str(value.dtype), value.tobytes()
        if isinstance(value, PurePath):
            return type(value).__name__, str(value)
        if isinstance(value, types.MethodType):  # made anew each time it is read
            return self.state(value.__func__), self.state(value.__self__)
        number = self._met.get(id(value))
        if number is not None:
            return "met", number
        container = isinstance(value, _CONTAINERS)
        size = 1 + (len(value) if container else 0)
        if self._values + size > _MOST_VALUES or self._level >= _MOST_LEVELS:
            return _Same(value)
        self._values += size
        # An equal tuple may be this object or another one: it is the same either way.
        if not isinstance(value, (tuple, FrozenDict)):
            self._met[id(value)] = len(self._met)
            self._kept.append(value)
        self._level += 1
        try:
            return self._of_container(value) if container else self._of_object(value)
        finally:
            self._level -= 1

    def _of_container(self, value: Any) -> Hashable:
        own = () if _is_library(type(value).__module__) else (self.state(type(value)),)
        if isinstance(value, (set, frozenset)):
            plain = all(map(_is_plain, value))
            return (*own, frozenset(map(self.state, value)) if plain else _Same(value))
        if isinstance(value, (tuple, list, deque)):
            return (*own, *self._states(value))
        return (*own, *((self.state(key), self.state(value[key])) for key in value))

    def _of_object(self, value: Any) -> Hashable:
        if isinstance(value, functools.partial):
            return self._states((value.func, *value.args)), self._named(value.keywords)
        if isinstance(value, types.FunctionType):
            return tuple(self._of_function(value))
        if isinstance(value, type):
            return _Same(value), tuple(self._of_class(value))
        if isinstance(value, nn.Module):  # another one with equal fields is the same
            names = {field.name for field in fields(value)} - {"parent", "name"}
            own = {name: getattr(value, name, None) for name in names}
            return self.state(type(value)), self._named(own)
        by_identity = _package(type(value).__module__) in _BY_IDENTITY
        if isinstance(value, types.ModuleType) or (by_identity and not isinstance(value, _HOLDERS)):
            return _Same(value)
        return _Same(value), self.state(type(value)), self._named(_attributes(value))

    def _states(self, values: Iterable[Any]) -> tuple[Hashable, ...]:
        return tuple(map(self.state, values))

    def _named(self, values: Mapping[str, Any]) -> Hashable:
        return tuple((name, self.state(value)) for name, value in sorted(values.items()))

    def _of_function(self, function: types.FunctionType) -> Iterator[Hashable]:
        """Its code, its defaults, its closure, and the globals that the code reads."""
        yield _code_state(function.__code__)
        yield self._states(function.__defaults__ or ())
        yield self._named(function.__kwdefaults__ or {})
        for cell in function.__closure__ or ():
            try:
                yield self.state(cell.cell_contents)
            except ValueError:  # not assigned yet
                yield None
        if not _is_library(function.__globals__.get("__name__")):
            names, attributes = _read_by(function.__code__)
            yield from self._read(function.__globals__, names, attributes, set())

    def _read(
        self, namespace: Mapping[str, Any], names: Names, attributes: Names, modules: set[int]
    ) -> Iterator[Hashable]:
        """The names in a namespace, and the attributes of modules of one's own that are in it."""
        for name in names:
            if name not in namespace:
                continue
            value = namespace[name]
            yield name, self.state(value)
            own = isinstance(value, types.ModuleType) and not _is_library(value.__name__)
            if own and id(value) not in modules:
                modules.add(id(value))
                yield from self._read(vars(value), attributes, attributes, modules)

    def _of_class(self, own: type) -> Iterator[Hashable]:
        """What it and the classes it inherits from have in their bodies."""
        for base in own.__mro__:
            if _is_library(base.__module__):
                continue
            for name, value in sorted(vars(base).items()):
                found = _behind(value)
                if isinstance(found, types.FunctionType) or not name.startswith("__"):
                    yield name, self.state(found)


def _is_plain(value: Any) -> bool:
    return isinstance(value, _PLAIN) or (isinstance(value, tuple) and all(map(_is_plain, value)))


def _behind(value: Any) -> Any:
    """The function behind a decorator of a class's body."""
    if isinstance(value, (staticmethod, classmethod)):
        return value.__func__
    if _package(type(value).__module__) == "flax":  # which wraps the properties of linen modules
        value = getattr(value, "wrapped", value)
    if isinstance(value, property):
        return value.fget
    return value.func if isinstance(value, functools.cached_property) else value


def _attributes(value: Any) -> dict[str, Any]:
    """The attributes of an object, also those in slots."""
    found = dict(vars(value)) if hasattr(value, "__dict__") else {}
    for base in type(value).__mro__:
        slots = vars(base).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name.startswith("__") and not name.endswith("__"):
                name = f"_{base.__name__.lstrip('_')}{name}"
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


def _read_by(code: types.CodeType) -> tuple[Names, Names]:
    """The names of globals and of attributes that code reads, and the functions inside it."""
    names: dict[str, None] = {}
    attributes: dict[str, None] = {}
    codes = [code]
    while codes:
        read = codes.pop()
        codes += [value for value in read.co_consts if isinstance(value, types.CodeType)]
        for instruction in dis.get_instructions(read):
            kind = instruction.opname
            if kind in ("LOAD_ATTR", "LOAD_METHOD"):
                attributes[instruction.argval] = None
            elif kind == "LOAD_NAME" or (kind.startswith("LOAD_") and "GLOBAL" in kind):
                names[instruction.argval] = None
    return tuple(names), tuple(attributes)
