import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from jax.sharding import Mesh

from jaxcifar.data import Dataset
from jaxcifar.devices.layout import AXIS, Layout
from jaxcifar.models.resnet import ResNet
from jaxcifar.step import metrics
from jaxcifar.step.augment import make_augment, make_normalize
from jaxcifar.step.state import Draw, TrainState, draw_key, init_state
from jaxcifar.step.steps import make_train_step
from jaxcifar.training import pieces
from jaxcifar.training.resident import make_evaluation, make_train_epoch
from jaxcifar.training.streamed import make_streamed_epoch

compiling = settings(max_examples=8, deadline=None)
CAPACITY = 200  # steps and images that a recording state can hold


def recording_state(seed=0):
    """A state that a recording step fills with the indices of the images it was given."""
    return TrainState(
        step=jnp.int32(0),
        params={"seen": jnp.full(CAPACITY, -1), "used": jnp.int32(0)},
        batch_stats={"length": jnp.zeros(CAPACITY, jnp.int32)},
        opt_state=(),
        key=jax.random.key(seed),
    )


def recording_step(state, batch):
    """The label is the image's index; so is each of its pixels."""
    label = batch["label"]
    used = state.params["used"]
    matches = jnp.all(batch["image"] == label[:, None, None, None])
    seen = jax.lax.dynamic_update_slice(state.params["seen"], label, (used,))
    length = state.batch_stats["length"].at[state.step].set(len(label))
    state = state.replace(
        step=state.step + 1,
        params={"seen": seen, "used": used + len(label)},
        batch_stats={"length": length},
    )
    count = jnp.int32(len(label))
    loss_sum = jnp.sum(label, dtype=jnp.float32)
    measured = {"loss_sum": loss_sum, "correct": count * matches, "count": count}
    return state, metrics.zeros() | measured


def numbered(size):
    index = np.arange(size)
    image = np.broadcast_to(index[:, None, None, None], (size, 2, 2, 3))
    return {"image": jnp.asarray(image, jnp.uint8), "label": jnp.asarray(index, jnp.int32)}


def seen_by(state):
    return np.asarray(state.params["seen"])[: int(state.params["used"])]


def lengths_of(state):
    return np.asarray(state.batch_stats["length"])[: int(state.step)]


@compiling
@given(st.integers(1, 24), st.data())
@pytest.mark.slow
def test_each_image_is_used_once_per_epoch_and_the_last_batch_may_be_smaller(size, data):
    batch_size = data.draw(st.integers(1, size))
    train = make_train_epoch(recording_step, size=size, batch_size=batch_size)
    state, sums = train.run(recording_state(), numbered(size))
    assert sorted(seen_by(state)) == list(range(size))
    assert sums["count"] == sums["correct"] == size
    assert sums["loss_sum"] == size * (size - 1) / 2
    whole, rest = divmod(size, batch_size)
    assert list(lengths_of(state)) == [batch_size] * whole + [rest] * (rest > 0)


class TestOrder:
    size, batch_size = 20, 6
    train = make_train_epoch(recording_step, size=size, batch_size=batch_size)

    def epochs(self, count, seed=0):
        state = recording_state(seed)
        for _ in range(count):
            state, _ = self.train.run(state, numbered(self.size))
        return seen_by(state).reshape(count, self.size)

    def test_every_epoch_has_its_own_order(self):
        orders = self.epochs(4)
        assert len({tuple(order) for order in orders}) == 4
        assert all(sorted(order) == list(range(self.size)) for order in orders)

    def test_the_order_is_drawn_from_the_runs_key_and_the_epoch(self):
        for seed in (0, 1):
            key = jax.random.key(seed)
            for number, order in enumerate(self.epochs(2, seed)):
                drawn = jax.random.permutation(draw_key(key, Draw.ORDER, number), self.size)
                np.testing.assert_array_equal(order, drawn)

    @pytest.mark.parametrize("with_progress", [False, True])
    @pytest.mark.parametrize("taken", [1, 2, 3, 4, 5, 7])
    def test_an_epoch_stopped_after_any_step_finishes_exactly_the_rest(self, taken, with_progress):
        whole = self.epochs(2).ravel()
        used = [0, 6, 12, 18, 20, 26, 32, 38, 40][taken]
        state = recording_state().replace(step=jnp.int32(taken))
        on_piece = (lambda *_: None) if with_progress else None
        state, sums = self.train.run(state, numbered(self.size), on_piece)
        end = 20 if taken < 4 else 40
        np.testing.assert_array_equal(seen_by(state), whole[used:end])
        assert sums["count"] == end - used
        assert state.step == (4 if taken < 4 else 8)

    @pytest.mark.parametrize("seconds", [0.0, 1e9])
    def test_pieces_change_nothing_and_report_every_image(self, seconds, monkeypatch):
        monkeypatch.setattr(pieces, "SECONDS_PER_PIECE", seconds)
        reports = []
        state, sums = self.train.run(
            recording_state(),
            numbered(self.size),
            lambda examples, sums: reports.append((examples, int(sums["count"]))),
        )
        np.testing.assert_array_equal(seen_by(state), self.epochs(1)[0])
        assert sums["count"] == self.size
        done = np.cumsum([examples for examples, _ in reports])
        assert list(done) == [count for _, count in reports]
        assert done[-1] == self.size

    def test_compiling_takes_no_step(self):
        state = self.train.compile(recording_state(), numbered(self.size))
        assert state.step == state.params["used"] == 0
        assert np.all(state.params["seen"] == -1)


def test_an_epoch_equals_a_plain_loop():
    size, batch_size = 20, 8
    rng = np.random.default_rng(0)
    data = {
        "image": jnp.asarray(rng.integers(0, 256, (size, 8, 8, 3)), jnp.uint8),
        "label": jnp.asarray(rng.integers(0, 10, size), jnp.int32),
    }
    model = ResNet(stage_sizes=(), width=4, stem="cifar", dropout_rate=0.2, lowering="xla")
    tx = optax.sgd(0.05, momentum=0.9)
    step = make_train_step(model, tx, normalize=make_normalize("half"))
    augment = make_augment(flip_rate=0.5)
    state = init_state(model, tx, seed=3, image_size=8)

    train = make_train_epoch(step, size=size, batch_size=batch_size, augment=augment)
    ours, sums = train.run(jax.tree.map(jnp.copy, state), data)
    ours, more = train.run(ours, data)

    total = [metrics.zeros(), metrics.zeros()]
    one_step, one_augment = jax.jit(step), jax.jit(augment)
    for number in range(2):
        order = jax.random.permutation(draw_key(state.key, Draw.ORDER, number), size)
        key = draw_key(state.key, Draw.AUGMENT, number)
        for start in range(0, size, batch_size):
            index = order[start : start + batch_size]
            keys = jnp.stack([jax.random.fold_in(key, i) for i in index])
            images = one_augment(keys, data["image"][index])
            state, measured = one_step(state, {"image": images, "label": data["label"][index]})
            total[number] = metrics.add(total[number], measured)

    assert ours.step == state.step == 6
    for a, b in zip((sums, more), total, strict=True):
        assert metrics.compute(a) == pytest.approx(metrics.compute(b), rel=1e-4)
    for name in ("params", "batch_stats", "opt_state"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
            getattr(ours, name),
            getattr(state, name),
        )


@compiling
@given(st.integers(1, 28), st.integers(1, 30), st.booleans())
def test_evaluation_counts_every_image_exactly_once(size, batch_size, with_progress):
    def fake_eval_step(variables, batch):
        # A sum of n powers of two is 2^n - 1 only if each exponent from 0 to n - 1 appears once.
        bits = jnp.where(batch["mask"], variables["one"] << batch["label"], 0)
        return metrics.zeros() | {
            "correct": jnp.sum(bits, dtype=jnp.int32),
            "count": jnp.sum(batch["mask"], dtype=jnp.int32),
        }

    evaluation = make_evaluation(fake_eval_step, size=size, batch_size=batch_size)
    data, variables = numbered(size), {"one": jnp.int32(1)}
    evaluation.compile(variables, data)
    reports = []
    on_piece = (lambda _, sums: reports.append(int(sums["count"]))) if with_progress else None
    sums = evaluation.run(variables, data, on_piece)
    assert sums["count"] == size
    assert sums["correct"] == 2**size - 1
    assert not with_progress or reports[-1] == size


def step_that_is_not_finite(at, kinds):
    """A step function that reports numbers that are not finite in the steps `at`."""

    def step(state, batch):
        state, measured = recording_step(state, batch)
        bad = jnp.isin(state.step - 1, jnp.asarray(at))
        measured["nonfinite"] = bad.astype(jnp.int32)
        measured["nonfinite_kinds"] = jnp.where(bad, kinds, 0)
        return state, measured

    return step


@pytest.mark.parametrize(("at", "stops_after"), [((2, 4), 3), ((5,), 6), ((), 6)])
def test_the_epoch_ends_after_a_step_that_is_not_finite(at, stops_after):
    """Six steps, the last of them smaller."""
    train = make_train_epoch(step_that_is_not_finite(at, 2), size=11, batch_size=2)
    state, sums = train.run(recording_state(), numbered(11), lambda *_: None)
    assert int(state.step) == stops_after
    assert int(sums["nonfinite"]) == bool(at)
    assert metrics.nonfinite_names(sums) == (["gradients"] if at else [])


class ReadRows:
    """A source of forty images that notes which were read."""

    side, labels = 4, np.arange(40, dtype=np.int32)

    def __init__(self):
        self.rows = []

    def __len__(self):
        return len(self.labels)

    def read(self, rows):
        self.rows += rows.tolist()
        return Dataset(np.zeros((len(rows), 4, 4, 3), np.uint8), self.labels[rows])


@pytest.mark.parametrize("on_piece", [None, lambda *_: None])
@pytest.mark.parametrize("stops", [True, False])
def test_a_streamed_epoch_reads_no_further_than_a_step_that_is_not_finite(
    monkeypatch, on_piece, stops
):
    monkeypatch.setattr("jaxcifar.training.streamed.CHUNK_BYTES", 1)  # a batch in a chunk
    step, source = step_that_is_not_finite((2,), 2), ReadRows()
    epoch = make_streamed_epoch(step, source, batch_size=2, stop_at_nonfinite=stops)
    state, sums = epoch.run(recording_state(), on_piece)
    assert int(sums["nonfinite"]) == 1
    assert int(state.step) == (3 if stops else 20)
    assert (len(source.rows) < 40) == stops


def test_with_skipping_the_epoch_continues_and_counts_the_bad_steps():
    step = step_that_is_not_finite((1, 3), 4)
    train = make_train_epoch(step, size=11, batch_size=2, stop_at_nonfinite=False)
    state, sums = train.run(recording_state(), numbered(11))
    assert int(state.step) == 6
    assert int(sums["nonfinite"]) == 2
    assert metrics.nonfinite_names(sums) == ["BatchNorm statistics"]


@pytest.mark.parametrize("batch_size", [0, 9])
def test_a_batch_size_that_does_not_fit_the_data_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"between 1 and the 8 images, not {batch_size}"):
        make_train_epoch(lambda state, batch: (state, {}), size=8, batch_size=batch_size)


def test_pmap_needs_the_step_with_its_axis_named(digits):
    """Without it, all devices would do the first one's share."""
    layout = Layout("pmap", Mesh(np.array(jax.devices()[:1]), (AXIS,)))
    message = "pass axis_step, the same step made with axis_name='data'"
    with pytest.raises(ValueError, match=message):
        make_train_epoch(recording_step, size=8, batch_size=4, layout=layout)
    with pytest.raises(ValueError, match=message):
        make_streamed_epoch(recording_step, digits.train, batch_size=4, layout=layout)
    make_train_epoch(recording_step, size=8, batch_size=4, layout=layout, axis_step=recording_step)
