import functools
import os
import runpy
import shutil
import signal
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
# `benchmarks` is not installed, so the tests import it from the repository's root.
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Halves the compile time on JAX 0.10; other versions abort on an unknown flag. The tests that
# start scripts do not use it.
QUICK_COMPILING = (
    "--xla_cpu_use_fusion_emitters=false" if version("jax").startswith("0.10.") else ""
)
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_COMPILING}".strip()


def with_devices(count):
    """XLA_FLAGS of the environment, for a process with `count` CPU devices."""
    return f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"


def pytest_configure(config):
    """Share compiled programs between runs of a recipe; compiling is most of the suite's time."""
    # A shell's background job ignores SIGINT, and so would the scripts that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):  # the workers of xdist inherit the variable
        os.environ["JAXCIFAR_TEST_COMPILED"] = tempfile.mkdtemp(prefix="jaxcifar-tests-")
    import jax

    jax.config.update("jax_compilation_cache_dir", os.environ["JAXCIFAR_TEST_COMPILED"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # The oracles are float64 and PyTorch's float32: TF32 on a GPU and bfloat16 on a TPU have fewer
    # digits than the tests ask for. On a CPU it changes nothing.
    jax.config.update("jax_default_matmul_precision", "highest")
    # Saves a third of the time; the tests that start scripts run with every optimisation.
    jax.config.update("jax_disable_most_optimizations", True)


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):
        shutil.rmtree(os.environ["JAXCIFAR_TEST_COMPILED"], ignore_errors=True)


@pytest.fixture
def optimised():
    """Programs compiled with all optimisations, except for the XLA flag above."""
    import jax

    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True)
def own_programs(request):
    """Tests share the compiled programs of a recipe, unless they patch parts of the library."""

    def clear():
        stage = sys.modules.get("jaxcifar.training.stage")
        if stage is not None and {"monkeypatch", "optimised"} & set(request.fixturenames):
            stage.forget_programs()
            from jaxcifar.training.start import forget_first_programs

            forget_first_programs()

    clear()
    yield
    clear()


@pytest.fixture(autouse=True)
def own_signals():
    """A command that runs in the tests' process sets the handlers of its signals."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def root():
    return ROOT


@pytest.fixture
def run_here(root, tmp_path, monkeypatch, capsys):
    """Run a script in this process, which saves the imports: (status, stdout, stderr)."""

    def run(script, *arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [script, *arguments])
        status = 0
        try:
            runpy.run_path(str(root / "scripts" / script), run_name="__main__")
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory):
    """Decoded data and compiled programs of tests stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXCIFAR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture
def tiny():
    """An architecture small enough to compile in a test."""
    from jaxcifar.models.resnet import ARCHITECTURES

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ARCHITECTURES, "tiny", {"stage_sizes": (1,), "bottleneck": False})
        yield "tiny"


@pytest.fixture(scope="session")
def digits():
    """Real data that needs no download: 120 train, 40 validation and all 360 test images."""
    from jaxcifar.data import load_dataset

    return load_dataset("digits", split=(120, 40))


@pytest.fixture
def recipe(tiny):
    from jaxcifar.recipes.recipe import Recipe

    return Recipe(
        dataset="digits",
        train_size=120,  # three batches of 40: a smaller last batch needs another program
        validation_size=40,
        normalization="half",
        architecture=tiny,
        width=4,
        dropout_rate=0.3,
        flip_rate=0.5,
        translate_pixels=2,
        epochs=3,
        batch_size=40,
        eval_batch_size=64,
        learning_rate=0.003,
        t_max=10.0,
    )


@pytest.fixture
def stored_run(recipe, digits, tmp_path):
    """A run directory with a checkpoint of random weights, which is enough to look at."""
    from jaxcifar.runs.directory import RunDirectory

    run_dir = RunDirectory(tmp_path / "run")
    run_dir.create({"recipe": recipe.to_dict(), "data_fingerprint": digits.fingerprint})
    save_random_weights(recipe, run_dir)
    return run_dir.path


CLASSES = ("Hündin groß", "Kätzchen klein", "Zug, rot")


@pytest.fixture
def photos(tmp_path):
    """A folder of pictures of three classes and many sizes: train and test, in `CLASSES`."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for part, count in (("train", 15), ("test", 9)):
        for i in range(count):
            pixels = rng.integers(0, 100, (20 + i, 30 - i, 3), np.uint8)
            pixels[..., i % 3] += 100
            path = tmp_path / "Meine Bilder" / part / CLASSES[i % 3] / f"Bild {i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    return tmp_path / "Meine Bilder"


@pytest.fixture
def photo_run(tiny, photos, tmp_path):
    """A run on these pictures as `fit` leaves it, with a checkpoint of random weights."""
    from jaxcifar.recipes.recipe import Recipe
    from jaxcifar.recipes.splits import load_splits
    from jaxcifar.runs.directory import RunDirectory
    from jaxcifar.runs.opening import prepare_directory

    recipe = Recipe(
        dataset=f"folder:{photos}",
        resize=16,
        normalization="half",
        architecture=tiny,
        width=4,
        batch_size=4,
    )
    run_dir = RunDirectory(tmp_path / "photo run")
    prepare_directory(
        run_dir, recipe, load_splits(recipe), "scratch", None, resume=False, overwrite=False
    )
    save_random_weights(recipe, run_dir)
    return run_dir.path


def save_random_weights(recipe, run_dir):
    """A checkpoint, which is enough to look at a run."""
    from jaxcifar.runs.checkpoints import Checkpoints
    from jaxcifar.step.state import start_state

    state = start_state(random_variables(recipe.make_model()), recipe.make_optimizer(), seed=0)
    with Checkpoints(run_dir.checkpoints) as checkpoints:
        checkpoints.save(state, validation_accuracy=0.5)


def assert_trees_identical(a, b):
    """The same structure, and bit-identical leaves."""
    import jax

    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def random_variables(model, seed=0):
    """Random variables with statistics that have an effect, drawn without compiling anything."""
    import jax

    # In new dicts: a test that changes one must not change those of another test.
    return jax.tree.map(lambda leaf: leaf, _draw_variables(model, seed))


@functools.cache
def _draw_variables(model, seed):
    import jax
    import jax.numpy as jnp

    shapes = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, 32, 32, 3)), train=False), jax.random.key(0)
    )
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        values = rng.normal(size=leaf.shape)
        if name == "kernel":
            values *= np.sqrt(2 / np.prod(leaf.shape[:-1]))
        elif name in ("var", "scale"):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        return jnp.asarray(values, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, dict(shapes))
