"""Small archives in the two formats of the CIFAR originals, with made-up images."""

import dataclasses
import hashlib
import io
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxcifar.data.cifar import ArchiveSource
from jaxcifar.data.cifar10 import CLASS_NAMES
from jaxcifar.data.cifar100 import CIFAR100
from jaxcifar.data.cifar_format import CifarFormat, TwiceLabelled
from jaxcifar.data.dataset import Dataset
from jaxcifar.data.download import Remote

FORM = CifarFormat(records=20, train_batches=5, class_names=CLASS_NAMES)
FORM_100 = dataclasses.replace(CIFAR100.form, records=200, test_records=100)
Members = dict[str, bytes]
Edit = Callable[[tarfile.TarFile], None]


def made_images(seed: int = 0) -> tuple[Dataset, Dataset]:
    """100 training and 20 test images of noise; every batch has equally many of each class."""
    generator = np.random.default_rng(seed)

    def noise(n: int) -> Dataset:
        labels = np.concatenate([generator.permutation(10) for _ in range(n // 10)])
        images = generator.integers(0, 256, (n, 32, 32, 3), np.uint8)
        return Dataset(images, labels.astype(np.int32))

    return noise(FORM.train_records), noise(FORM.records)


def made_images_100(seed: int = 0) -> tuple[TwiceLabelled, TwiceLabelled]:
    """200 training and 100 test images of noise, equally many of each of the 100 classes."""
    generator = np.random.default_rng(seed)

    def noise(n: int) -> TwiceLabelled:
        fine = generator.permutation(np.arange(n) % 100).astype(np.int32)
        images = generator.integers(0, 256, (n, 32, 32, 3), np.uint8)
        return TwiceLabelled(images, fine, (fine * 7 + 3) % 20)

    return noise(FORM_100.records), noise(FORM_100.counts["test"])


def planes(dataset: Dataset) -> np.ndarray:
    """uint8 `[n, 3072]`, channels first, as both formats store it."""
    return dataset.images.transpose(0, 3, 1, 2).reshape(len(dataset), -1)


def batches(suffix: str, train: Dataset, test: Dataset) -> dict[str, Dataset]:
    names, n = FORM.batches(suffix), FORM.records
    cut = [
        Dataset(train.images[i : i + n], train.labels[i : i + n]) for i in range(0, len(train), n)
    ]
    return dict(zip(names, [*cut, test], strict=True))


def binary_members(train: Dataset, test: Dataset) -> Members:
    members = {
        name: np.concatenate(
            [batch.labels.astype(np.uint8)[:, None], planes(batch)], axis=1
        ).tobytes()
        for name, batch in batches(".bin", train, test).items()
    }
    return members | {"batches.meta.txt": ("\n".join(CLASS_NAMES) + "\n\n").encode()}


def python_members(train: Dataset, test: Dataset) -> Members:
    members = {name: pickled(batch) for name, batch in batches("", train, test).items()}
    names = b"".join(_string(name.encode()) for name in CLASS_NAMES)
    meta = b"\x80\x02}(" + _string(b"label_names") + b"](" + names + b"eu."
    return members | {"batches.meta": meta}


def pickled(batch: Dataset) -> bytes:
    """The pickle of one batch, opcode by opcode as Python 2's cPickle wrote the originals."""
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in batch.labels) + b"e"
    return pickled_batch(planes(batch).tobytes(), (len(batch), 3072), labels)


def pickled_batch(
    data: bytes, shape: tuple[int, int], labels: bytes, dtype: bytes = b"u1"
) -> bytes:
    array = _array(data, shape, dtype)
    return b"\x80\x02}(" + _string(b"data") + array + _string(b"labels") + labels + b"u."


def _array(data: bytes, shape: tuple[int, int], dtype: bytes = b"u1") -> bytes:
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + _string(b"b") + b"tR"
        b"(K\x01(" + _int(shape[0]) + _int(shape[1]) + b"t"
        b"cnumpy\ndtype\n(" + _string(dtype) + b"K\x00K\x01tR"
        b"(K\x03" + _string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89" + _long_string(data) + b"tb"
    )


def members_100(kind: str, train: TwiceLabelled, test: TwiceLabelled) -> Members:
    """The members of a CIFAR-100 archive, "binary" or "python"."""
    batches = {"train": train, "test": test}
    names = {"coarse": FORM_100.coarse_names, "fine": FORM_100.class_names}
    if kind == "python":
        members = {name: pickled_100(batch) for name, batch in batches.items()}
        lists = b"".join(
            _string(f"{level}_label_names".encode())
            + b"]("
            + b"".join(_string(name.encode()) for name in of_level)
            + b"e"
            for level, of_level in names.items()
        )
        return members | {"meta": b"\x80\x02}(" + lists + b"u."}
    members = {
        f"{name}.bin": np.concatenate(
            [np.stack([batch.coarse, batch.labels], axis=1).astype(np.uint8), planes(batch)], axis=1
        ).tobytes()
        for name, batch in batches.items()
    }
    return members | {
        f"{level}_label_names.txt": ("\n".join(of_level) + "\n").encode()
        for level, of_level in names.items()
    }


def pickled_100(batch: TwiceLabelled) -> bytes:
    """As Python 2's cPickle wrote the originals, with their file names."""
    names = b"](" + b"".join(_string(b"x_s_%06d.png" % i) for i in range(len(batch))) + b"e"
    return (
        b"\x80\x02}("
        + (_string(b"filenames") + names)
        + (_string(b"batch_label") + _string(b"training batch 1 of 1"))
        + (_string(b"fine_labels") + _numbers(batch.labels))
        + (_string(b"coarse_labels") + _numbers(batch.coarse))
        + (_string(b"data") + _array(planes(batch).tobytes(), (len(batch), 3072)))
        + b"u."
    )


def _numbers(labels: np.ndarray) -> bytes:
    return b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"


def _string(value: bytes) -> bytes:
    return b"U" + bytes([len(value)]) + value


def _long_string(value: bytes) -> bytes:
    return b"T" + struct.pack("<i", len(value)) + value


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def write_archive(path: Path, members: Members, edit: Edit | None = None) -> Path:
    """A gzip-compressed tar of `members` in a folder; `edit` may add more."""
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        folder = tarfile.TarInfo("cifar-10-batches")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for name, data in members.items():
            add(tar, f"cifar-10-batches/{name}", data)
        add(tar, "cifar-10-batches/readme.html", b"<html></html>")
        if edit:
            edit(tar)
    return path


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **attributes: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for attribute, value in attributes.items():
        setattr(member, attribute, value)
    tar.addfile(member, io.BytesIO(data))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def remote(path: Path, *urls: str) -> Remote:
    return Remote(path.name, path.stat().st_size, sha256(path), urls)


def source(*archives: Remote) -> ArchiveSource:
    return ArchiveSource(FORM, archives)
