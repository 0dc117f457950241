"""Say what is in photos: the class, its probability, and the runners-up.

jaxcifar predict runs/pets photo.jpg
jaxcifar predict runs/pets "holiday photos" --csv photos.csv
jaxcifar predict pets.safetensors *.jpg --top 1
jaxcifar predict resnet18.pth photo.jpg --normalization imagenet --size 224

A file that cannot be read is named and left out, and the exit status is then 1.
"""

import csv
import io
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from jaxcifar.commands.model import (
    add_links_option,
    add_model_arguments,
    check_out,
    make_folder_of,
    weights_options,
)
from jaxcifar.commands.parser import Parser
from jaxcifar.common.messages import escaped, say
from jaxcifar.common.writing import write_atomically
from jaxcifar.devices.compilation_cache import enable_compilation_cache
from jaxcifar.inference.load import load
from jaxcifar.inference.network import Prediction

_MOST_NAME = 60  # characters of a file's name before the columns give way


def make_parser(prog: str) -> Parser:
    """MODEL, the photos, and how to show the result."""
    parser = Parser(prog=prog, description=__doc__)
    add_model_arguments(parser)
    parser.add_argument(
        "images",
        nargs="+",
        metavar="PHOTO|FOLDER",
        help="pictures, or folders with pictures in them and in their subfolders",
    )
    parser.add_argument(
        "--top", type=int, default=3, metavar="K", help="classes shown (default: %(default)s)"
    )
    parser.add_argument("--csv", type=Path, metavar="F", help="write a table instead of printing")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each photo")
    parser.add_argument("--overwrite", action="store_true", help="replace F if it exists")
    add_links_option(parser)
    return parser


def run(prog: str, arguments: Sequence[str]) -> None:
    """Parse, predict, print; exit with 1 if a file cannot be read."""
    enable_compilation_cache()
    parser = make_parser(prog)
    parsed = parser.parse(arguments)
    check_out(parser, parsed.csv, ".csv", overwrite=parsed.overwrite)
    if parsed.csv is not None and parsed.json:
        parser.error("--csv writes a table and --json prints: choose one")
    network = load(parsed.model, which=parsed.checkpoint, **weights_options(parsed))
    if parsed.csv is not None:
        make_folder_of(parsed.csv)
    unreadable: list[str] = []

    def skip(name: str, error: Exception) -> None:
        unreadable.append(name)
        say(f"skipped: {error}", file=sys.stderr, flush=True)

    found = network.predict(
        parsed.images,
        top=parsed.top,
        follow_links=parsed.follow_links,
        on_unreadable=skip,
        progress=True,
    )
    if parsed.csv is not None:
        write_atomically(parsed.csv, as_csv(found))
        say(f"wrote {parsed.csv} ({len(found):,} images) by {network.name}")
    elif parsed.json:
        say(*(as_json(prediction, network.name) for prediction in found))
    else:
        say(*as_table(found))
    if unreadable:
        count = f"{len(unreadable):,} files" if len(unreadable) > 1 else "1 file"
        were = "were" if len(unreadable) > 1 else "was"
        say(f"{count} could not be read and {were} skipped", file=sys.stderr)
        sys.exit(1)


def as_table(found: Sequence[Prediction]) -> Iterable[str]:
    """A header, and a line for each image."""
    names = [escaped(prediction.image) for prediction in found]
    classes = [escaped(prediction.class_name) for prediction in found]
    width = min(max(map(len, ["file", *names])), _MOST_NAME)
    class_width = max(map(len, ["class", *classes]))
    yield f"{'file':{width}}  {'class':{class_width}}  probability  runners-up"
    for name, class_name, prediction in zip(names, classes, found, strict=True):
        others = ", ".join(f"{other} {share:.3f}" for other, share in prediction.top[1:])
        probability = f"{prediction.probability:11.3f}"
        yield f"{name:{width}}  {class_name:{class_width}}  {probability}  {others}"


def as_json(prediction: Prediction, network: str) -> str:
    """One line, with the name of the network: lines of several may meet in one file."""
    return json.dumps(
        {
            "file": prediction.image,
            "class": prediction.class_name,
            "probability": prediction.probability,
            "top": [{"class": name, "probability": share} for name, share in prediction.top],
            "network": network,
        }
    )


def as_csv(found: Sequence[Prediction]) -> bytes:
    """file, class, probability, class_2, probability_2, ...; UTF-8, and names byte by byte.

    Beyond six digits, probabilities depend on the other images of a batch.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    count = max(len(prediction.top) for prediction in found)
    numbered = [(f"class_{n}", f"probability_{n}") for n in range(2, count + 1)]
    writer.writerow(["file", "class", "probability", *(x for pair in numbered for x in pair)])
    for prediction in found:
        pairs = ((name, f"{share:.6f}") for name, share in prediction.top)
        writer.writerow([prediction.image, *(x for pair in pairs for x in pair)])
    return text.getvalue().encode("utf-8", "surrogateescape")
