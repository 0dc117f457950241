"""Whatever a file holds, its reader returns something valid or raises the error it documents.

The same readers are tried on many more files by ``pytest -m slow tests/fuzz`` (ten minutes).
"""

import contextlib
import gzip
import io
import json
import struct
import tarfile
import tempfile
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save

from jaxcifar.common.errors import DataError, ImageFileError, RecipeError, RunError, WeightsError
from jaxcifar.data import cache
from jaxcifar.data.archive import read_archive
from jaxcifar.data.cifar10 import CLASS_NAMES
from jaxcifar.data.image_file import read_image
from jaxcifar.data.parquet_any import find_parquet
from jaxcifar.data.parquet_rows import digest_pictures
from jaxcifar.data.tfds_store import find_prepared
from jaxcifar.models.preprocessing import Preprocessing
from jaxcifar.models.weights import read_weights
from jaxcifar.models.weights.read import preprocessing_metadata
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs.directory import COLUMNS, RunDirectory
from jaxcifar.runs.restore import read_recipe
from jaxcifar.studies.reproduction.directory import ReportDirectory
from jaxcifar.studies.reproduction.plan import PLAN
from jaxcifar.studies.reproduction.report import Entry, Report, build_page
from jaxcifar.studies.sweeps.directory import SweepDirectory, read_sweep
from jaxcifar.studies.sweeps.result import COLUMNS as SWEEP_COLUMNS
from tests.data import made_archives, made_parquet
from tests.fuzz.mutations import changed_bytes, changed_json
from tests.models.weights import made_torch
from tests.studies.reproduction.test_report import MACHINE, REPORTED, write_run

SECONDS = 20  # for one file, on a busy machine
FEW, MANY = 200, 4_000
ENTRY = Entry("scratch", "From scratch.", "scratch", "scratch", REPORTED, ())


# Each reader: (folder, bytes) -> None, and the errors that it may raise.


def weights(folder, data):
    (folder / "w").write_bytes(data)
    file = read_weights(folder / "w")
    assert all(isinstance(tensor, np.ndarray) for tensor in file.tensors.values())
    assert sum(t.size for t in file.tensors.values()) <= max(len(data), 1)  # no reader invents data
    Preprocessing.from_metadata(file.metadata)


def archive(folder, data):
    (folder / "a.tar.gz").write_bytes(data)
    for dataset in read_archive(folder / "a.tar.gz", made_archives.FORM).values():
        assert dataset.images.shape[1:] == (32, 32, 3)
        assert dataset.labels.max() < 10


def image(folder, data):
    (folder / "x").write_bytes(data)
    pixels = read_image(folder / "x")
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3


def config(folder, data):
    (folder / "config.json").write_bytes(data)
    files = RunDirectory(folder)
    recipe = read_recipe(files)
    assert recipe.width <= 4_096
    assert recipe.epochs * recipe.steps_per_epoch < 2**31
    recipe.make_schedule()(0)
    assert files.holds_run()


def metrics(folder, data):
    (folder / "metrics.jsonl").write_bytes(data)
    history = RunDirectory(folder).read_history()
    for name in COLUMNS:
        np.asarray(history.validated().column(name), float)
    rows = RunDirectory(folder).read_history().rows
    RunDirectory(folder).keep_history(rows[-1]["step"] if rows else 0)


def summary(folder, data):
    (folder / "summary.json").write_bytes(data)
    scores = RunDirectory(folder).read_summary()
    assert all(isinstance(f"{of(scores):.4f}", str) for of in SWEEP_COLUMNS.values())


def page(folder, data):
    """A run on the page of a report: with one of three files damaged, there is still a page."""
    name, _, content = data.partition(b"\n")
    run = folder / "run"
    if not run.exists():
        write_run(run, epochs=2)
    intact = (run / name.decode()).read_bytes()
    (run / name.decode()).write_bytes(content)
    try:
        entry = Entry(**(vars(ENTRY) | {"paths": (run,)}))
        assert build_page(Report("full", (entry,))).blocks
    finally:
        (run / name.decode()).write_bytes(intact)


def sweep(folder, data):
    (folder / "sweep.json").write_bytes(data)
    description = SweepDirectory(folder).read()
    for value in description["values"]:
        member = folder / f"{description['field']}={value}"
        assert member.parent == folder
        assert ".." not in member.parts
    read_sweep(folder)


def mark(folder, data):
    (folder / "plan.json").write_bytes(data)
    report = ReportDirectory(folder, PLAN)
    found = report.read_mark()
    assert found is not None
    report.command(found)
    assert len(report.entries()) < len(PLAN)


def prepared(folder, data):
    name, _, content = data.partition(b"\n")
    directory = folder / "cifar10" / "3.0.2"
    directory.mkdir(parents=True, exist_ok=True)
    for file, text in PREPARED.items():
        (directory / file).write_bytes(content if file == name.decode() else text)
    dataset = find_prepared(folder, made_archives.FORM)
    assert dataset is not None
    assert all(file.parent == directory for file in dataset.files)


def parquet(folder, data):
    path = folder / "test.parquet"
    path.write_bytes(data)
    found = find_parquet(f"parquet:{path}", split="test")
    source, labels = found.sources(8)["test"], found.labels["test"]
    assert 0 <= labels.min() <= labels.max() < len(found.class_names)
    images, faults = source.try_read(np.arange(len(source)))
    assert images.images.shape == (len(labels), 8, 8, 3)
    assert len(faults) <= len(labels)
    digest_pictures(found.splits["test"], labels, lambda count: None)


def decoded_cache(folder, data):
    """A file of the decoded cache, with its right checksum."""
    name, _, content = data.partition(b"\n")
    contents = CACHED | {name.decode(): content}
    for file, text in contents.items():
        (folder / file).write_bytes(text)
    if name != b"checks.json":
        checks = {file: zlib.crc32(text) for file, text in contents.items()}
        (folder / "checks.json").write_text(json.dumps(checks))
    arrays = cache._load(folder, ("images", "labels"))
    assert arrays is None or all(
        len(arrays[split, "images"]) == len(arrays[split, "labels"]) for split in ("train", "test")
    )


def hub_config(folder, data):
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(value, dict):
        Preprocessing.from_metadata(preprocessing_metadata(value))


# Valid files, and changed ones made of them.

ROW = dict.fromkeys(COLUMNS, 0.5) | {"epoch": 1, "step": 10}
SCORE = {
    "step": 10,
    "validation_accuracy": 0.4,
    "test": {"accuracy": 0.5, "loss": 1, "examples": 9},
}
SUMMARY = {
    "epochs": 2,
    "parameters": 1_000,
    "trainable_parameters": 10,
    "train_accuracy": 0.6,
    "train_seconds": 3_731.0,
    "validation_seconds": 12.0,
    "images_per_second": 350.4,
    "best": SCORE,
    "last": SCORE,
}
RECIPE = Recipe(dataset="digits", normalization="half", width=8).to_dict()
CONFIG = {
    "experiment": "demo",
    "recipe": RECIPE,
    "data_fingerprint": "ab",
    "weights": {"source": "w", "sha256": "ab"},
    "machine": MACHINE,
}
SWEEP = {
    "experiment": "demo",
    "field": "seed",
    "values": [0, 1],
    "recipe": RECIPE,
    "mode": "sequential",
    "why": "as asked",
    "measured": None,
    "failures": {"seed=1": "not finite"},
}
MARK = {
    "made_by": "jaxcifar reproduce",
    "scale": "full",
    "seed": 0,
    "asked": {"scratch": {"weights": "a/b", "epochs": 3, "seeds": 2}, "mini": {}},
    "failed": {"mini": "no data"},
}
HUB = {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.2] * 3, "input_size": [3, 224, 224]}}
_FEATURE = "tensorflow_datasets.core.features."
FEATURES = {
    "pythonClassName": _FEATURE + "features_dict.FeaturesDict",
    "featuresDict": {
        "features": {
            "image": {"pythonClassName": _FEATURE + "image_feature.Image", "image": {}},
            "label": {
                "pythonClassName": _FEATURE + "class_label_feature.ClassLabel",
                "classLabel": {"numClasses": "10"},
            },
        }
    },
}
INFO = {
    "name": "cifar10",
    "fileFormat": "array_record",
    "version": "3.0.2",
    "splits": [
        {"name": "train", "shardLengths": ["60", "40"], "numBytes": "9"},
        {
            "name": "test",
            "shardLengths": ["20"],
            "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        },
    ],
}
PREPARED = {
    "dataset_info.json": json.dumps(INFO).encode(),
    "features.json": json.dumps(FEATURES).encode(),
    "label.labels.txt": "\n".join(CLASS_NAMES).encode(),
    "cifar10-train.array_record-00000-of-00002": b"",
    "cifar10-train.array_record-00001-of-00002": b"",
    "cifar10-test.array_record-00000-of-00001": b"",
}


def npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


CACHED = {
    f"{split}_{field}.npy": npy(array)
    for split in ("train", "test")
    for field, array in (
        ("images", np.zeros((2, 4, 4, 3), np.uint8)),
        ("labels", np.zeros(2, np.int32)),
    )
}
CHECKS = {name: zlib.crc32(data) for name, data in CACHED.items()}

BODY = made_torch.dictionary(
    {
        "a": made_torch.tensor(),
        "b": made_torch.tensor((2,), (1,), 4),
        "h": made_torch.tensor((2,), (1,), of=made_torch.storage("1", "torch.HalfStorage", 2)),
    }
)


def torch_zip(body):
    return made_torch.zip_bytes(body, {"0": made_torch.NUMBERS, "1": b"\0" * 4})


def torch_stream(body):
    storages = [("0", 6, made_torch.NUMBERS), ("1", 2, b"\0" * 4)]
    return made_torch.stream_bytes(body, storages)


SAFETENSORS = save(
    {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array(3, np.int64)},
    {"mean": "0.5 0.5 0.5", "std": "1 1 1", "size": "32"},
)
_SIZE = int.from_bytes(SAFETENSORS[:8], "little")
SAFETENSORS_HEADER, SAFETENSORS_DATA = (
    json.loads(SAFETENSORS[8 : 8 + _SIZE]),
    SAFETENSORS[8 + _SIZE :],
)


def with_length(header):
    return struct.pack("<Q", len(header)) + header + SAFETENSORS_DATA


PIXELS = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)


def picture(kind, **options):
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "said"
    picture = Image.fromarray(PIXELS)
    if kind == "GIF":
        picture.save(out, kind, save_all=True, append_images=[Image.new("RGB", (11, 9), "red")])
    else:
        picture.save(out, kind, **({} if kind == "BMP" else {"exif": exif}), **options)
    return out.getvalue()


def chunks_of(png):
    at, chunks = 8, []
    while at < len(png):
        (size,) = struct.unpack(">I", png[at : at + 4])
        chunks.append((png[at + 4 : at + 8], png[at + 8 : at + 8 + size]))
        at += 12 + size
    return chunks


@st.composite
def changed_png(draw):
    """With right checksums, so that the code behind them is tested."""
    chunks = chunks_of(picture("PNG"))
    at = draw(st.integers(0, len(chunks) - 1))
    kind, data = chunks[at]
    raw = kind == b"IDAT" and draw(st.booleans())
    data = draw(changed_bytes(zlib.decompress(data) if raw else data))
    chunks[at] = kind, zlib.compress(data) if raw else data
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def tar_of(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        made_archives.add(tar, "x/long-é-name", b"x", pax_headers={"mtime": "1.5", "path": "x/y"})
        for name, data in members.items():
            made_archives.add(tar, f"x/{name}", data)
    return out.getvalue()


@pytest.fixture(scope="module")
def archives():
    images = made_archives.made_images()
    return {
        "binary": made_archives.binary_members(*images),
        "python": made_archives.python_members(*images),
    }


def zipped(data):
    return gzip.compress(data, 1)


def changed_archive(members):
    """A changed tar, or a tar with one changed member: the pickles of the python version."""
    member = st.sampled_from(sorted(members)).flatmap(
        lambda name: changed_bytes(members[name]).map(lambda data: members | {name: data})
    )
    whole = tar_of(members)
    return st.one_of(
        changed_bytes(zipped(whole)),
        changed_bytes(whole).map(zipped),
        member.map(tar_of).map(zipped),
    )


def named(name, strategy):
    return strategy.map(lambda data: name.encode() + b"\n" + data)


def parquet_file():
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.parquet"
        images = made_parquet.pictures(6)
        made_parquet.write_hub(path, images, [0, 1, 2] * 2, row_group_size=4)
        return path.read_bytes()


PARQUET = parquet_file()
JSONL = (json.dumps(ROW) + "\n" + json.dumps(ROW | {"epoch": 2, "step": 20}) + "\n").encode()
CASES = {
    "safetensors": (
        weights,
        WeightsError,
        st.one_of(changed_bytes(SAFETENSORS), changed_json(SAFETENSORS_HEADER).map(with_length)),
    ),
    "torch zip": (
        weights,
        WeightsError,
        st.one_of(changed_bytes(torch_zip(BODY)), changed_bytes(BODY).map(torch_zip)),
    ),
    "torch stream": (
        weights,
        WeightsError,
        st.one_of(changed_bytes(torch_stream(BODY)), changed_bytes(BODY).map(torch_stream)),
    ),
    "png": (image, ImageFileError, st.one_of(changed_bytes(picture("PNG")), changed_png())),
    "jpeg": (image, ImageFileError, changed_bytes(picture("JPEG"))),
    "progressive jpeg": (image, ImageFileError, changed_bytes(picture("JPEG", progressive=True))),
    "gif": (image, ImageFileError, changed_bytes(picture("GIF"))),
    "webp": (image, ImageFileError, changed_bytes(picture("WEBP"))),
    "tiff": (image, ImageFileError, changed_bytes(picture("TIFF"))),
    "compressed tiff": (image, ImageFileError, changed_bytes(picture("TIFF", compression="jpeg"))),
    "bmp": (image, ImageFileError, changed_bytes(picture("BMP"))),
    "config.json": (config, (RunError, RecipeError), changed_json(CONFIG)),
    "metrics.jsonl": (
        metrics,
        RunError,
        st.one_of(changed_bytes(JSONL), st.lists(changed_json(ROW), max_size=3).map(b"\n".join)),
    ),
    "summary.json": (summary, RunError, changed_json(SUMMARY)),
    "page": (
        page,
        (),
        st.one_of(
            named("config.json", changed_json(CONFIG)),
            named("summary.json", changed_json(SUMMARY)),
            named("metrics.jsonl", st.lists(changed_json(ROW), max_size=3).map(b"\n".join)),
        ),
    ),
    "sweep.json": (sweep, (RunError, RecipeError), changed_json(SWEEP)),
    "plan.json": (mark, RunError, changed_json(MARK)),
    "prepared": (
        prepared,
        DataError,
        st.one_of(
            named("dataset_info.json", changed_json(INFO)),
            named("features.json", changed_json(FEATURES)),
            named("label.labels.txt", changed_bytes(PREPARED["label.labels.txt"])),
        ),
    ),
    "parquet": (parquet, DataError, changed_bytes(PARQUET)),
    "cache": (
        decoded_cache,
        (),
        st.one_of(
            named("checks.json", changed_json(CHECKS)),
            *(named(name, changed_bytes(data)) for name, data in CACHED.items()),
        ),
    ),
    "hub": (hub_config, WeightsError, changed_json(HUB)),
}


def check(read, errors, folder, data):
    """The property: a valid result or one clear error, in time."""
    start, message = time.perf_counter(), "fine"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            read(folder, data)
        except errors as error:
            message = str(error)
    assert message
    assert "\x1b" not in message
    assert len(message) < 2_000
    assert time.perf_counter() - start < SECONDS


def run(folder, read, errors, strategy, examples):
    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=examples == FEW,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(data):
        check(read, errors, folder, data)

    each()


@pytest.mark.parametrize("case", CASES)
def test_a_changed_file_is_read_or_refused(tmp_path, case):
    run(tmp_path, *CASES[case], FEW)


@pytest.mark.parametrize("kind", ["binary", "python"])
def test_a_changed_archive_is_read_or_refused(tmp_path, archives, kind):
    run(tmp_path, archive, DataError, changed_archive(archives[kind]), FEW // 2)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_many_changed_files_are_read_or_refused(tmp_path, case):
    run(tmp_path, *CASES[case], MANY)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["binary", "python"])
def test_many_changed_archives_are_read_or_refused(tmp_path, archives, kind):
    run(tmp_path, archive, DataError, changed_archive(archives[kind]), MANY)


def good_files():
    yield from (
        ("safetensors", SAFETENSORS),
        ("torch zip", torch_zip(BODY)),
        ("torch stream", torch_stream(BODY)),
        ("config.json", json.dumps(CONFIG).encode()),
        ("metrics.jsonl", JSONL),
        ("summary.json", json.dumps(SUMMARY).encode()),
        ("sweep.json", json.dumps(SWEEP).encode()),
        ("plan.json", json.dumps(MARK).encode()),
        ("hub", json.dumps(HUB).encode()),
        ("cache", b"test_labels.npy\n" + CACHED["test_labels.npy"]),
        ("parquet", PARQUET),
        ("prepared", b"features.json\n" + PREPARED["features.json"]),
    )
    yield from ((kind, picture(kind.upper())) for kind in ("png", "jpeg", "gif", "webp", "tiff"))


@pytest.mark.parametrize(("case", "data"), good_files())
def test_the_unchanged_files_are_valid(tmp_path, case, data):
    read, _, _ = CASES[case]
    with contextlib.chdir(tmp_path):
        read(tmp_path, data)
