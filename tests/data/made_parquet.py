"""Parquet files as the Hugging Face hub has them, and of other kinds, written by pyarrow."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from tests.data.made_tfds import encoded

NAMES = ("ant", "bee", "house cat")


def pictures(count: int, side: int = 6, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8))


def hub_metadata(features: dict[str, Any]) -> dict[bytes, bytes]:
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def class_label(names: Sequence[str] | None = NAMES) -> dict[str, Any]:
    return {"_type": "ClassLabel", "names": names}


IMAGE = {"_type": "Image"}


def structs(cells: Sequence[bytes | None]) -> pa.Array:
    """As the hub's feature Image."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": cell, "path": f"{i}.png"} for i, cell in enumerate(cells)], kind)


def write(
    path: Path,
    columns: dict[str, Any],
    features: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """A file with these columns, and what the hub would say of them."""
    table = pa.table(columns)
    if features is not None:
        table = table.replace_schema_metadata(hub_metadata(features))
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table, path, **options)
    return path


def write_hub(
    path: Path,
    images: Sequence[np.ndarray | bytes | None],
    labels: Sequence[int | None],
    *,
    names: Sequence[str] | None = NAMES,
    **options: Any,
) -> Path:
    """A file as the hub writes it: columns "image" and "label"."""
    cells = [encoded(image) if isinstance(image, np.ndarray) else image for image in images]
    return write(
        path,
        {"image": structs(cells), "label": pa.array(labels, pa.int64())},
        {"image": IMAGE, "label": class_label(names)},
        **options,
    )


def write_dataset(folder: Path, *, train: int = 20, test: int = 5, **options: Any) -> Path:
    """Two shards to train on and one to test on; labels 0, 1, 2, 0, ..."""
    images, half = pictures(train), train // 2
    labels = [i % 3 for i in range(train)]
    for i, part in enumerate((slice(half), slice(half, None))):
        name = f"data/train-0000{i}-of-00002.parquet"
        write_hub(folder / name, images[part], labels[part], **options)
    tested = pictures(test, seed=1)
    write_hub(
        folder / "data/test-00000-of-00001.parquet", tested, [i % 3 for i in range(test)], **options
    )
    return folder
