"""A separate program: a run on arrays with own parts, see test_own_parts.

Arguments: the case, the run directory, the number of devices, after how many steps the process
kills itself with SIGKILL (0: never), and whether it resumes. Prints JSON: losses and a digest of
the parameters.
"""

import hashlib
import json
import signal
import sys
import time

import jax
import numpy as np
import optax
import pytest

from jaxcifar import DeviceOptions, Recipe, ResNet, Splits, fit
from tests.training.test_fit import signal_after
from tests.training.test_own_parts import (
    TX,
    Attention,
    ConvNet,
    focal,
    mixup,
    soft_cross_entropy,
    top3,
)

CASES = {
    "convnet": {"model": ConvNet(), "tx": TX, "loss": focal, "metrics": {"top3": top3}},
    "transformer": {
        "model": Attention(),
        "tx": optax.adamw(3e-3),
        "loss": soft_cross_entropy,
        "augment": mixup,
        "metrics": {"top3": top3},
    },
    "resnet": {
        "model": ResNet(stage_sizes=(1,), width=4, stem="cifar"),
        "tx": optax.sgd(0.05, momentum=0.9, nesterov=True),
        "loss": focal,
        "metrics": {"top3": top3},
    },
}


def make_splits():
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 10
    images = np.clip(rng.random((240, 16, 16, 3)) * 0.5 + labels[:, None, None, None] / 20, 0, 1)
    return Splits.from_arrays(
        train=(images[:160], labels[:160]),
        validation=(images[160:200], labels[160:200]),
        test=(images[200:], labels[200:]),
    )


def main():
    case, workdir, devices, killed_after, resume = sys.argv[1:]
    recipe = Recipe(normalization="half", epochs=3, batch_size=40, flip_rate=0.5)
    with pytest.MonkeyPatch.context() as patch:
        if int(killed_after):
            signal_after(int(killed_after), signal.SIGKILL, patch)
        state, history = fit(
            recipe,
            make_splits(),
            workdir=workdir,
            verbose=True,
            resume=resume == "resume",
            devices=DeviceOptions(devices=int(devices)),
            # So that the checkpoint of an epoch is written before the process dies in the next.
            on_epoch=lambda row: time.sleep(1),
            **CASES[case],
        )
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((state.params, state.batch_stats, state.opt_state)):
        digest.update(np.asarray(leaf).tobytes())
    names = ("train_loss", "train_top3", "validation_loss", "validation_top3")
    print(json.dumps({n: history.column(n) for n in names} | {"digest": digest.hexdigest()}))


if __name__ == "__main__":
    main()
