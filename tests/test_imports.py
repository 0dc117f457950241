"""Which modules are loaded by importing and training, checked in new processes."""

import ast
import subprocess
import sys

import jaxcifar


def modules_after(code):
    done = subprocess.run(
        [sys.executable, "-c", code + "; import sys; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_package_imports_nothing_heavy():
    loaded = modules_after("import jaxcifar")
    heavy = {"jax", "orbax", "matplotlib", "tensorflow_datasets", "sklearn", "PIL"}
    assert not loaded & (heavy | {"torch", "tensorflow"})


def test_parts_of_training_import_no_checkpointing_or_plotting():
    loaded = modules_after("from jaxcifar import resnet18, make_train_step, make_optimizer, Recipe")
    assert "jax" in loaded
    assert not loaded & {"orbax", "matplotlib", "tensorflow_datasets", "torch", "tensorflow"}


def test_training_starts_without_plotting():
    code = "import jaxcifar.commands.train, jaxcifar.training.fit"
    assert "matplotlib" not in modules_after(code)


def test_listing_the_experiments_starts_no_device():
    """Starting a GPU would take its memory."""
    code = (
        "import jaxcifar; print(jaxcifar.EXPERIMENTS['freeze_b'].text); "
        "from jax._src import xla_bridge; assert not xla_bridge._backends"
    )
    assert "jax" in modules_after(code)


def test_every_public_name_exists_and_is_listed():
    for name in jaxcifar.__all__:
        assert getattr(jaxcifar, name) is not None
    assert dir(jaxcifar) == jaxcifar.__all__


def test_type_checkers_see_the_same_public_names(root):
    """A name once fell out of the table of modules, and nothing noticed."""
    tree = ast.parse((root / "jaxcifar" / "__init__.py").read_text())
    imported = {
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("jaxcifar.")
        for alias in node.names
    }
    assert imported == {
        (f"jaxcifar.{module}", name)
        for module, names in jaxcifar._MODULES.items()
        for name in names
    }


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(jaxcifar, "resnet19")
