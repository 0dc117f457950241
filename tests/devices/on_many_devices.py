"""A separate program, since a process has a fixed number of devices: see test_layout.

Trains a small network with BatchNorm, dropout and augmentation for 30 steps under each layout given
on the command line ("1", "jit 4", "pmap 8", "jit 4 stream"). 8 devices cannot share the last batch
of an epoch. Prints JSON: layout -> losses, scores, parameters.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxcifar.data import Dataset
from jaxcifar.devices.layout import AXIS, Layout
from jaxcifar.models.resnet import ResNet
from jaxcifar.step.augment import make_augment
from jaxcifar.step.state import init_state
from jaxcifar.step.steps import make_eval_step, make_train_step
from jaxcifar.training.evaluation import to_device
from jaxcifar.training.features import cache_features
from jaxcifar.training.resident import make_evaluation, make_train_epoch
from jaxcifar.training.streamed import make_streamed_epoch, make_streamed_evaluation

SIZE, BATCH, EPOCHS = 76, 16, 6


def make_data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (SIZE, 8, 8, 3), np.uint8)
    return Dataset(images, rng.integers(0, 10, SIZE).astype(np.int32))


def train(layout, groups, dtype, streamed):
    model = ResNet(
        stage_sizes=(1, 1),
        width=4,
        stem="cifar",
        dropout_rate=0.3,
        dtype=dtype,
        batch_norm_groups=groups,
    )
    tx = optax.adam(0.01)
    augment = make_augment(flip_rate=0.5, translate_pixels=2, rotate_degrees=20.0)

    def make_step(axis_name):
        return make_train_step(
            model.clone(axis_name=axis_name),
            tx,
            normalize=lambda x: x.astype(dtype) / 255 - 0.5,
            log_gradient_norm=True,
            axis_name=axis_name,
        )

    state = init_state(model, tx, seed=0, image_size=8)
    converted = jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x,
        state.replace(key=jnp.zeros(())),
    )
    state = layout.replicate(converted.replace(key=state.key))
    dataset = make_data()
    eval_step = make_eval_step(model, normalize=lambda x: x.astype(dtype) / 255 - 0.5)
    axis_step = None if layout.axis_name is None else make_step(layout.axis_name)
    settings = {"batch_size": BATCH, "augment": augment, "layout": layout, "axis_step": axis_step}
    if streamed:
        epoch = make_streamed_epoch(make_step(None), dataset, **settings)
        scoring = make_streamed_evaluation(eval_step, dataset, batch_size=24, layout=layout)
    else:
        data = to_device(dataset, layout)
        epoch = make_train_epoch(make_step(None), size=SIZE, **settings).over(data)
        evaluation = make_evaluation(eval_step, size=SIZE, batch_size=24, layout=layout)
        scoring = evaluation.over(data)

    losses, norms = [], []
    for _ in range(EPOCHS):
        totals = [(0.0, 0.0, 0)]

        def record(images, sums, totals=totals):
            total = tuple(float(sums[k]) for k in ("loss_sum", "gradient_norm_sum", "count"))
            loss, norm, count = (b - a for a, b in zip(totals[-1], total, strict=True))
            losses.append(loss / count)
            norms.append(norm / count)
            totals.append(total)

        state, sums = epoch.run(state, record, allow=lambda count: 1)
        assert int(sums["count"]) == SIZE
        assert int(sums["nonfinite"]) == 0
    scores = jax.device_get(scoring.run(state.variables))
    params = np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.params)])
    stats = np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.batch_stats)])
    return {
        "losses": losses,
        "norms": norms,
        "scores": {name: value.item() for name, value in scores.items() if name != "own"},
        "params": params.tolist(),
        "stats": stats.tolist(),
    }


def stored_views(layout):
    """Seven rows (no number of devices divides 7) of the second of two views of features."""
    model = ResNet(stage_sizes=(1, 1), width=4, stem="cifar", frozen=frozenset({"bn1", "layer1"}))
    state = init_state(model, optax.identity(), seed=1, image_size=8)
    dataset = make_data()
    data = cache_features(
        model,
        layout.replicate(state.variables),
        to_device(dataset, layout),
        "layer1",
        normalize=lambda x: x.astype(jnp.float32) / 255 - 0.5,
        batch_size=7,
        augment=make_augment(flip_rate=0.5, translate_pixels=2),
        views=2,
        key=state.key,
        layout=layout,
        size=SIZE,
    )
    rows = jnp.asarray([3, 75, 0, 38, 37, 19, 60])
    take = layout.compile(
        lambda data, rows: (
            layout.take(data["image"], rows, view=1, views=2),
            layout.take(data["label"], rows),
        ),
        shared=(0,),
    )
    features, labels = take(data, rows)
    assert np.array_equal(labels, dataset.labels[np.asarray(rows)])
    return np.asarray(features).ravel().tolist()


def main():
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_disable_most_optimizations", True)
    dtype, groups, *names = sys.argv[1:]
    jax.config.update("jax_enable_x64", dtype == "float64")
    results = {}
    for name in names:
        words = name.split()
        layout = Layout()
        if words[0] != "1":
            devices = np.array(jax.devices()[: int(words[1])])
            layout = Layout(words[0], Mesh(devices, (AXIS,)))
        results[name] = train(layout, int(groups), jnp.dtype(dtype), words[-1] == "stream")
        results[name]["features"] = stored_views(layout)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
