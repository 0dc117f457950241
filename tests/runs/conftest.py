import shutil

import jax
import pytest

from jaxcifar.models.resnet import ResNet
from jaxcifar.runs.checkpoints import Checkpoints
from jaxcifar.step.state import init_state
from tests.runs.made_checkpoints import TX, at


@pytest.fixture(scope="session")
def states():
    """Three states of one run, each with different weights."""
    model = ResNet(stage_sizes=(1,), width=4)
    state = init_state(model, TX, seed=0, image_size=8)
    return [
        at(state, step, params=jax.tree.map(lambda x, s=step: x + s, state.params))
        for step in (10, 20, 30)
    ]


@pytest.fixture(scope="session")
def stored(tmp_path_factory, states):
    directory = tmp_path_factory.mktemp("stored") / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        for state, accuracy in zip(states, (0.2, 0.9, 0.5), strict=True):
            checkpoints.save(state, validation_accuracy=accuracy)
    return directory


@pytest.fixture
def directory(tmp_path, stored):
    """The checkpoints 20 and 30; 20 is the best."""
    return shutil.copytree(stored, tmp_path / "checkpoints")
