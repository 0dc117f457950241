"""Which columns of a Parquet file hold the images and their labels, and what its footer says.

The Hugging Face hub writes images as a struct of bytes and path, and says in the schema's metadata
which columns are of type Image and ClassLabel, with the names of the classes.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from jaxcifar.common.errors import DataError, MessageError
from jaxcifar.common.files import Unusable, parse_json
from jaxcifar.common.json_shape import AnyText, misfit
from jaxcifar.common.messages import did_you_mean, escaped, printable, reason_of

IMAGE_NAMES = ("image", "img", "picture")
LABEL_NAMES = ("label", "labels", "fine_label", "target")
MAX_CLASSES = 100_000  # as many as a run can describe
MAX_ROWS = 20_000_000  # of one file; ImageNet has 1.3 million in all, each of them labels in memory
_MAX_METADATA = 16 << 20  # bytes; of 21,000 classes with long names it is 1 MB
_AGAIN = "get the file again"


class Columns(NamedTuple):
    """The two columns that are used.

    Attributes:
        image, label: their names.
        in_struct: whether the pictures are the field "bytes" of a struct.
        as_text: whether labels are texts, not whole numbers.
        class_names: in label order; None if the file does not say.
    """

    image: str
    label: str
    in_struct: bool
    as_text: bool
    class_names: tuple[str, ...] | None


class Group(NamedTuple):
    """A row group of a file: its number of rows, and the size of all of them in memory, bytes."""

    rows: int
    size: int


class Footer(NamedTuple):
    """What a file says of itself.

    Attributes:
        schema: of pyarrow.
        groups: the row groups in order.
    """

    schema: Any
    groups: tuple[Group, ...]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever pyarrow raises for a damaged file into one error that names the file."""
    try:
        yield
    except MessageError:
        raise
    # pyarrow's own, OSError, OverflowError, MemoryError, UnicodeDecodeError and more.
    except Exception as error:
        raise DataError(
            f"{path} is not a Parquet file, or is damaged or cut off ({reason_of(error)}); {_AGAIN}"
        ) from None


def read_footer(path: Path) -> Footer:
    """Read what a file says of itself; no rows.

    Raises:
        DataError: it is not a regular file, cannot be read, or declares an impossible size.
    """
    check_regular(path)
    with reading(path), open_parquet(path) as file:
        metadata = file.metadata
        found = (metadata.row_group(i) for i in range(metadata.num_row_groups))
        groups = tuple(Group(group.num_rows, group.total_byte_size) for group in found)
        rows = sum(group.rows for group in groups)
        if not 0 <= rows <= MAX_ROWS or any(group.rows < 0 for group in groups):
            raise DataError(
                f"{path} declares {rows:,} rows, more than the limit of {MAX_ROWS:,}, or fewer "
                f"than none: it is damaged; {_AGAIN}, or split it"
            )
        if rows != metadata.num_rows:
            raise DataError(
                f"{path} declares {metadata.num_rows:,} rows, and its row groups {rows:,}: it is "
                f"damaged; {_AGAIN}"
            )
        return Footer(file.schema_arrow, groups)


def check_regular(path: Path) -> None:
    """Refuse what is not a regular file: reading a pipe would block.

    Raises:
        DataError: it is something else, or is not there.
    """
    try:
        regular = stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; {_AGAIN}") from None
    if not regular:
        raise DataError(f"{path} is not a regular file; put the Parquet file itself there")


def open_parquet(path: Path) -> Any:
    """The `pyarrow.parquet.ParquetFile`, which reads a column page by page."""
    from pyarrow import parquet

    return parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)


def find_columns(
    schema: Any, path: Path, name: str, *, image: str | None, label: str | None
) -> Columns:
    """The columns of the images and of the labels.

    Args:
        schema: from `read_footer`.
        path: of the file, for messages.
        name: of the dataset, for messages.
        image, label: the names of columns that were asked for.

    Raises:
        DataError: none or several could be meant, or one is of a type that cannot be used.
    """
    features = _features(schema, path)
    images, image_features = _candidates(schema, features, "Image", IMAGE_NAMES)
    labels, _ = _candidates(schema, features, "ClassLabel", LABEL_NAMES)
    image = image or _only(schema, images, "image", path, name)
    label = label or _only(schema, labels, "label", path, name)
    in_struct = _check_image(_field(schema, image, path), path, is_feature=image in image_features)
    as_text = _check_label(_field(schema, label, path), path)
    names = None if as_text else _class_names(features.get(label), label, path)
    return Columns(image, label, in_struct, as_text, names)


def with_option(name: str, key: str, value: str) -> str:
    """The name of a dataset that also names a column: parquet:PATH#image=...,label=..."""
    return f"{name}{',' if '#' in name else '#'}{key}={value}"


def _candidates(
    schema: Any, features: dict[str, Any], kind: str, names: Sequence[str]
) -> tuple[list[str], list[str]]:
    """The columns that could be meant, and those that are by their type on the hub."""
    typed = [key for key in schema.names if _type_of(features.get(key)) == kind]
    return typed or [key for key in names if key in schema.names], typed


def _type_of(feature: Any) -> Any:
    return feature.get("_type") if isinstance(feature, dict) else None


def _only(schema: Any, found: Sequence[str], kind: str, path: Path, name: str) -> str:
    if len(found) == 1:
        return found[0]
    columns = ", ".join(map(printable, schema.names[:20])) or "none"
    way_out = with_option(name, kind, found[0] if found else "COLUMN")
    if found:
        raise DataError(
            f"{path} has several columns that could be the {kind}: "
            f"{', '.join(map(printable, found[:20]))}; name one, as in {way_out}"
        )
    raise DataError(
        f"{path} has the columns {columns}, and it is not clear which is the {kind}; name it, as "
        f"in {way_out}"
    )


def _field(schema: Any, name: str, path: Path) -> Any:
    count = schema.names.count(name)
    if count == 1:
        return schema.field(name)
    if count:
        raise DataError(f"{path} has {count} columns called {name}; rename all but one")
    raise DataError(f"{path} has no column {name!r}{did_you_mean(name, schema.names)}")


def _check_image(field: Any, path: Path, *, is_feature: bool) -> bool:
    """Whether the pictures are in a struct."""
    kind = field.type
    if _is_struct(kind):
        inside = [part for part in kind if part.name == "bytes"]
        if len(inside) == 1 and _is_binary(inside[0].type):
            return True
    elif _is_binary(kind):
        return False
    raise DataError(
        f"{path}: the column {field.name} is of type {printable(str(kind))}; images must be "
        "encoded pictures (binary), or a struct of their bytes and path as the hub writes it"
    )


def _check_label(field: Any, path: Path) -> bool:
    """Whether labels are texts."""
    from pyarrow import types

    kind = field.type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_string(kind) or types.is_large_string(kind):
        return True
    if types.is_integer(kind):
        return False
    raise DataError(
        f"{path}: the column {field.name} is of type {printable(str(kind))}; labels must be whole "
        "numbers or texts, one for each image"
    )


def _is_struct(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_struct(kind))


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind))


def _features(schema: Any, path: Path) -> dict[str, Any]:
    """What the hub's metadata say of each column; empty if there are none.

    Raises:
        DataError: they cannot be understood.
    """
    text = (schema.metadata or {}).get(b"huggingface")
    if text is None:
        return {}
    where = f"the metadata huggingface of {path}"
    if len(text) > _MAX_METADATA:
        raise DataError(
            f"{where} has {len(text):,} bytes, more than the limit of {_MAX_METADATA:,}; {_AGAIN}"
        )
    try:
        value = parse_json(text, where)
    except Unusable as error:
        raise DataError(f"{error}; {_AGAIN}") from None
    problem = misfit(value, {"info?": {"features?": dict}}, "it")
    if problem is not None:
        raise DataError(f"{where} cannot be understood: {problem}; {_AGAIN}")
    return dict(value.get("info", {}).get("features", {}))


def _class_names(feature: Any, label: str, path: Path) -> tuple[str, ...] | None:
    if _type_of(feature) != "ClassLabel" or feature.get("names") is None:
        return None
    names = feature["names"]
    problem = misfit(names, [AnyText], "names")
    if problem is None and not 1 <= len(names) <= MAX_CLASSES:
        problem = f"there are {len(names):,} names, not 1 to {MAX_CLASSES:,}"
    if problem is None and len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        problem = f"two classes are called {escaped(twice)}"
    if problem is not None:
        raise DataError(f"{path}: the class names of the column {label} are wrong: {problem}")
    return tuple(names)
