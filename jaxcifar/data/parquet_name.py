"""The name of a dataset in Parquet files: its place, and the columns that it names."""

import re
from typing import NamedTuple

from jaxcifar.common.errors import DataError
from jaxcifar.common.files import Unusable, absolute_path
from jaxcifar.common.messages import did_you_mean, printable
from jaxcifar.data.folder import MAX_NAME

PREFIX = "parquet:"
OPTIONS = ("image", "label")


class Name(NamedTuple):
    """The parts of a dataset's name.

    Attributes:
        place: without the columns, such as "parquet:PATH".
        options: the names of the columns that were asked for, by "image" and "label".
    """

    place: str
    options: dict[str, str]

    def __str__(self) -> str:
        named = ",".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.place}#{named}" if named else self.place


def parse_name(name: str) -> Name:
    """Split a dataset's name into its place and the columns that it names.

    Raises:
        DataError: an option that is not known, or without a value.

    Example:
        >>> parse_name("parquet:data#image=img,label=fine_label").options
        {'image': 'img', 'label': 'fine_label'}
    """
    place, mark_, text = name.rpartition("#")
    if not mark_ or not re.match(r"\w+=", text):
        return Name(name, {})
    options = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key not in OPTIONS or key in options:
            raise DataError(f"{name}: unknown option {key!r}{did_you_mean(key, OPTIONS)}")
        if not value:
            raise DataError(f"{name}: {key} names no column; write {key}=COLUMN")
        options[key] = value
    return Name(place, options)


def located(name: str) -> str:
    """The name with an absolute path; see `folder.located`.

    Raises:
        DataError: there is no path, or it leads nowhere; or as `parse_name`.
    """
    if len(name) > MAX_NAME:
        raise DataError(
            f"the dataset's name has {len(name):,} characters, more than the limit of {MAX_NAME:,}"
        )
    parsed = parse_name(name)
    path = parsed.place.removeprefix(PREFIX)
    if not path:
        raise DataError("name a folder of Parquet files parquet:PATH")
    try:
        return str(parsed._replace(place=f"{PREFIX}{absolute_path(path)}"))
    except Unusable as error:
        raise DataError(f"the dataset {printable(name)} cannot be found: {error}") from None
