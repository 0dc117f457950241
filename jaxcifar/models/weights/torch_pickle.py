"""A small, safe interpreter for the pickles inside PyTorch's files.

A pickle is a program. `pickle.Unpickler` with a custom `find_class` prevents it from running
foreign code, but not from exhausting the process: ten bytes make CPython allocate gigabytes for a
memo, a deep or repeatedly doubled tuple used as a key is hashed until the stack overflows or
practically forever, and BUILD sets attributes on any object. So this module executes only the
opcodes that `torch.save` writes (`pickletools` decodes them), on plain values and the inert records
below. Names are looked up in a table and never imported, and the number of steps is bounded.

The formats: https://github.com/pytorch/pytorch/blob/main/torch/serialization.py and
https://docs.python.org/3/library/pickletools.html.
"""

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MAX_BYTES = 1 << 24  # of one pickle
# A tensor takes 42 steps, so this allows 23,000 tensors; ResNet-152 has 932. It takes two seconds.
MAX_STEPS = 1_000_000
_MAX_DIMENSIONS = 64  # NumPy's limit
_MAX_EXCERPT = 80
_WHOLE = "is a whole pickled object, as of torch.save(model, path), not a state dict: it "


class Refused(Exception):
    """The file is refused; the message continues a sentence that starts with its name."""


@dataclass(frozen=True, slots=True)
class Storage:
    """A reference to `count` numbers of type `dtype`, stored elsewhere in the file under `key`."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage, as the file claims it, unchecked; offset and stride are in numbers."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Name:
    """The name of a known global, which REDUCE looks up in a table."""

    full: str


def excerpt(text: str) -> str:
    """Text from a file for a message: ASCII without control characters, and short."""
    text = ascii(text[: _MAX_EXCERPT + 1])[1:-1]
    return text if len(text) <= _MAX_EXCERPT else text[:_MAX_EXCERPT] + "..."


class Interpreter:
    """Executes the pickles of one file.

    Attributes:
        storages: those that the pickles refer to, by key.
    """

    def __init__(self) -> None:
        """The limit on steps is for all pickles together."""
        self.storages: dict[str, Storage] = {}
        self._steps_left = MAX_STEPS
        self._reset()

    def load(self, stream: io.BytesIO) -> Any:
        """The value of the pickle at the stream's position; the stream is left behind its end.

        The value consists of lists, dictionaries (ordered ones too), tuples, strings, numbers,
        None, `Storage` and `Tensor`. A container may contain itself, or the same object many times,
        so do not traverse or print the whole value.

        Raises:
            Refused: the pickle asks for more than tensors in plain containers, or for too much.
            Exception: of any type, if it is not a pickle or is cut short.
        """
        self._reset()
        for opcode, argument, _ in pickletools.genops(stream):
            self._count(1)
            if opcode.name == "STOP":
                return self._stack.pop()
            step = _STEPS.get(opcode.name)
            if step is None:
                text = f" ({excerpt(argument)})" if isinstance(argument, str) else ""
                raise Refused(
                    f"uses the pickle opcode {opcode.name}{text}, which torch.save does not write"
                )
            step(self, argument)
        raise AssertionError  # genops raises at the end of the stream

    def _reset(self) -> None:
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def _count(self, steps: int) -> None:
        self._steps_left -= steps
        if self._steps_left < 0:
            raise Refused(f"takes more than {MAX_STEPS:,} steps to read, far more than weights do")

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _mark(self, _: Any) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _since_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._push(self._memo[index])

    def _tuple(self, count: int) -> None:
        if len(self._stack) < count:
            raise IndexError("a tuple needs more items than the stack has")
        items = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._push(items)

    def _append(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise Refused(f"appends to a {_kind(self._stack[-1])}")
        self._stack[-1].extend(items)

    def _append_one(self, _: Any) -> None:
        item = self._stack.pop()
        self._append([item])

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict):
            raise Refused(f"sets an item of a {_kind(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            _check_key(key)
            target[key] = value

    def _set_one(self, _: Any) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set([key, value])

    def _name(self, full: str) -> None:
        if full not in _CALLS and full not in _STORAGES:
            # Before 1.6, torch.save refers to a module's class by ("module", class, source).
            whole = self._stack == ["module"] or not (self._stack or self._below)
            raise Refused(
                f"{_WHOLE if whole else ''}asks to run {excerpt(full)}: only plain tensors are "
                "read, and no code is run. In PyTorch, torch.save(model.state_dict(), path) writes "
                "a file of plain tensors"
            )
        self._push(_Name(full))

    def _name_from_stack(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if type(name) is not str or type(module) is not str:
            raise Refused("asks to run something whose name is not a string")
        self._name(f"{module}.{name}")

    def _reduce(self, _: Any) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, _Name) or function.full not in _CALLS:
            raise Refused(f"calls a {_kind(function)}")
        if type(arguments) is not tuple:
            raise Refused(f"calls {function.full} with a {_kind(arguments)}")
        self._push(_CALLS[function.full](self, arguments))

    def _build(self, _: Any) -> None:
        # The state is ignored: `_metadata` of a state dict, or an old Parameter's requires_grad.
        del self._stack[-1]
        if not isinstance(self._stack[-1], dict | Tensor):
            raise Refused(f"sets the state of a {_kind(self._stack[-1])}")

    def _persistent(self, _: Any) -> None:
        # The old format adds a view of another storage; torch.save writes None for it.
        reference = self._stack.pop()
        if (
            type(reference) is not tuple
            or len(reference) not in (5, 6)
            or reference[0] != "storage"
            or reference[5:] not in ((), (None,))
        ):
            raise Refused("refers to an object outside its pickle that is not a storage")
        kind, key, count = reference[1], reference[2], reference[4]
        if not isinstance(kind, _Name) or kind.full not in _STORAGES:
            raise Refused(f"has a storage whose type is a {_kind(kind)}")
        if type(key) is not str or type(count) is not int or count < 0:
            raise Refused("has a storage without a valid name and size")
        storage = Storage(key, _STORAGES[kind.full], count)
        if self.storages.setdefault(key, storage) != storage:
            raise Refused(f"describes its storage {excerpt(key)} in two ways")
        self._push(storage)

    def ordered_dict(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        """`OrderedDict()`, or as Python 2 calls it, with a list of pairs, each a list."""
        pairs = arguments[0] if arguments else []
        if len(arguments) > 1 or not isinstance(pairs, list):
            raise Refused("makes a dictionary of something other than a list of pairs")
        self._count(len(pairs))
        result = {}
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise Refused("makes a dictionary of something other than a list of pairs")
            _check_key(pair[0])
            result[pair[0]] = pair[1]
        return result

    def tensor(self, arguments: tuple[Any, ...]) -> Tensor:
        """The arguments of `_rebuild_tensor` (4) and `_rebuild_tensor_v2` (6, later 7)."""
        if len(arguments) not in (4, 6, 7):
            raise Refused(f"rebuilds a tensor from {len(arguments)} arguments")
        storage, offset, size, stride = arguments[:4]
        if not isinstance(storage, Storage):
            raise Refused(f"has a tensor in a {_kind(storage)}, not a storage")
        if len(arguments) == 7 and arguments[6]:  # flags such as "negated" or "conjugated"
            raise Refused("has a tensor with metadata, which may change the meaning of its numbers")
        if type(offset) is not int or offset < 0:
            raise Refused("has a tensor at an offset that is not a whole number of at least 0")
        _check_sizes("size", size)
        _check_sizes("stride", stride)
        if len(size) != len(stride):
            raise Refused(f"has a tensor with {len(size)} sizes but {len(stride)} strides")
        return Tensor(storage, offset, size, stride)

    def parameter(self, arguments: tuple[Any, ...]) -> Tensor:
        """The tensor of a Parameter; whether it was trained is ignored."""
        if not arguments or not isinstance(arguments[0], Tensor):
            raise Refused("has a Parameter without a tensor")
        return arguments[0]

    def torch_size(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """The tuple that a `torch.Size` is made from."""
        if len(arguments) != 1 or type(arguments[0]) is not tuple:
            raise Refused("has a torch.Size of something other than a tuple")
        return arguments[0]


def _kind(value: Any) -> str:
    """The type of a value; its contents are not printed, as they may be endless."""
    return value.full if isinstance(value, _Name) else type(value).__name__


def _check_key(key: Any) -> None:
    # Strings are hashed with a secret, but a file could use a million long integers of equal hash.
    if type(key) is str or (type(key) is int and abs(key) < 1 << 32):
        return
    raise Refused(f"has a dictionary with a key that is a {_kind(key)} or a huge number")


def _check_sizes(name: str, sizes: Any) -> None:
    if type(sizes) is not tuple or len(sizes) > _MAX_DIMENSIONS:
        raise Refused(
            f"has a tensor whose {name} is not a tuple of at most {_MAX_DIMENSIONS} numbers"
        )
    if any(type(size) is not int or size < 0 for size in sizes):
        raise Refused(f"has a tensor with a {name} that is not a whole number of at least 0")


_CALLS: dict[str, Callable[[Interpreter, tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": Interpreter.ordered_dict,
    "torch._utils._rebuild_tensor": Interpreter.tensor,
    "torch._utils._rebuild_tensor_v2": Interpreter.tensor,
    "torch._utils._rebuild_parameter": Interpreter.parameter,
    "torch.nn.parameter.Parameter": Interpreter.parameter,
    "torch.Size": Interpreter.torch_size,
}
_STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}


def _ignore(_interpreter: Interpreter, _argument: Any) -> None:
    """PROTO and FRAME have no effect on the value."""


# For GLOBAL, pickletools gives the module and the name separated by a space.
_STEPS: dict[str, Callable[[Interpreter, Any], None]] = {
    "PROTO": _ignore,
    "FRAME": _ignore,
    "MARK": Interpreter._mark,
    "NONE": lambda interpreter, _: interpreter._push(None),
    "NEWTRUE": lambda interpreter, _: interpreter._push(True),
    "NEWFALSE": lambda interpreter, _: interpreter._push(False),
    "EMPTY_TUPLE": lambda interpreter, _: interpreter._push(()),
    "EMPTY_LIST": lambda interpreter, _: interpreter._push([]),
    "EMPTY_DICT": lambda interpreter, _: interpreter._push({}),
    "BININT": Interpreter._push,
    "BININT1": Interpreter._push,
    "BININT2": Interpreter._push,
    "LONG1": Interpreter._push,
    "BINFLOAT": Interpreter._push,
    "BINUNICODE": Interpreter._push,
    "SHORT_BINUNICODE": Interpreter._push,
    "BINSTRING": Interpreter._push,
    "SHORT_BINSTRING": Interpreter._push,
    "BINPUT": Interpreter._put,
    "LONG_BINPUT": Interpreter._put,
    "MEMOIZE": Interpreter._memoize,
    "BINGET": Interpreter._get,
    "LONG_BINGET": Interpreter._get,
    "TUPLE": lambda interpreter, _: interpreter._push(tuple(interpreter._since_mark())),
    "TUPLE1": lambda interpreter, _: interpreter._tuple(1),
    "TUPLE2": lambda interpreter, _: interpreter._tuple(2),
    "TUPLE3": lambda interpreter, _: interpreter._tuple(3),
    "APPEND": Interpreter._append_one,
    "APPENDS": lambda interpreter, _: interpreter._append(interpreter._since_mark()),
    "SETITEM": Interpreter._set_one,
    "SETITEMS": lambda interpreter, _: interpreter._set(interpreter._since_mark()),
    "GLOBAL": lambda interpreter, names: interpreter._name(names.replace(" ", ".", 1)),
    "STACK_GLOBAL": Interpreter._name_from_stack,
    "REDUCE": Interpreter._reduce,
    "BUILD": Interpreter._build,
    "BINPERSID": Interpreter._persistent,
}
