"""The data folder's own floors: a file imports the project only from lower ones."""

import ast
from pathlib import Path

import pytest

import jaxcifar.data

FLOORS = (
    ("errors", "progress"),
    ("dataset", "digest"),
    ("split", "archive", "download", "cache", "tfds_store"),
    ("cifar10", "decoding", "digits", "folder", "tfds_any"),
    ("load",),
    ("__init__",),
)
# Of the floors of the project, see tests/test_floors.py.
BELOW = {"jaxcifar.untrusted", "jaxcifar.image_file"}
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
HERE = Path(jaxcifar.data.__file__).parent


def test_every_file_has_a_floor():
    assert {file.stem for file in HERE.glob("*.py")} == set(FLOOR)


def imports(file: Path) -> set[str]:
    """Modules of the project that a file imports, in full."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name} has a relative import"
            if node.module == "jaxcifar.data":
                found |= {f"jaxcifar.data.{alias.name}" for alias in node.names}
            else:
                found.add(node.module or "")
    return {name for name in found if name.partition(".")[0] == "jaxcifar"}


@pytest.mark.parametrize("name", sorted(FLOOR))
def test_imports_point_downwards(name):
    for module in imports(HERE / f"{name}.py"):
        if module in BELOW:
            continue
        assert module.startswith("jaxcifar.data."), f"{name} leaves the folder: {module}"
        assert FLOOR[module.rpartition(".")[2]] < FLOOR[name], f"{name} imports {module}"
