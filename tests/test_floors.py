"""Imports run one way between the folders of the library, and never in a circle."""

import ast

import pytest

# From the ground up. A folder imports from the floors below it; those on one floor stand apart.
FLOORS = (
    "common",
    "data devices models",
    "step",
    "recipes",
    "runs",
    "training",
    "inference",
    "visualize",
    "studies",
    "commands",
)
TOP_LEVEL = {"__init__", "__main__"}


def modules_of(package):
    """The modules below a folder, as "room.module", and the file of each."""
    files = {}
    for path in package.rglob("*.py"):
        parts = path.relative_to(package).with_suffix("").parts
        files[".".join(parts).removesuffix(".__init__")] = path
    return files


def project_imports(path, package, modules):
    """The modules of `package` that a file imports: "data.split", or a folder for its names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = whole.removeprefix(f"{package}.") in modules
                names.append(whole if is_module else node.module)
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {n[len(package) + 1 :] for n in names if n.startswith(f"{package}.")}
    return found


def imports_of(package):
    """For each module of a package, those it imports."""
    modules = modules_of(package)
    return {
        name: project_imports(path, package.name, modules)
        for name, path in modules.items()
        if name not in TOP_LEVEL
    }


def check_floors(imports, floors):
    floor_of = {room: floor for floor, rooms in enumerate(floors) for room in rooms.split()}
    rooms = {name.split(".")[0] for name in imports}
    assert rooms == set(floor_of), "every folder has a floor, and no other has"
    wrong = [
        f"{name} imports {other}"
        for name, others in imports.items()
        for other in others
        if (room := name.split(".")[0]) != (below := other.split(".")[0])
        and floor_of[below] >= floor_of[room]
    ]
    assert not wrong


def find_circle(imports):
    """Modules that import one another in a circle, or None."""
    state = {}

    def visit(name, path):
        state[name] = "open"
        for other in sorted(imports.get(name, ())):
            if state.get(other) == "open":
                return [*path[path.index(other) :], other]
            if other not in state and (circle := visit(other, [*path, other])):
                return circle
        state[name] = "done"
        return None

    for name in imports:
        if name not in state and (circle := visit(name, [name])):
            return circle
    return None


def test_folders_import_from_lower_floors_only(root):
    check_floors(imports_of(root / "jaxcifar"), FLOORS)


def test_no_modules_import_one_another_in_a_circle(root):
    assert find_circle(imports_of(root / "jaxcifar")) is None


def test_a_folder_is_entered_by_what_it_names(root):
    package = root / "jaxcifar"
    for name, others in imports_of(package).items():
        for room, _, inside in (other.partition(".") for other in others):
            if inside and room != name.split(".")[0]:
                tree = ast.parse((package / room / "__init__.py").read_text())
                (names,) = (
                    ast.literal_eval(node.value)
                    for node in tree.body
                    if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
                )
                assert inside.split(".")[0] in names, f"{name} imports {room}.{inside}"


def test_an_upward_import_and_a_circle_are_noticed(tmp_path):
    package = tmp_path / "pkg"
    for room, text in (("low", "from pkg.high import a\n"), ("high", "from pkg.low.a import x\n")):
        (package / room).mkdir(parents=True)
        (package / room / "__init__.py").write_text("")
        (package / room / "a.py").write_text(text)
    imports = imports_of(package)
    with pytest.raises(AssertionError, match=r"low\.a imports high\.a"):
        check_floors(imports, ("low", "high"))
    assert set(find_circle(imports)) == {"low.a", "high.a"}


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
