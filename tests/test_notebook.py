"""A real notebook, in a real kernel: skipped where Jupyter is not installed."""

import base64
import io
import os
import sys

import pytest
from matplotlib.image import imread

from tests.conftest import ROOT

SETUP = """
import warnings
warnings.simplefilter("error")
warnings.simplefilter("ignore", DeprecationWarning)
warnings.simplefilter("ignore", PendingDeprecationWarning)
import jax
jax.config.update("jax_disable_most_optimizations", True)
from jaxcifar.models.resnet import ARCHITECTURES
ARCHITECTURES["tiny"] = {"stage_sizes": (1,), "bottleneck": False}
from jaxcifar import Recipe, draw_curves, fit, load_splits
recipe = Recipe(dataset="digits", normalization="half", architecture="tiny", width=2,
                train_size=120, validation_size=40, batch_size=60, epochs=3)
splits = load_splits(recipe)
splits
"""
CELLS = (SETUP, "state, history = fit(recipe, splits, verbose=True)", "history", "state",
         "draw_curves(history)", "import sys; 'matplotlib.pyplot' in sys.modules")  # fmt: skip


@pytest.fixture(scope="module")
def outputs():
    """The outputs of each cell."""
    for module in ("nbformat", "nbclient", "ipykernel"):
        pytest.importorskip(module, reason=f"{module} is not installed: pip install {module}")
    import nbclient
    import nbformat
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    manager = AsyncKernelManager()
    start = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager._kernel_spec = KernelSpec(argv=start, language="python", display_name="here")
    client = nbclient.NotebookClient(notebook, km=manager, timeout=300, coalesce_streams=True)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    client.execute(env=os.environ | {"PYTHONPATH": path})
    return [cell.outputs for cell in notebook.cells]


def text_of(outputs):
    return "\n".join(
        output.text if output.output_type == "stream" else output.data.get("text/plain", "")
        for output in outputs
    )


def pngs_of(outputs):
    found = [o.data["image/png"] for o in outputs if "image/png" in o.get("data", {})]
    return [imread(io.BytesIO(base64.b64decode(png))) for png in found]


@pytest.mark.slow
def test_fit_is_at_home_in_a_notebook(outputs):
    splits, fitted, history, state, curves, pyplot = outputs
    assert text_of(splits).startswith("Splits(digits: 120 train, 40 validation, 360 test images")
    assert all(o.get("name") != "stderr" for cell in outputs for o in cell)
    lines = [line.rsplit("\r", 1)[-1] for line in text_of(fitted).split("\n")]
    assert [line.split()[1] for line in lines if line.startswith("epoch ")] == ["1/3", "2/3", "3/3"]
    assert not any("img/s]" in line for line in lines)  # a bar
    (grown,) = pngs_of(fitted)
    assert grown.shape[:2] == (456, 1152)
    assert "<table>" in history[0].data["text/html"]
    assert text_of(history).startswith("History(3 epochs")
    assert text_of(state).startswith("TrainState(step 6;")
    assert len(pngs_of(curves)) == 1
    assert text_of(pyplot) == "False"
