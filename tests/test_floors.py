"""Imports run one way: a module imports the project only from lower floors."""

import ast

import pytest

FLOORS = (
    "interruption manifest parallel precision traced untrusted",
    "image_file winograd",
    "augment conv data hardware metrics run_files schedules suggest weights",
    "compilation_cache partition plots progress resnet state stream",
    "activations checkpoint gradcam initial optim pretrained steps",
    "epoch predictions recipe",
    "streamed",
    "evaluation experiments features",
    "cli stage subject transfer",
    "train visualization",
    "sweeps",
    "reproduction",
)
REPRODUCTION_FLOORS = (
    "page",
    "report",
    "drawings plan",
    "folder",
    "loop",
)
DATA_FLOORS = (
    "errors progress",
    "dataset digest",
    "split archive download cache tfds_store",
    "cifar10 decoding digits folder tfds_any",
    "load",
)

WEIGHTS_FLOORS = (
    "errors digest numbers",
    "torch_pickle",
    "torch_file safetensors_file hub",
    "files",
)
PLOTS_FLOORS = (
    "page",
    "activations comparison confusion curves images",
)
SWEEPS_FLOORS = (
    "members",
    "choice files result",
    "plot together",
    "run",
)


def project_imports(path, package):
    """The modules of `package` that a file imports, relative to it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module]
            if node.module == package:
                names = [f"{package}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"
        found |= {
            name[len(package) + 1 :].split(".")[0]
            for name in names
            if name.startswith(package + ".")
        }
    return found


def check_floors(folder, package, floors):
    floor_of = {name: floor for floor, names in enumerate(floors) for name in names.split()}
    present = {p.stem for p in folder.glob("*.py")} | {
        p.parent.name for p in folder.glob("*/__init__.py")
    }
    assert present - {"__init__"} == set(floor_of), "every module has a floor, and no other has"
    wrong = [
        f"{name} (floor {floor}) imports {other} (floor {floor_of[other]})"
        for name, floor in floor_of.items()
        if (folder / f"{name}.py").exists()
        for other in project_imports(folder / f"{name}.py", package)
        if floor_of[other] >= floor
    ]
    assert not wrong


def test_modules_import_from_lower_floors_only(root):
    check_floors(root / "jaxcifar", "jaxcifar", FLOORS)


@pytest.mark.parametrize(
    ("folder", "floors"),
    [
        ("data", DATA_FLOORS),
        ("plots", PLOTS_FLOORS),
        ("sweeps", SWEEPS_FLOORS),
        ("reproduction", REPRODUCTION_FLOORS),
        ("weights", WEIGHTS_FLOORS),
    ],
)
def test_a_folder_has_floors_of_its_own(root, folder, floors):
    check_floors(root / "jaxcifar" / folder, f"jaxcifar.{folder}", floors)
    floor = next(i for i, names in enumerate(FLOORS) if folder in names.split())
    lower = {name for names in FLOORS[:floor] for name in names.split()}
    for path in (root / "jaxcifar" / folder).glob("*.py"):
        outside = project_imports(path, "jaxcifar") - {folder} - lower
        assert not outside, f"{path.name} imports {outside}: {folder} is on floor {floor}"


def test_an_upward_import_is_noticed(tmp_path):
    (tmp_path / "low.py").write_text("from pkg.high import x\n")
    (tmp_path / "high.py").write_text("x = 1\n")
    with pytest.raises(AssertionError, match=r"low \(floor 0\) imports high"):
        check_floors(tmp_path, "pkg", ("low", "high"))


def test_the_library_imports_neither_tensorflow_nor_torch(root):
    for path in (root / "jaxcifar").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            roots = {module.split(".")[0] for module in modules}
            assert not roots & {"tensorflow", "torch"}, path
