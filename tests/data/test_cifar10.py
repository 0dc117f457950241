import os
import signal
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from jaxcifar.common.digest import fingerprint
from jaxcifar.common.errors import DataError
from jaxcifar.common.lock import wait_for_turn
from jaxcifar.common.messages import escaped
from jaxcifar.data import cifar10, tfds_store
from jaxcifar.data.archive import read_archive
from jaxcifar.data.cifar10 import CLASS_NAMES, load_cifar10, prepare_cifar10
from jaxcifar.data.download import Patience, Remote
from tests.data import made_archives as made
from tests.hostile_names import NAMES


def prepare(data_dir, archive, source, **arguments):
    return prepare_cifar10(data_dir, from_archive=archive, source=source, **arguments)


def load(data_dir, source, **arguments):
    return load_cifar10(data_dir, download=False, source=source, **arguments)


def as_multiset(dataset):
    rows = zip(dataset.images, dataset.labels, strict=True)
    return sorted(image.tobytes() + bytes([label]) for image, label in rows)


def everything_in(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*"))


def test_both_kinds_of_archive_are_prepared_as_the_same_dataset(tmp_path, archives, source, images):
    digests = set()
    for kind, archive in archives.items():
        folder = tmp_path / kind
        folder.mkdir()
        directory = prepare(folder, archive, source)
        assert directory == folder / "cifar10" / "3.0.2"
        train, test, digest = load(folder, source)
        assert digest == fingerprint([file for file in directory.iterdir() if file.is_file()])
        digests.add(digest)
        assert as_multiset(train) == as_multiset(images[0])
        assert as_multiset(test) == as_multiset(images[1])
        assert everything_in(folder) == [
            "cifar10",
            "cifar10/3.0.2",
            "cifar10/3.0.2/cifar10-test.array_record-00000-of-00001",
            "cifar10/3.0.2/cifar10-train.array_record-00000-of-00001",
            "cifar10/3.0.2/dataset_info.json",
            "cifar10/3.0.2/features.json",
            "cifar10/3.0.2/label.labels.txt",
        ]
    assert len(digests) == 1


def test_plain_tfds_reads_it(data_dir, archives, source, images):
    import tensorflow_datasets as tfds

    prepare(data_dir, archives["binary"], source)
    builder = tfds.builder("cifar10", data_dir=data_dir)
    assert builder.info.features["label"].names == list(CLASS_NAMES)
    for name, original in zip(("train", "test"), images, strict=True):
        records = list(builder.as_data_source(name))
        assert len(records) == len(original)
        for record in records:
            index = int(record["id"].decode().removeprefix(f"{name}_"))
            np.testing.assert_array_equal(record["image"], original.images[index])
            assert record["label"] == original.labels[index]
    assert type(builder).__module__.startswith("tensorflow_datasets.")


@pytest.mark.parametrize("name", ["data", *NAMES])
def test_preparing_again_does_nothing(tmp_path, name, archives, source, caplog):
    data_dir = tmp_path / name.removesuffix("\udcff")  # array_record writes only below text
    directory = prepare(data_dir, archives["binary"], source)
    before = {file: file.stat().st_mtime_ns for file in data_dir.rglob("*")}
    with caplog.at_level("INFO", "jaxcifar"):
        assert prepare(data_dir, archives["binary"], source) == directory
    assert f"already prepared in {escaped(directory)}" in caplog.text
    assert all(message.isprintable() for message in caplog.messages)
    assert {file: file.stat().st_mtime_ns for file in data_dir.rglob("*")} == before


def test_a_missing_folder_is_created_in_an_existing_parent(tmp_path, archives, source):
    prepare(tmp_path / "new", archives["binary"], source)
    assert len(load(tmp_path / "new", source)[0]) == 100


def test_data_is_in_tfds_data_dir_or_its_default(tmp_path, monkeypatch, data_dir, archives, source):
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    assert prepare(None, archives["binary"], source).is_relative_to(data_dir)
    assert len(load(None, source)[0]) == 100
    monkeypatch.delenv("TFDS_DATA_DIR")
    with pytest.raises(DataError, match="not prepared under"):
        load(None, source)
    default = tmp_path / "home" / "tensorflow_datasets"
    assert prepare(None, archives["binary"], source).is_relative_to(default)


def test_the_newest_version_is_read(data_dir, archives, source):
    directory = prepare(data_dir, archives["binary"], source)
    directory.rename(directory.with_name("3.0.10"))
    other = (made.made_images(1), data_dir.parent / "other.tar.gz")
    made.write_archive(other[1], made.binary_members(*other[0]))
    older = prepare(data_dir.parent / "elsewhere", other[1], source, sha256=made.sha256(other[1]))
    older.rename(directory.with_name("3.0.9"))
    directory.with_name("4.0.0.incomplete").mkdir()
    directory.with_name("5.0.0").mkdir()
    assert as_multiset(load(data_dir, source)[1]) == as_multiset(made.made_images()[1])


def test_a_cache_of_other_data_is_not_used(tmp_path, data_dir, archives, source, monkeypatch):
    prepare(data_dir, archives["binary"], source)
    load(data_dir, source)
    other = made.write_archive(tmp_path / "o.tar.gz", made.binary_members(*made.made_images(1)))
    prepare(tmp_path / "elsewhere", other, source, sha256=made.sha256(other))

    def fail(*_, **__):
        raise AssertionError("decoded again")

    monkeypatch.setattr(tfds_store, "decode", fail)
    with pytest.raises(AssertionError, match="decoded again"):
        load(tmp_path / "elsewhere", source)


def test_a_warm_load_decodes_nothing_and_imports_no_tfds(data_dir, archives, source):
    prepare(data_dir, archives["binary"], source)
    load(data_dir, source)
    code = f"""
        import sys
        from tests.data import made_archives as made
        from jaxcifar.data.cifar10 import load_cifar10
        train, test, _ = load_cifar10({str(data_dir)!r}, source=made.source())
        assert len(train) == 100
        heavy = {{"tensorflow_datasets", "array_record", "sklearn", "PIL", "tqdm", "jax"}}
        print(sorted(heavy & set(sys.modules)))
    """
    assert run(code).strip() == "[]"


def run(code: str, returncode: int = 0) -> str:
    """Run code in a separate process, which can import `jaxcifar` and `tests`."""
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == returncode, done.stderr
    return done.stdout


def break_after(monkeypatch, images: int, error: BaseException) -> None:
    """Make preparing raise `error` at this image."""
    real, count = tfds_store._encode_png, [0]

    def encode(image):
        count[0] += 1
        if count[0] == images:
            raise error
        return real(image)

    monkeypatch.setattr(tfds_store, "_encode_png", encode)


@pytest.mark.parametrize("at", [1, 101])
@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, "No space left on device"), DataError),
        (MemoryError(), MemoryError),
    ],
)
def test_nothing_is_left_when_preparing_fails(
    data_dir, archives, source, monkeypatch, at, error, raised
):
    with monkeypatch.context() as patch:
        break_after(patch, at, error)
        with pytest.raises(raised):
            prepare(data_dir, archives["binary"], source)
    assert everything_in(data_dir) == []
    with pytest.raises(DataError, match="not prepared"):
        load(data_dir, source)


def test_folders_of_a_killed_process_are_ignored_and_removed(data_dir, archives, source):
    run(
        f"""
        import os
        from tests.data import made_archives as made
        from pathlib import Path
        from jaxcifar.data import cifar10, tfds_store
        real, count = tfds_store._encode_png, [0]
        def encode(image):
            count[0] += 1
            if count[0] == 110:
                os.kill(os.getpid(), {int(signal.SIGKILL)})
            return real(image)
        tfds_store._encode_png = encode
        archive = Path({str(archives["binary"])!r})
        cifar10.prepare_cifar10(
            {str(data_dir)!r}, from_archive=archive, source=made.source(made.remote(archive))
        )
        """,
        returncode=-signal.SIGKILL,
    )
    left = everything_in(data_dir)
    assert left
    assert all(name.startswith(".cifar10-preparing-") for name in left)
    with pytest.raises(DataError, match="not prepared"):
        load(data_dir, source)
    prepare(data_dir, archives["binary"], source)
    assert not [name for name in everything_in(data_dir) if "preparing" in name]


def test_one_of_two_processes_prepares_and_both_find_it(data_dir, archives, source):
    code = f"""
        from tests.data import made_archives as made
        from pathlib import Path
        from jaxcifar.data import cifar10, tfds_store
        real = tfds_store.write
        def write(*arguments, **named):
            print("writes", flush=True)
            return real(*arguments, **named)
        tfds_store.write = write
        archive = Path({str(archives["binary"])!r})
        print(cifar10.prepare_cifar10(
            {str(data_dir)!r}, from_archive=archive, source=made.source(made.remote(archive))
        ))
    """
    with ThreadPoolExecutor(2) as pool:
        outputs = list(pool.map(run, [code, code]))
    assert sum("writes" in output for output in outputs) == 1
    assert all(str(data_dir / "cifar10" / "3.0.2") in output for output in outputs)


HEX = "0" * 64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"from_archive": "{tmp}/none.tar.gz"}, "archive .*none.tar.gz does not exist"),
        ({"from_archive": "{tmp}"}, "does not exist or is not a file"),
        ({"sha256": HEX}, f"not the expected {HEX}"),
        ({"sha256": "abc"}, "a SHA-256 digest must be 64 hexadecimal digits, not 'abc'"),
        ({"from_archive": None, "sha256": HEX}, "for a local archive only"),
        ({"data_dir": "{tmp}/no/where"}, "/no/where does not exist"),
        ({"data_dir": "{archive}"}, "is not a folder"),
    ],
)
def test_a_bad_request_writes_nothing(
    tmp_path, data_dir, archives, source, no_network, change, message
):
    arguments = {"data_dir": data_dir, "from_archive": archives["binary"]} | {
        name: value and value.format(tmp=tmp_path, archive=archives["binary"])
        for name, value in change.items()
    }
    before = everything_in(tmp_path)
    with pytest.raises(DataError, match=message):
        prepare_cifar10(**arguments, source=source)
    assert everything_in(tmp_path) == before


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_, **__):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "other"])
def test_an_unknown_archive_is_refused_and_writes_nothing(
    tmp_path, data_dir, archives, source, damage
):
    data = bytearray(archives["binary"].read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    path = tmp_path / "a.tar.gz"
    path.write_bytes({"cut": data[:1000], "empty": b"", "other": b"hello"}.get(damage, data))
    with pytest.raises(DataError, match=r"is neither .* nor .*add --sha256 [0-9a-f]{64}$"):
        prepare(data_dir, path, source)
    assert everything_in(data_dir) == []


def test_a_hostile_archive_writes_nothing_even_with_its_digest_given(
    tmp_path, data_dir, images, source
):
    path = made.write_archive(
        tmp_path / "a.tar.gz",
        made.binary_members(*images),
        lambda tar: made.add(tar, "../escape", b"x"),
    )
    before = everything_in(tmp_path)
    with pytest.raises(DataError, match="points outside"):
        prepare(data_dir, path, source, sha256=made.sha256(path).upper())
    assert everything_in(tmp_path) == before


def test_without_data_and_network_there_is_one_clear_error(data_dir, no_network):
    quick = Patience(timeout=0.5, give_up=1)
    with pytest.raises(DataError) as caught:
        load_cifar10(data_dir, patience=quick, progress=False)
    message = str(caught.value)
    for archive in cifar10.CIFAR10.archives:
        for url in archive.urls:
            assert url.split("/")[2] in message
    assert "name resolution" in message
    assert f"jaxcifar prepare-data cifar10 --data-dir {data_dir} --from-archive FILE" in message
    assert everything_in(data_dir) == []


def test_a_download_is_prepared_and_then_removed(tmp_path, data_dir, archives, images):
    # urllib takes file: addresses too; test_download has real servers.
    path = archives["python"]
    gone = Remote("gone.tar.gz", 1, HEX, ((tmp_path / "gone.tar.gz").as_uri(),))
    known = made.remote(path, path.as_uri())
    train, _, _ = load_cifar10(data_dir, source=made.source(gone, known), progress=False)
    assert as_multiset(train) == as_multiset(images[0])
    assert [file.name for file in data_dir.iterdir()] == ["cifar10"]


def test_without_tfds_the_message_says_what_to_install(data_dir, archives, source, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(DataError, match="pip install tensorflow-datasets array-record"):
        prepare(data_dir, archives["binary"], source)
    assert everything_in(data_dir) == []


@pytest.fixture
def prepared(data_dir, archives, source):
    return prepare(data_dir, archives["binary"], source)


def edit_text(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


SHARD = "cifar10-test.array_record-00000-of-00001"


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("dataset_info.json", '"100"', '"99"', "'train': 99, 'test': 20} images, expected"),
        (
            "dataset_info.json",
            '"array_record"',
            '"tfrecord"',
            "as tfrecord, and only .*--data-dir OTHER",
        ),
        ("dataset_info.json", '"cifar10"', '"cifar100"', "holds 'cifar100'"),
        ("dataset_info.json", "{", "", "cannot be understood"),
        ("dataset_info.json", '"shardLengths"', '"other"', "cannot be understood"),
        ("label.labels.txt", "cat", "kat", "names the classes airplane, automobile, bird, kat"),
    ],
)
def test_prepared_data_that_is_not_cifar10_is_refused(
    data_dir, prepared, source, name, old, new, message
):
    edit_text(prepared / name, old, new)
    for _ in range(2):
        with pytest.raises(DataError, match=message):
            load(data_dir, source)


@pytest.mark.parametrize("name", [SHARD, "label.labels.txt", "features.json"])
def test_a_missing_file_is_named(data_dir, prepared, source, name):
    (prepared / name).unlink()
    with pytest.raises(DataError, match=f"lacks {name}; move .* away and prepare it again"):
        load(data_dir, source)


@pytest.mark.parametrize("where", [70, 1000, 30_000, 60_000])
def test_a_flipped_bit_in_a_shard_is_noticed(tmp_path, data_dir, prepared, source, where):
    load(data_dir, source)
    data = bytearray((prepared / SHARD).read_bytes())
    data[where] ^= 1
    (prepared / SHARD).write_bytes(data)
    with pytest.raises(DataError, match=r"the images in .* cannot be read"):
        load(data_dir, source)


def test_a_shard_cut_short_is_noticed(data_dir, prepared, source):
    data = (prepared / SHARD).read_bytes()
    (prepared / SHARD).write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"the images in .* cannot be read"):
        load(data_dir, source)


def test_images_of_another_size_are_refused(data_dir, archives, source, monkeypatch):
    real = tfds_store._encode_png
    monkeypatch.setattr(tfds_store, "_encode_png", lambda image: real(image[:16]))
    prepare(data_dir, archives["binary"], source)
    with pytest.raises(DataError, match=r"an image of \(32, 16\) pixels"):
        load(data_dir, source)


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """All of CIFAR-10, if TFDS_DATA_DIR has it. Set up before `private_folders` hides it.

    Decoding takes 15 s, so the cache in JAXCIFAR_CACHE_DIR is used and filled.
    """
    folder = os.environ.get("TFDS_DATA_DIR")
    if not folder or not any(Path(folder).glob("cifar10/*/dataset_info.json")):
        pytest.skip("TFDS_DATA_DIR names no folder with a prepared cifar10")
    with pytest.MonkeyPatch.context() as patch:
        if "JAXCIFAR_CACHE_DIR" not in os.environ:
            patch.setenv("JAXCIFAR_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        return load_cifar10(folder, download=False)


def test_real_cifar10_has_the_published_statistics(real):
    train, test, _ = real
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert train.images.shape == (50_000, 32, 32, 3)
    assert test.images.shape == (10_000, 32, 32, 3)
    values = np.arange(256) / 255
    for channel, (mean, std) in enumerate(
        [(0.49140, 0.24703), (0.48216, 0.24349), (0.44653, 0.26159)]
    ):
        # Counting values is exact; a float32 sum over 51 million pixels is not.
        share = np.bincount(train.images[..., channel].ravel(), minlength=256) / (50_000 * 1024)
        assert share @ values == pytest.approx(mean, abs=5e-6)
        deviation = np.sqrt(share @ values**2 - (share @ values) ** 2)
        assert deviation == pytest.approx(std, abs=5e-6)


def test_real_images_survive_an_archive(real, tmp_path):
    _, test, _ = real
    few = [test.take(np.arange(i, i + 20)) for i in range(0, 120, 20)]
    members = {}
    for name, part in zip(made.FORM.batches(".bin"), few, strict=True):
        rows = np.concatenate([part.labels.astype(np.uint8)[:, None], made.planes(part)], axis=1)
        members[name] = rows.tobytes()
    members["batches.meta.txt"] = "\n".join(CLASS_NAMES).encode()
    path = made.write_archive(tmp_path / "real.tar.gz", members)
    contents = read_archive(path, made.FORM)
    np.testing.assert_array_equal(contents["train"].images, test.images[:100])
    np.testing.assert_array_equal(contents["test"].labels, test.labels[100:120])
    (tmp_path / "data").mkdir()
    prepare(tmp_path / "data", path, made.source(made.remote(path)))
    train, _, _ = load(tmp_path / "data", made.source(made.remote(path)))
    assert as_multiset(train) == as_multiset(test.take(np.arange(100)))


def test_a_huge_archive_is_refused_before_it_is_hashed(tmp_path, data_dir, source):
    path = tmp_path / "a.tar.gz"
    with path.open("wb") as file:
        file.truncate(1 << 42)
    with pytest.raises(DataError, match=r"has 4,398,046,511,104 bytes, more than the limit of"):
        prepare(data_dir, path, source)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        # TFDS imports what features.json names, from wherever Python finds it.
        (
            "features.json",
            "tensorflow_datasets.core.features.text_feature.Text",
            "planted.Text",
            "names 'planted.Text', which TFDS would import",
        ),
        ("features.json", '"text": {}', '"jsonFeature": {"json": "{}"}', "which TFDS would import"),
        ("features.json", '"text": {}', '"type": "planted.Text"', "names 'planted.Text'"),
        ("dataset_info.json", "{DATASET}-{SPLIT}", "../../other-{SPLIT}", "in an unusual way"),
        ("dataset_info.json", '"100"', '"1' + "0" * 5_000 + '"', "its shardLengths"),
        ("dataset_info.json", '"100"', "1e400", "shardLengths.0. is inf"),
        ("dataset_info.json", '"train"', "[" * 100_000, "nested too deeply"),
        ("dataset_info.json", '"fileFormat": "array_record"', '"fileFormat": 1', "fileFormat is 1"),
        ("label.labels.txt", "cat", "c" * 70_000, "bytes, more than the limit of 65,536"),
    ],
)
def test_hostile_prepared_data_is_refused(
    data_dir, prepared, source, tmp_path, monkeypatch, name, old, new, message
):
    (tmp_path / "planted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    edit_text(prepared / name, old, new)
    with pytest.raises(DataError, match=message) as caught:
        load(data_dir, source)
    assert len(str(caught.value)) < 1_000
    assert not (tmp_path / "ran").exists()


def test_what_a_preparation_left_that_died_after_its_last_step_is_removed(
    data_dir, archives, source
):
    prepare(data_dir, archives["binary"], source)
    left = data_dir / ".cifar10-preparing-x"
    (left / "cifar10").mkdir(parents=True)
    with wait_for_turn(data_dir):  # a living one holds it
        prepare(data_dir, archives["binary"], source)
        assert left.exists()
    prepare(data_dir, archives["binary"], source)
    assert not left.exists()


def test_an_archive_whose_name_starts_with_a_tilde_is_found(
    tmp_path, data_dir, archives, source, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Path("~a.tar.gz").symlink_to(archives["binary"])
    with pytest.raises(DataError, match=r"no home folder of that user: .* or \./~a\.tar\.gz for"):
        prepare(data_dir, Path("~a.tar.gz"), source)
    assert prepare(data_dir, "./~a.tar.gz", source).is_dir()
