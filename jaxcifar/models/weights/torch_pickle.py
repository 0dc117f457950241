"""The pickles inside PyTorch's files, followed by an interpreter that can do nothing else.

A pickle is a program. `pickle.Unpickler` with a `find_class` of one's own keeps it from foreign
code, but not from the interpreter's limits: ten bytes make CPython's allot gigabytes for a memo, a
deep or doubled tuple used as a key is hashed until the stack or the patience ends, and BUILD
writes attributes wherever it likes. So the opcodes that `torch.save` writes are carried out here
(`pickletools` tells them apart), on plain values and the inert records below; names are looked up
in a table, never imported; and the work is bounded.

The formats: https://github.com/pytorch/pytorch/blob/main/torch/serialization.py and
https://docs.python.org/3/library/pickletools.html.
"""

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MOST_BYTES = 1 << 24  # of one pickle
# 42 a tensor: 23,000 tensors, where ResNet-152 has 932. It takes two seconds.
MOST_STEPS = 1_000_000
_MOST_DIMENSIONS = 64  # NumPy's
_MOST_SHOWN = 80


class Refused(Exception):
    """A file that is not followed further; the message goes on from the file's name."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Numbers that lie elsewhere in the file under `key`: so many, of such a kind."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view of a storage, in numbers rather than bytes, as the file declares it: unchecked."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Name:
    """Stands for one of the known globals; a mere word, which REDUCE looks up."""

    full: str


def shown(text: str) -> str:
    """A name from a file, fit for a message: short, and no control characters."""
    text = ascii(text[: _MOST_SHOWN + 1])[1:-1]
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."


class Machine:
    """Follows the pickles of one file.

    Attributes:
      storages: those that the pickles mentioned, by key.
    """

    def __init__(self) -> None:
        """Nothing mentioned yet; the bound on work is for all pickles together."""
        self.storages: dict[str, Storage] = {}
        self._left = MOST_STEPS
        self._reset()

    def load(self, stream: io.BytesIO) -> Any:
        """The value of the pickle that begins where the stream stands; it is left after its end.

        Lists, dictionaries (ordered ones, too), tuples, strings, numbers, None, `Storage` and
        `Tensor`. They may contain themselves or one part many times, so they are not to be walked
        or printed whole.

        Raises:
          Refused: it asks for something other than tensors in plain containers, or for too much.
          Exception: of any kind, where it is no pickle or is cut short.
        """
        self._reset()
        for opcode, argument, _ in pickletools.genops(stream):
            self._work(1)
            if opcode.name == "STOP":
                return self._stack.pop()
            step = _STEPS.get(opcode.name)
            if step is None:
                about = f" ({shown(argument)})" if isinstance(argument, str) else ""
                raise Refused(
                    f"uses the pickle opcode {opcode.name}{about}, which torch.save does not write"
                )
            step(self, argument)
        raise AssertionError  # genops raises at the end of the stream

    def _reset(self) -> None:
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def _work(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise Refused(f"takes more than {MOST_STEPS:,} steps to read, far more than weights do")

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
            raise IndexError("a tuple of more than there is")
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
            raise Refused(
                f"asks to run {shown(full)}: only plain tensors are read, and no code. In PyTorch, "
                "torch.save(model.state_dict(), path) writes a file of plain tensors"
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
        # `_metadata` of a state dict, or whether an old Parameter takes part in training.
        del self._stack[-1]
        if not isinstance(self._stack[-1], dict | Tensor):
            raise Refused(f"sets the state of a {_kind(self._stack[-1])}")

    def _persistent(self, _: Any) -> None:
        # The old format adds a view of another storage, for which torch.save writes None.
        what = self._stack.pop()
        if (
            type(what) is not tuple
            or len(what) not in (5, 6)
            or what[0] != "storage"
            or what[5:] not in ((), (None,))
        ):
            raise Refused("refers to something other than a storage outside of its pickle")
        kind, key, count = what[1], what[2], what[4]
        if not isinstance(kind, _Name) or kind.full not in _STORAGES:
            raise Refused(f"has a storage whose type is a {_kind(kind)}")
        if type(key) is not str or type(count) is not int or count < 0:
            raise Refused("has a storage without a proper name and size")
        storage = Storage(key, _STORAGES[kind.full], count)
        if self.storages.setdefault(key, storage) != storage:
            raise Refused(f"describes its storage {shown(key)} in two ways")
        self._push(storage)

    def ordered_dict(self, arguments: tuple[Any, ...]) -> dict[Any, Any]:
        """`OrderedDict()`, or Python 2's way of giving it a list of pairs, each a list."""
        pairs = arguments[0] if arguments else []
        if len(arguments) > 1 or not isinstance(pairs, list):
            raise Refused("makes a dictionary of something other than a list of pairs")
        self._work(len(pairs))
        made = {}
        for pair in pairs:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise Refused("makes a dictionary of something other than a list of pairs")
            _check_key(pair[0])
            made[pair[0]] = pair[1]
        return made

    def tensor(self, arguments: tuple[Any, ...]) -> Tensor:
        """The arguments of `_rebuild_tensor` (4) and `_rebuild_tensor_v2` (6, later 7)."""
        if len(arguments) not in (4, 6, 7):
            raise Refused(f"rebuilds a tensor from {len(arguments)} arguments")
        storage, offset, size, stride = arguments[:4]
        if not isinstance(storage, Storage):
            raise Refused(f"has a tensor in a {_kind(storage)}, not a storage")
        if len(arguments) == 7 and arguments[6]:  # bits that say "negated" or "conjugated"
            raise Refused("has a tensor with metadata, which may change the meaning of its numbers")
        if type(offset) is not int or offset < 0:
            raise Refused("has a tensor at an offset that is not a number from 0 on")
        _check_sizes("size", size)
        _check_sizes("stride", stride)
        if len(size) != len(stride):
            raise Refused(f"has a tensor of {len(size)} sizes and {len(stride)} strides")
        return Tensor(storage, offset, size, stride)

    def parameter(self, arguments: tuple[Any, ...]) -> Tensor:
        """A Parameter is its tensor here, and trained or not is the caller's choice."""
        if not arguments or not isinstance(arguments[0], Tensor):
            raise Refused("has a Parameter that holds no tensor")
        return arguments[0]

    def torch_size(self, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        """`torch.Size` of a tuple is the tuple."""
        if len(arguments) != 1 or type(arguments[0]) is not tuple:
            raise Refused("has a torch.Size of something other than a tuple")
        return arguments[0]


def _kind(value: Any) -> str:
    """What a value is, without looking into it: it may be endless."""
    return value.full if isinstance(value, _Name) else type(value).__name__


def _check_key(key: Any) -> None:
    # Strings are hashed with a secret. Of long integers a file may choose a million with one hash.
    if type(key) is str or (type(key) is int and abs(key) < 1 << 32):
        return
    raise Refused(f"has a dictionary with a key that is a {_kind(key)}, or a huge number")


def _check_sizes(what: str, sizes: Any) -> None:
    if type(sizes) is not tuple or len(sizes) > _MOST_DIMENSIONS:
        raise Refused(f"has a tensor whose {what} is not a tuple of numbers, one a dimension")
    if any(type(size) is not int or size < 0 for size in sizes):
        raise Refused(f"has a tensor with a {what} that is not a number from 0 on")


_CALLS: dict[str, Callable[[Machine, tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": Machine.ordered_dict,
    "torch._utils._rebuild_tensor": Machine.tensor,
    "torch._utils._rebuild_tensor_v2": Machine.tensor,
    "torch._utils._rebuild_parameter": Machine.parameter,
    "torch.nn.parameter.Parameter": Machine.parameter,
    "torch.Size": Machine.torch_size,
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


def _ignore(_machine: Machine, _argument: Any) -> None:
    """PROTO and FRAME say nothing that matters here."""


# pickletools gives GLOBAL's two names with a space between.
_STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "PROTO": _ignore,
    "FRAME": _ignore,
    "MARK": Machine._mark,
    "NONE": lambda machine, _: machine._push(None),
    "NEWTRUE": lambda machine, _: machine._push(True),
    "NEWFALSE": lambda machine, _: machine._push(False),
    "EMPTY_TUPLE": lambda machine, _: machine._push(()),
    "EMPTY_LIST": lambda machine, _: machine._push([]),
    "EMPTY_DICT": lambda machine, _: machine._push({}),
    "BININT": Machine._push,
    "BININT1": Machine._push,
    "BININT2": Machine._push,
    "LONG1": Machine._push,
    "BINFLOAT": Machine._push,
    "BINUNICODE": Machine._push,
    "SHORT_BINUNICODE": Machine._push,
    "BINSTRING": Machine._push,
    "SHORT_BINSTRING": Machine._push,
    "BINPUT": Machine._put,
    "LONG_BINPUT": Machine._put,
    "MEMOIZE": Machine._memoize,
    "BINGET": Machine._get,
    "LONG_BINGET": Machine._get,
    "TUPLE": lambda machine, _: machine._push(tuple(machine._since_mark())),
    "TUPLE1": lambda machine, _: machine._tuple(1),
    "TUPLE2": lambda machine, _: machine._tuple(2),
    "TUPLE3": lambda machine, _: machine._tuple(3),
    "APPEND": Machine._append_one,
    "APPENDS": lambda machine, _: machine._append(machine._since_mark()),
    "SETITEM": Machine._set_one,
    "SETITEMS": lambda machine, _: machine._set(machine._since_mark()),
    "GLOBAL": lambda machine, names: machine._name(names.replace(" ", ".", 1)),
    "STACK_GLOBAL": Machine._name_from_stack,
    "REDUCE": Machine._reduce,
    "BUILD": Machine._build,
    "BINPERSID": Machine._persistent,
}
