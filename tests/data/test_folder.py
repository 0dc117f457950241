import hashlib
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from jaxcifar.common.errors import DataError, RecipeError
from jaxcifar.data import Dataset, Rows, dataset_info, load_dataset, load_labelled
from jaxcifar.data.folder import FolderSource, find_folder
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.recipes.splits import load_splits

SIDE = 12


def write(path: Path, size: tuple[int, int] = (16, 16), seed: int = 0, **options: object) -> Path:
    """Write a smooth picture, different for every seed, in the format of the file name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path, **options)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Twenty pictures of two classes to train on, and three to test on."""
    folder = tmp_path / "pets"
    kinds = ("png", "JPG", "jpeg", "bmp", "webp", "gif", "tiff", "tif")
    for i in range(20):
        size = (13 + 3 * i, 40 - i)
        write(folder / "train" / ("dog", "cat")[i % 2] / f"{i}.{kinds[i % 8]}", size, i)
    for i, name in enumerate(("cat", "dog", "dog")):
        write(folder / "test" / name / f"{i}.png", seed=100 + i)
    return folder


def as_torchvision(path: Path, side: int) -> np.ndarray:
    """ImageFolder, Resize(side) and CenterCrop(side), by their documented formulas, upright."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    width, height = image.size
    if width <= height:
        size = side, int(side * height / width)
    else:
        size = int(side * width / height), side
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - side) / 2.0), round((size[1] - side) / 2.0)
    return np.asarray(image)[top : top + side, left : left + side]


def test_dataset_info_reads_no_picture(pets, monkeypatch):
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("read"))
    info = dataset_info(f"folder:{pets}")
    assert info.class_names == ("cat", "dog")
    assert (info.pool, info.test, info.default_split, info.side) == (20, 3, (16, 4), None)


def test_pictures_are_as_in_torchvision_in_its_order(pets):
    listed = find_folder(f"folder:{pets}")
    expected = [
        path
        for name in ("cat", "dog")
        for path in sorted((pets / "train" / name).iterdir(), key=lambda path: path.name)
    ]
    train = listed.splits["train"]
    assert [train.root / file for file in train.files] == expected
    assert train.labels.tolist() == [0] * 10 + [1] * 10
    rows = np.random.default_rng(0).permutation(20)
    read = FolderSource(train, SIDE).read(rows)
    assert read.labels.tolist() == train.labels[rows].tolist()
    for image, row in zip(read.images, rows, strict=True):
        np.testing.assert_array_equal(image, as_torchvision(expected[row], SIDE), str(row))


@pytest.mark.parametrize("size", [(12, 12), (12, 13), (15, 12), (7, 30), (301, 100), (24, 24)])
@pytest.mark.parametrize("side", [12, 17])
def test_the_centre_of_the_scaled_picture_is_cropped(tmp_path, size, side):
    for split in ("train", "test"):
        path = write(tmp_path / split / "a" / "x.png", size)
    source = FolderSource(find_folder(f"folder:{tmp_path}").splits["test"], side)
    np.testing.assert_array_equal(source.read(np.array([0])).images[0], as_torchvision(path, side))


def only_image(tmp_path, image, name="x.png", **options):
    """The training image of a folder with this one picture."""
    write(tmp_path / "test" / "a" / "x.png")
    path = tmp_path / "train" / "a" / name
    path.parent.mkdir(parents=True)
    image.save(path, **options)
    return read_split(tmp_path, "train").images[0]


def read_split(folder, split, side=SIDE):
    source = FolderSource(find_folder(f"folder:{folder}").splits[split], side)
    return source.read(np.arange(len(source)))


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    image = only_image(tmp_path, Image.fromarray(pixels), exif=exif)
    np.testing.assert_array_equal(image, np.rot90(pixels, -1))


def test_transparency_is_dropped_as_pillow_converts(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 4), np.uint8)
    np.testing.assert_array_equal(only_image(tmp_path, Image.fromarray(pixels)), pixels[..., :3])


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_grey_becomes_rgb(tmp_path, depth):
    grey = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), np.uint8)
    scaled = grey.astype(depth) * (256 if depth is np.uint16 else 1)
    image = only_image(tmp_path, Image.fromarray(scaled))
    np.testing.assert_array_equal(image, np.stack([grey] * 3, axis=-1))


def test_val_is_the_test_data_if_there_is_no_test(pets):
    (pets / "test").rename(pets / "val")
    assert dataset_info(f"folder:{pets}").test == 3


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_folder_is_validated_on_whatever_its_usual_name(pets, name):
    for source in list((pets / "test").rglob("*.png")):
        write(pets / name / source.parent.name / source.name, seed=50)
    info = dataset_info(f"folder:{pets}")
    assert info.validation == info.test
    assert len(load_dataset(f"folder:{pets}", side=SIDE).validation) == info.validation
    (pets / "other-val").mkdir()
    (pets / ("valid" if name != "valid" else "val")).mkdir()
    with pytest.raises(DataError, match="only one can be validated on"):
        dataset_info(f"folder:{pets}")


def test_a_class_may_be_called_valid(tmp_path):
    for name in ("invalid", "valid"):
        write(tmp_path / "checks" / name / "1.png")
    (tmp_path / "checks" / "valid" / ".ipynb_checkpoints").mkdir()
    data = load_labelled(f"folder:{tmp_path / 'checks'}", side=SIDE)
    assert data.class_names == ("invalid", "valid")


def test_a_folder_that_may_not_be_listed_is_one_line(tmp_path, monkeypatch):
    for name in ("invalid", "valid"):
        write(tmp_path / "checks" / name / "1.png")

    def guarded(real):
        def listing(path):
            if str(path).endswith("/valid"):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        return listing

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))
    with pytest.raises(DataError, match="checks/valid cannot be read: Permission denied$"):
        load_labelled(f"folder:{tmp_path / 'checks'}", side=SIDE)


def test_a_file_called_valid_is_no_folder_to_validate_on(pets):
    (pets / "valid").write_text("yes")
    assert dataset_info(f"folder:{pets}").validation is None


def test_a_picture_that_changes_after_the_folder_was_read_is_not_taken_for_it(pets):
    splits = load_dataset(f"folder:{pets}", side=SIDE, lazy=True)
    picture = next((pets / "test").rglob("*.png"))
    write(picture, seed=99)
    os.utime(picture, ns=(1, 1))
    with pytest.raises(DataError, match=f"{picture.name} changed after the folder was read"):
        splits.test.load()
    assert len(load_dataset(f"folder:{pets}", side=SIDE, lazy=True).test.load().labels) == 3


def test_subfolders_belong_to_their_class_and_other_files_are_ignored(pets):
    write(pets / "train" / "cat" / "more" / "z.png")
    write(pets / "train" / "cat" / ".hidden" / "z.png")
    write(pets / "train" / "cat" / "._z.png")
    write(pets / "train" / "stray.png")
    (pets / "train" / "cat" / "notes.txt").write_text("")
    (pets / "train" / ".git").mkdir()
    listed = find_folder(f"folder:{pets}")
    assert listed.class_names == ("cat", "dog")
    assert listed.splits["train"].labels.tolist() == [0] * 11 + [1] * 10
    assert listed.splits["train"].files[10] == "train/cat/more/z.png"


def test_a_path_may_be_relative_to_home_or_the_working_directory(pets, monkeypatch):
    monkeypatch.setenv("HOME", str(pets.parent))
    assert dataset_info("folder:~/pets").pool == 20
    monkeypatch.chdir(pets.parent)
    assert dataset_info("folder:pets").pool == 20


def of_earlier_versions(pets: Path) -> str:
    """The fingerprint by names and sizes, by its definition."""
    digest = hashlib.sha256()
    for file in sorted(f.relative_to(pets).as_posix() for f in pets.rglob("*.*")):
        digest.update(f"{(pets / file).stat().st_size}  {file}\0".encode())
    return digest.hexdigest()


def test_the_fingerprint_depends_on_names_and_contents_and_not_on_the_place(pets, tmp_path):
    listed = find_folder(f"folder:{pets}")
    first, old = listed.fingerprint(), listed.names_and_sizes
    assert old == of_earlier_versions(pets)
    moved = pets.rename(tmp_path / "elsewhere")
    os.utime(moved / "train" / "cat" / "1.JPG", (0, 0))
    listed = find_folder(f"folder:{moved}")
    assert (listed.fingerprint(), listed.names_and_sizes) == (first, old)
    (moved / "test/dog/1.png").rename(moved / "test/dog/9.png")
    renamed = find_folder(f"folder:{moved}").fingerprint()
    with (moved / "test/dog/9.png").open("ab") as file:
        file.write(b"x")
    assert len({first, renamed, find_folder(f"folder:{moved}").fingerprint()}) == 3


@pytest.mark.parametrize("stratified", [False, True])
def test_lazy_and_eager_are_the_same_images_in_the_same_order(pets, stratified):
    arguments = {"split": (9, 6), "seed": 3, "side": SIDE, "stratified": stratified}
    eager = load_dataset(f"folder:{pets}", **arguments)
    lazy = load_dataset(f"folder:{pets}", **arguments, lazy=True)
    assert lazy.fingerprint == eager.fingerprint
    assert lazy.class_names == eager.class_names == ("cat", "dog")
    for name in ("train", "validation", "test"):
        mine, theirs = getattr(lazy, name), getattr(eager, name)
        assert isinstance(mine, Rows)
        assert isinstance(theirs, Dataset)
        assert (len(mine), mine.side) == (len(theirs), SIDE)
        np.testing.assert_array_equal(mine.load().images, theirs.images)
        np.testing.assert_array_equal(mine.load().labels, theirs.labels)
        np.testing.assert_array_equal(mine.labels, theirs.labels)
        rows = np.array([2, 0, 2])
        np.testing.assert_array_equal(mine.read(rows).images, theirs.images[rows])
    assert (len(lazy.train), len(lazy.validation), len(lazy.test)) == (9, 6, 3)


def test_lazy_loading_reads_a_picture_only_when_asked(pets, monkeypatch):
    opened = []
    monkeypatch.setattr(
        "jaxcifar.data.image_file.decode_square",
        lambda data, side, name: opened.append(name) or np.zeros((side, side, 3), np.uint8),
    )
    splits = load_dataset(f"folder:{pets}", side=SIDE, lazy=True)
    assert not opened
    splits.train.read(np.array([3, 5]))
    assert len(opened) == 2


def test_decoded_pictures_are_cached_for_each_side_until_a_file_changes(pets, monkeypatch):
    from jaxcifar.data import image_file

    calls = []
    real = image_file.decode_square
    monkeypatch.setattr(image_file, "decode_square", lambda *a: calls.append(a[1]) or real(*a))

    def decoded_count(side):
        before = len(calls)
        load_dataset(f"folder:{pets}", side=side)
        return len(calls) - before

    assert [decoded_count(side) for side in (SIDE, SIDE, 8, 8, SIDE)] == [23, 0, 23, 0, 0]
    # The size stays the same, so only the time shows the change.
    path = pets / "test" / "cat" / "0.png"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))
    assert decoded_count(SIDE) == 23


def test_a_recipe_can_name_a_folder_and_survives_json(pets):
    recipe = Recipe(dataset=f"folder:{pets}", resize=SIDE, batch_size=8, normalization="half")
    assert (recipe.split_sizes, recipe.image_size) == ((16, 4), SIDE)
    assert recipe.make_model().num_classes == 2
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    splits = load_splits(recipe)
    assert (splits.train.side, splits.name) == (SIDE, recipe.dataset)
    assert isinstance(load_splits(recipe, lazy=True).train, Rows)


def test_a_recipe_without_a_size_is_refused(pets):
    with pytest.raises(RecipeError, match=r"several sizes: set the height"):
        Recipe(dataset=f"folder:{pets}")


def test_loading_without_a_side_is_refused(pets):
    with pytest.raises(DataError, match="give the side to scale them to"):
        load_dataset(f"folder:{pets}")
    with pytest.raises(DataError, match="at least one pixel, not 0"):
        load_dataset(f"folder:{pets}", side=0)


def empty(path: Path) -> None:
    for file in path.iterdir():
        file.unlink()


def link(pets: Path, name: str, target: str | Path) -> None:
    (pets / "train" / "cat" / name).symlink_to(target)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.rename(p.parent / "gone"), "there is no folder"),
        (lambda p: (p / "train").rename(p / "training"), "has no folder train"),
        (lambda p: (p / "test").rename(p / "testing"), "has no folder val; it must hold"),
        (lambda p: empty(p / "test" / "cat"), "test/cat has no pictures"),
        (lambda p: empty(p / "train" / "dog"), "train/dog has no pictures"),
        (
            lambda p: (p / "test" / "cat").rename(p / "test" / "car"),
            "lacks the class cat and has a class that train lacks: car; both",
        ),
        (lambda p: write(p / "test" / "emu" / "x.png"), "has a class that train lacks: emu"),
        (lambda p: link(p, "x.png", "/etc/hostname"), "is a link that leaves"),
        (lambda p: link(p, "x", p.parent), "is a link that leaves"),
        (lambda p: link(p, "x", p / "train"), "is a link to a folder"),
        (lambda p: link(p, "x.png", p / "none.png"), "is a link to nothing"),
        (lambda p: link(p, "x.png", "x.png"), "is a link to nothing"),
        (lambda p: os.mkfifo(p / "train" / "cat" / "x.png"), "is not a regular file"),
        (
            lambda p: (p / "test").rename(p / "t") and (p / "test").symlink_to(p / "t"),
            "test is a link",
        ),
        (
            lambda p: os.truncate(write(p / "train" / "cat" / "x.png"), 200_000_000),
            "200,000,000 bytes, more than the limit of 100,000,000",
        ),
    ],
)
def test_an_unusable_folder_is_one_clear_error(pets, spoil, message):
    spoil(pets)
    with pytest.raises(DataError, match=message) as caught:
        dataset_info(f"folder:{pets}")
    assert "\n" not in str(caught.value)


def test_an_empty_train_folder_and_an_empty_path_are_refused(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "test").mkdir()
    with pytest.raises(DataError, match="train has no class folder"):
        dataset_info(f"folder:{tmp_path}")
    with pytest.raises(DataError, match="name a folder of pictures folder:PATH"):
        dataset_info("folder:")


def test_a_link_within_the_folder_is_followed(pets):
    link(pets, "z.png", pets / "test" / "cat" / "0.png")
    assert dataset_info(f"folder:{pets}").pool == 21


def bomb() -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda data: data[: len(data) // 2], "is a damaged or cut-off image"),
        (lambda data: b"", "is not an image"),
        (lambda data: b"years of work", "is not an image"),
        (lambda data: bomb(), "too large to be decoded"),
    ],
)
@pytest.mark.parametrize("lazy", [False, True])
def test_an_unreadable_picture_is_named(pets, content, message, lazy):
    path = write(pets / "train" / "cat" / "0.png", (64, 64))
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(f"folder:{pets}", side=SIDE, lazy=lazy, split=(20, 1)).train.load()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_picture_that_would_become_huge_when_scaled_is_refused(pets):
    write(pets / "train" / "cat" / "0.png", (60_000, 1))
    with pytest.raises(DataError, match=r"60000x1 pixels: too narrow"):
        read_split(pets, "train", side=224)


def test_a_deleted_picture_is_named(pets):
    splits = load_dataset(f"folder:{pets}", side=SIDE, lazy=True)
    (pets / "test" / "cat" / "0.png").unlink()
    with pytest.raises(DataError, match=r"cannot be read: .*0\.png"):
        splits.test.load()
