"""What importing and training load, seen in a process of its own."""

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


def test_training_pieces_import_no_checkpointing_or_plotting():
    loaded = modules_after("from jaxcifar import resnet18, make_train_step, make_optimizer, Recipe")
    assert "jax" in loaded
    assert not loaded & {"orbax", "matplotlib", "tensorflow_datasets", "torch", "tensorflow"}


def test_a_run_begins_without_plotting():
    assert "matplotlib" not in modules_after("import jaxcifar.commands.train")


def test_listing_the_experiments_starts_no_device():
    """On a GPU it would take the memory before anything was asked for."""
    code = (
        "import jaxcifar; print(jaxcifar.EXPERIMENTS['freeze_b'].text); "
        "from jax._src import xla_bridge; assert not xla_bridge._backends"
    )
    assert "jax" in modules_after(code)


def test_every_public_name_is_there_and_listed():
    for name in jaxcifar.__all__:
        assert getattr(jaxcifar, name) is not None
    assert dir(jaxcifar) == jaxcifar.__all__


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(jaxcifar, "resnet19")
