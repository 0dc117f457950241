"""Names that forge a line of a message, and for every reader a way to meet one and fail."""

import functools
import json
import os

import numpy as np
from safetensors.numpy import save

from jaxcifar.common.files import read_json
from jaxcifar.data import dataset_info, load_dataset, load_labelled, prepare_cifar10
from jaxcifar.data.archive import read_archive
from jaxcifar.data.batch_pickle import unpickle
from jaxcifar.data.image_file import read_image
from jaxcifar.data.tfds_store import find_prepared
from jaxcifar.models.preprocessing import Preprocessing
from jaxcifar.models.pretrained import load_pretrained
from jaxcifar.models.resnet import ResNet
from jaxcifar.models.weights import read_weights
from jaxcifar.models.weights.safetensors_file import write_safetensors
from jaxcifar.recipes.recipe import Recipe
from jaxcifar.runs import manifest
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.runs.directory import RunDirectory
from jaxcifar.runs.restore import read_recipe
from jaxcifar.step.freeze_text import parse_rules
from jaxcifar.studies.reproduction.directory import ReportDirectory
from jaxcifar.studies.reproduction.plan import PLAN
from jaxcifar.studies.sweeps import read_sweep
from jaxcifar.visualize.pictures import draw_confusion
from tests.data import made_archives, made_parquet
from tests.fuzz import test_readers as fuzz
from tests.models.weights import made_torch

# Colours and a line of our own; a carriage return, a line separator, a mark that turns the writing
# round, the one-byte start of a control sequence, and a byte that is no text.
NAMES = (
    "cat\x1b[31m\nerror: forged",
    "dog\r\u2028\u202eerror: forged\x9b31m\udcff",
)
SHOWN = (r"cat\x1b[31m\nerror: forged", r"dog\r\u2028\u202eerror: forged\x9b31m\udcff")
MODEL = ResNet(stage_sizes=(1,), width=4, num_classes=2)


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
    return path


def picture_folder(folder, name, broken=False):
    """A folder of pictures with a class of that name, and the same name for a picture in it."""
    for split in ("train", "test"):
        for kind in ("ant", name):
            for i in range(2):
                data = b"no picture" if broken else fuzz.picture("PNG")
                write(folder / split / kind / f"{i}{name}.png", data)
    return f"folder:{folder}"


READERS = {}


def reader(f):
    """Register a function that fails to read something in `folder`, of which a part has `name`.

    Where the function's name ends in "_path", it is the folder that has the name.
    """
    READERS[f.__name__] = f
    return f


def one_line(name):
    """The part of a name in front of a line end, where the format allows none."""
    return name.partition("\n")[0].replace("\r", "")


def no_surrogates(name):
    """A name for a format of UTF-8."""
    return name.replace("\udcff", "")


@reader
def folder_lacks_class(folder, name):
    source = picture_folder(folder, name)
    (folder / "test" / name).rename(folder / "test" / "bee")
    dataset_info(source)


@reader
def folder_has_class_without_pictures(folder, name):
    (folder / "train" / name).mkdir(parents=True)
    (folder / "test" / name).mkdir(parents=True)
    dataset_info(f"folder:{folder}")


@reader
def folder_has_damaged_picture(folder, name):
    load_dataset(picture_folder(folder, name, broken=True), split=(2, 1), side=8)


@reader
def folder_has_link(folder, name):
    source = picture_folder(folder, "bee")
    (folder / "train" / "bee" / f"{name}.png").symlink_to("/dev/null")
    dataset_info(source)


@reader
def folder_is_missing(folder, name):
    dataset_info(f"folder:{folder / name / name}")


@reader
def folder_of_several_sizes_path(folder, name):
    load_dataset(picture_folder(folder, name), split=(2, 1))


@reader
def dataset_name(folder, name):
    dataset_info(name)


@reader
def tfds_name(folder, name):
    dataset_info(f"tfds:{name}", data_dir=folder)


@reader
def tfds_folder_path(folder, name):
    dataset_info("tfds:made", data_dir=folder)


@reader
def parquet_is_missing(folder, name):
    dataset_info(f"parquet:{folder / name / name}")


@reader
def parquet_is_damaged(folder, name):
    write(folder / name / "train.parquet", b"no Parquet")
    write(folder / name / "test.parquet", b"no Parquet")
    dataset_info(f"parquet:{folder / name}")


@reader
def parquet_has_configurations(folder, name):
    for config in (name, "other"):
        write(folder / config / "train.parquet", b"no Parquet")
    dataset_info(f"parquet:{folder}")


@reader
def parquet_column(folder, name):
    path = made_parquet.write_hub(folder / "test.parquet", made_parquet.pictures(2), [0, 1])
    load_labelled(f"parquet:{path}#label={name.replace('#', '')}", side=8)


@reader
def parquet_has_other_columns(folder, name):
    values = {no_surrogates(name): [1]}
    load_labelled(f"parquet:{made_parquet.write(folder / 'test.parquet', values)}", side=8)


@reader
def parquet_has_other_classes(folder, name):
    for split, last in (("train", no_surrogates(name)), ("test", "bee")):
        images = made_parquet.pictures(2)
        made_parquet.write_hub(folder / f"{split}.parquet", images, [0, 1], names=["ant", last])
    dataset_info(f"parquet:{folder}")


@reader
def parquet_has_other_texts(folder, name):
    for split, last in (("train", "bee"), ("test", no_surrogates(name))):
        values = {"image": made_parquet.structs([b"x", b"x"]), "label": ["ant", last]}
        made_parquet.write(folder / f"{split}.parquet", values)
    dataset_info(f"parquet:{folder}")


@reader
def parquet_has_damaged_pictures_path(folder, name):
    # pyarrow cannot write to a path that is no text.
    path = made_parquet.write_hub(folder.parent / "test.parquet", [b"x"], [0])
    path = path.rename(folder / "test.parquet")
    load_labelled(f"parquet:{path}", side=8).source.read(np.array([0]))


@reader
def hub_dataset_name(folder, name):
    dataset_info(f"hf:{name}")


@reader
def archive_path(folder, name):
    read_archive(write(folder / f"{name}.tar.gz", b"no archive"), made_archives.FORM)


@reader
def archive_member_path(folder, name):
    members = made_archives.python_members(*made_archives.made_images())
    members["data_batch_2"] = members["data_batch_2"].replace(
        b"cnumpy.core.multiarray", b"cnumpy." + os.fsencode(one_line(name))
    )
    read_archive(made_archives.write_archive(folder / "a.tar.gz", members), made_archives.FORM)


@reader
def archive_classes_path(folder, name):
    members = made_archives.python_members(*made_archives.made_images())
    meta, old = members["batches.meta"], made_archives._string(b"ship")
    members["batches.meta"] = meta.replace(old, made_archives._string(os.fsencode(name)))
    read_archive(made_archives.write_archive(folder / "a.tar.gz", members), made_archives.FORM)


@reader
def archive_to_prepare_path(folder, name):
    archive = write(folder / "a.tar.gz", b"no archive")
    prepare_cifar10(folder / "data", from_archive=archive, progress=False)


@reader
def pickled_batch(folder, name):
    unpickle(name, b"\x80\x02c" + os.fsencode(no_surrogates(one_line(name))) + b"\nsystem\n.")


def prepared_tfds(folder, name, file, content):
    for each, text in fuzz.PREPARED.items():
        write(folder / "cifar10" / "3.0.2" / each, content if each == file else text)
    assert find_prepared(folder, made_archives.FORM) is None


@reader
def tfds_format(folder, name):
    prepared_tfds(folder, name, "dataset_info.json", fuzz.INFO | {"fileFormat": name})


@reader
def tfds_split(folder, name):
    splits = [fuzz.INFO["splits"][0], {"name": name, "shardLengths": [name]}]
    prepared_tfds(folder, name, "dataset_info.json", fuzz.INFO | {"splits": splits})


@reader
def tfds_labels(folder, name):
    labels = "\n".join((one_line(name), *made_archives.FORM.class_names[1:]))
    prepared_tfds(folder, name, "label.labels.txt", os.fsencode(labels))


@reader
def safetensors_path(folder, name):
    read_weights(write(folder / "w.safetensors", b"no weights"))


@reader
def safetensors_key(folder, name):
    tensors = {no_surrogates(name): np.zeros(2, np.float32)}
    load_pretrained(write(folder / "w.safetensors", save(tensors)), MODEL)


@reader
def safetensors_metadata_path(folder, name):
    text = no_surrogates(name)
    data = save({"w": np.zeros(2, np.float32)}, {"mean": text, "std": "1 1 1", "size": text})
    file = read_weights(write(folder / "w.safetensors", data))
    Preprocessing.from_metadata(file.metadata, file.source)


@reader
def safetensors_to_write(folder, name):
    write_safetensors(folder / name / name / "w", {"w": np.zeros(2, np.float32)})


@reader
def safetensors_metadata_to_write(folder, name):
    write_safetensors(folder / name, {"w": np.zeros(2, np.float32)}, {name: 3})


@reader
def pth_path(folder, name):
    read_weights(write(folder / "w.pth", b"no weights"))


@reader
def pth_key(folder, name):
    body = made_torch.dictionary({no_surrogates(name): made_torch.tensor()})
    data = made_torch.zip_bytes(body, {"0": made_torch.NUMBERS})
    load_pretrained(write(folder / "w.pth", data), MODEL)


@reader
def pth_global_path(folder, name):
    body = made_torch.name(f"os.{no_surrogates(one_line(name))}")
    read_weights(write(folder / "w.pth", made_torch.zip_bytes(body, {"0": made_torch.NUMBERS})))


@reader
def weights_name(folder, name):
    read_weights(f"nobody/{name}")


@reader
def weights_are_missing(folder, name):
    read_weights(folder / f"{name}.pth")


@reader
def run_is_missing(folder, name):
    read_recipe(RunDirectory(folder / name / name))


@reader
def run_is_empty_path(folder, name):
    read_recipe(RunDirectory(folder))


@reader
def run_is_in_use_path(folder, name):
    write(folder / "notes", b"")
    RunDirectory(folder).check_free(overwrite=False)


@reader
def config_path(folder, name):
    write(folder / "config.json", b"{")
    read_recipe(RunDirectory(folder))


@reader
def config_field(folder, name):
    write(folder / "config.json", fuzz.CONFIG | {"recipe": fuzz.RECIPE | {name: 3}})
    read_recipe(RunDirectory(folder))


def recipe_value(folder, name, field):
    write(folder / "config.json", fuzz.CONFIG | {"recipe": fuzz.RECIPE | {field: name}})
    read_recipe(RunDirectory(folder))


READERS |= {
    f"recipe_{field}": functools.partial(recipe_value, field=field)
    for field, value in fuzz.RECIPE.items()
    if isinstance(value, str)
}


@reader
def freeze_rule(folder, name):
    Recipe(dataset="digits", freeze=f"{name}=0")


@reader
def freeze_rules(folder, name):
    parse_rules(f"up_to:{''.join(name.split())}", {"conv1": {"kernel": np.zeros(2)}})


@reader
def metrics_path(folder, name):
    write(folder / "metrics.jsonl", b"{\n{}\n")
    RunDirectory(folder).read_history()


@reader
def metrics_column(folder, name):
    write(folder / "metrics.jsonl", fuzz.ROW | {name: name})
    RunDirectory(folder).read_history()


@reader
def summary_path(folder, name):
    write(folder / "summary.json", fuzz.SUMMARY | {"best": name})
    RunDirectory(folder).read_summary()


@reader
def checkpoints_path(folder, name):
    with Checkpoints(folder, read_only=True) as checkpoints:
        checkpoints.find("best")


@reader
def manifest_entry(folder, name):
    entry = {name: {"sha256": "no", "size": 3}}
    write(folder / manifest.NAME, {"version": manifest.VERSION, "files": entry})
    manifest.read(folder)


@reader
def manifest_of_link(folder, name):
    folder.joinpath(name).symlink_to("nowhere")
    manifest.write(folder)


@reader
def sweep_path(folder, name):
    read_sweep(folder)


@reader
def sweep_field(folder, name):
    write(folder / "sweep.json", fuzz.SWEEP | {"field": name})
    read_sweep(folder)


@reader
def report_path(folder, name):
    write(folder / "plan.json", b"{}")
    ReportDirectory(folder, PLAN).read_mark()


@reader
def report_key(folder, name):
    write(folder / "plan.json", fuzz.MARK | {name: name})
    ReportDirectory(folder, PLAN).read_mark()


@reader
def image_path(folder, name):
    read_image(write(folder / f"{name}.png", b"no picture"))


@reader
def image_is_missing(folder, name):
    read_image(folder / f"{name}.png")


@reader
def picture_of_missing_run(folder, name):
    draw_confusion(folder / name, out=folder / "x.png")


@reader
def json_path(folder, name):
    read_json(write(folder / name / "x.json", b"{"))
