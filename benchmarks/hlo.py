"""Reads a compiled program's text: kernels, bytes, convolutions.

The text is what `jax.stages.Compiled.as_text()` gives for a GPU: XLA's HLO after fusion and
scheduling, in which every instruction that is not free becomes a kernel, a copy or a call of a
library.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

_WIDTHS = {"pred": 1.0, "s4": 0.5, "u4": 0.5, "token": 0.0}  # bytes; others say it in their name
_FREE = frozenset(("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"))
_CALLS = frozenset(("call", "conditional", "async-start"))
_THROUGH = frozenset(("bitcast", "reshape"))  # of the same numbers
_SHAPE = re.compile(r"([a-z]+[0-9]*[a-z0-9]*)\[([0-9,<=]*)\](?:\{([^}]*)\})?")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?(%[\w.\-]+) = (.*)$")
_NAME = re.compile(r"%[\w.\-]+")
_CALLED = re.compile(
    r"(?:calls|to_apply|true_computation|false_computation)=(%[^,\s]+)|branch_computations=\{([^}]*)\}"
)


class Shape(NamedTuple):
    """An array's dtype, size and layout (dimensions from the fastest to the slowest)."""

    dtype: str
    dimensions: tuple[int, ...]
    layout: tuple[int, ...]

    @property
    def bytes(self) -> float:
        """Of the whole array."""
        return math.prod(self.dimensions) * _width(self.dtype)


class Instruction(NamedTuple):
    """A line of a computation."""

    name: str
    opcode: str
    shapes: tuple[Shape, ...]  # one, or those of a tuple
    operands: tuple[str, ...]
    rest: str  # the attributes
    is_root: bool

    @property
    def bytes(self) -> float:
        """Of all its results."""
        return sum(shape.bytes for shape in self.shapes)

    @property
    def target(self) -> str:
        """What a custom call calls, or nothing."""
        found = re.search(r'custom_call_target="([^"]*)"', self.rest)
        return found.group(1) if found else ""


class Convolution(NamedTuple):
    """A convolution of the program: its dtypes and order of dimensions."""

    dtypes: tuple[str, ...]  # of both operands and the result
    labels: str  # of images, kernel and outputs, as "b01f_o01i->b01f", also in cuDNN's gradients

    @property
    def channels_last(self) -> bool:
        """Whether the channels are the fastest dimension of images and outputs (NHWC)."""
        images, _, outputs = re.split("_|->", self.labels)
        return all(part.startswith("b") and part.endswith("f") for part in (images, outputs))


class Program:
    """A compiled program, by computations."""

    def __init__(self, text: str) -> None:
        """Read the text of a scheduled module."""
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = ""
        current: dict[str, Instruction] | None = None
        for line in text.splitlines():
            if line.startswith(("%", "ENTRY %")) and line.endswith("{"):
                name = _NAME.search(line)
                assert name is not None
                current = self.computations[name.group()] = {}
                if line.startswith("ENTRY"):
                    self.entry = name.group()
            elif current is not None:
                instruction = _read(line)
                if instruction is not None:
                    current[instruction.name] = instruction
        if not self.entry:
            raise ValueError("the text is not that of a compiled program: it has no ENTRY")

    def loop_body(self) -> str:
        """The body of the outermost loop, or the whole program where there is none."""
        for instruction in self.computations[self.entry].values():
            if instruction.opcode == "while":
                found = re.search(r"body=(%[^,\s]+)", instruction.rest)
                assert found is not None
                return found.group(1)
        return self.entry

    def launches(self, computation: str) -> Iterator[tuple[str, Instruction]]:
        """Everything that a computation launches, with the computation it stands in.

        All branches of a conditional count, so the sum is at least what one run launches.

        Raises:
            ValueError: there is a loop in it, whose number of runs is not read here.
        """
        for instruction in self.computations[computation].values():
            if instruction.opcode == "while":
                raise ValueError(
                    f"{instruction.name} is a loop inside of {computation}: how often it runs is "
                    "not read here, so its kernels cannot be counted"
                )
            if instruction.opcode in _CALLS:
                for called in _called(instruction):
                    yield from self.launches(called)
            elif instruction.opcode not in _FREE and not instruction.opcode.endswith("-done"):
                yield computation, instruction

    def traffic(self, computation: str, instruction: Instruction) -> float:
        """Bytes that a launch reads and writes in the device's memory.

        A slice or a gather reads what it takes of an array, and an update in place writes what it
        puts there. Everything else is counted whole, once.
        """
        table = self.computations[computation]
        sizes = [table[name].bytes for name in instruction.operands if name in table]
        if instruction.opcode != "fusion":
            return sum(sizes) + instruction.bytes
        (called,) = _called(instruction)
        read, written = self._of_fusion(self.computations[called], sizes)
        return read + (instruction.bytes if written is None else written)

    def _of_fusion(
        self, inside: dict[str, Instruction], sizes: list[float]
    ) -> tuple[float, float | None]:
        """Bytes read, and bytes written where that is less than the result."""
        users: dict[str, list[Instruction]] = {name: [] for name in inside}
        for instruction in inside.values():
            for operand in instruction.operands:
                users[operand].append(instruction)

        def read(name: str, whole: float) -> float:
            total = 0.0
            for user in users[name]:
                if user.opcode in ("dynamic-slice", "gather") and user.operands[0] == name:
                    total += user.bytes
                elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                    continue
                elif user.opcode in _THROUGH:
                    total += read(user.name, whole)
                else:
                    return whole
            return min(total, whole)

        total = 0.0
        for instruction in inside.values():
            if instruction.opcode == "parameter":
                number = int(re.match(r"\d+", instruction.rest).group())  # type: ignore[union-attr]
                total += read(instruction.name, sizes[number])
        return total, self._written(inside)

    @staticmethod
    def _written(inside: dict[str, Instruction]) -> float | None:
        (root,) = (instruction for instruction in inside.values() if instruction.is_root)
        while root.opcode in _THROUGH:
            root = inside[root.operands[0]]
        results = [inside[name] for name in root.operands] if root.opcode == "tuple" else [root]
        if not any(result.opcode == "dynamic-update-slice" for result in results):
            return None
        return sum(
            inside[result.operands[1]].bytes
            if result.opcode == "dynamic-update-slice"
            else result.bytes
            for result in results
        )

    def convolutions(self, computation: str) -> list[Convolution]:
        """Those that a computation runs, as calls of cuDNN or as plain instructions."""
        found = []
        for where, instruction in self.launches(computation):
            if "conv" not in instruction.target and instruction.opcode != "convolution":
                continue
            labels = re.search(r"dim_labels=([\w>\-]+)", instruction.rest)
            assert labels is not None
            operands = [self.computations[where][name] for name in instruction.operands[:2]]
            shapes = (*(operand.shapes[0] for operand in operands), instruction.shapes[0])
            found.append(Convolution(tuple(shape.dtype for shape in shapes), labels.group(1)))
        return found


def _called(instruction: Instruction) -> list[str]:
    """The computations that an instruction calls."""
    return _NAME.findall(" ".join(map(" ".join, _CALLED.findall(instruction.rest))))


def _read(line: str) -> Instruction | None:
    matched = _INSTRUCTION.match(line)
    if matched is None:
        return None
    root, name, text = matched.groups()
    text = re.sub(r"/\*[^*]*\*/", "", text)
    end = _closing(text, 0) + 1 if text.startswith("(") else text.index(" ")
    shapes = tuple(_shape(*found) for found in _SHAPE.findall(text[:end]))
    after = text[end:].lstrip()
    opening = after.index("(")
    closing = _closing(after, opening)
    inside = after[opening + 1 : closing]
    opcode = after[:opening]
    rest = inside if opcode == "parameter" else after[closing + 1 :]
    return Instruction(name, opcode, shapes, tuple(_NAME.findall(inside)), rest, bool(root))


def _shape(dtype: str, dimensions: str, layout: str) -> Shape:
    numbers = tuple(int(n.lstrip("<=")) for n in dimensions.split(",") if n)
    order = layout.split(":")[0]
    return Shape(dtype, numbers, tuple(int(n) for n in order.split(",") if n))


def _closing(text: str, opening: int) -> int:
    """The position of the parenthesis that closes the one at `opening`."""
    depth = 0
    for i in range(opening, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError("a parenthesis is not closed")


def _width(dtype: str) -> float:
    if dtype in _WIDTHS:
        return _WIDTHS[dtype]
    found = re.search(r"\d+", dtype)
    assert found is not None, dtype
    return int(found.group()) / 8
