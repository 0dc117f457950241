import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from jaxcifar.step.schedules import make_schedule, steps_per_epoch

unhurried = settings(deadline=None, max_examples=40)


def rates(schedule, steps):
    return np.asarray([schedule(step) for step in range(steps)])


def cosine(time, t_max, peak, final):
    return final + (peak - final) * (1 + np.cos(np.pi * time / t_max)) / 2


def torch_rates(peak, final, t_max, count):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, t_max, eta_min=final)
    found = []
    for _ in range(count):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return np.asarray(found)


@pytest.mark.parametrize("final_scale", [0.0, 0.1])
class TestCosine:
    peak, t_max, per_epoch, epochs = 0.3, 5, 4, 13

    def make(self, unit, final_scale):
        return make_schedule(
            "cosine",
            learning_rate=self.peak,
            epochs=self.epochs,
            t_max=self.t_max,
            steps_per_epoch=self.per_epoch,
            unit=unit,
            final_scale=final_scale,
        )

    def test_by_the_epoch_is_torchs_even_past_t_max(self, final_scale):
        ours = rates(self.make("epoch", final_scale), self.epochs * self.per_epoch)
        theirs = torch_rates(self.peak, final_scale * self.peak, self.t_max, self.epochs)
        np.testing.assert_allclose(ours, np.repeat(theirs, self.per_epoch), atol=1e-7)

    def test_by_the_step_is_torchs_even_past_t_max(self, final_scale):
        count = self.epochs * self.per_epoch
        ours = rates(self.make("step", final_scale), count)
        theirs = torch_rates(self.peak, final_scale * self.peak, self.t_max * self.per_epoch, count)
        np.testing.assert_allclose(ours, theirs, atol=1e-7)

    @pytest.mark.parametrize("unit", ["epoch", "step"])
    def test_is_the_closed_form(self, unit, final_scale):
        step = np.arange(self.epochs * self.per_epoch)
        epoch = step // self.per_epoch if unit == "epoch" else step / self.per_epoch
        expected = cosine(epoch, self.t_max, self.peak, final_scale * self.peak)
        ours = rates(self.make(unit, final_scale), len(step))
        np.testing.assert_allclose(ours, expected, atol=1e-7)


def test_t_max_defaults_to_the_length_of_the_run():
    schedule = make_schedule("cosine", learning_rate=1.0, epochs=6, steps_per_epoch=3)
    np.testing.assert_allclose(schedule(9), 0.5, atol=1e-6)
    np.testing.assert_allclose(schedule(18), 0.0, atol=1e-6)


lengths = st.fixed_dictionaries(
    {"epochs": st.integers(1, 12), "steps_per_epoch": st.integers(1, 9)}
)


@unhurried
@given(lengths, st.floats(1e-4, 10), st.sampled_from(("epoch", "step")))
def test_constant_is_constant(length, peak, unit):
    schedule = make_schedule("constant", learning_rate=peak, unit=unit, **length)
    for step in (0, 1, 7, 1000):
        assert schedule(step) == np.float32(peak)


@unhurried
@given(
    lengths,
    st.sampled_from(("cosine", "triangular", "constant")),
    st.sampled_from(("epoch", "step")),
    st.floats(0, 3),
)
def test_the_first_rate_is_positive_and_no_rate_exceeds_the_peak(length, name, unit, warmup):
    schedule = make_schedule(name, learning_rate=0.1, unit=unit, warmup_epochs=warmup, **length)
    found = rates(schedule, length["epochs"] * length["steps_per_epoch"])
    assert found[0] > 0
    assert np.all(found >= -1e-8)
    assert np.all(found <= 0.1 * (1 + 1e-6))


@unhurried
@given(lengths, st.integers(1, 4), st.floats(0, 0.5))
def test_triangular_rises_to_the_peak_and_falls_to_the_end_in_straight_lines(
    length, warmup, final_scale
):
    epochs, per_epoch = length["epochs"] + warmup, length["steps_per_epoch"]
    schedule = make_schedule(
        "triangular",
        learning_rate=2.0,
        epochs=epochs,
        steps_per_epoch=per_epoch,
        warmup_epochs=warmup,
        final_scale=final_scale,
    )
    step = np.arange(epochs * per_epoch + 1)
    top = warmup * per_epoch
    expected = np.interp(step, [-1, top - 1, top, step[-1]], [0, 2, 2, 2 * final_scale])
    np.testing.assert_allclose(rates(schedule, len(step)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("unit", ["epoch", "step"])
@pytest.mark.parametrize("warmup", [0.5, 2, 2.5])
def test_a_warm_up_counts_steps_and_scales_the_schedule_below(unit, warmup):
    arguments = {"learning_rate": 0.1, "epochs": 6, "steps_per_epoch": 4, "unit": unit}
    plain = rates(make_schedule("cosine", **arguments), 24)
    warm = rates(make_schedule("cosine", warmup_epochs=warmup, **arguments), 24)
    factor = np.minimum(1, (np.arange(24) + 1) / (4 * warmup))
    np.testing.assert_allclose(warm, plain * factor, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("final_scale", [0.0, 0.07])
def test_a_warm_up_may_start_at_a_share_of_the_peak(final_scale):
    schedule = make_schedule(
        "triangular",
        learning_rate=0.4,
        epochs=16,
        steps_per_epoch=10,
        warmup_epochs=3.2,
        start_scale=0.2,
        final_scale=final_scale,
    )
    # The peak comes one step early, because the warm-up's first step is already above its start.
    expected = np.interp(np.arange(161), [-1, 31, 32, 160], [0.08, 0.4, 0.4, 0.4 * final_scale])
    np.testing.assert_allclose(rates(schedule, 161), expected, rtol=1e-5, atol=1e-6)


def test_a_warm_up_from_zero_has_exact_bits():
    arguments = {"learning_rate": 0.3, "epochs": 5, "steps_per_epoch": 7, "warmup_epochs": 1.7}
    found = rates(make_schedule("cosine", **arguments), 35)
    plain = rates(make_schedule("cosine", **arguments | {"warmup_epochs": 0.0}), 35)
    warm = np.minimum(np.float32(1), (np.arange(35) + 1).astype(np.float32) / np.float32(11.9))
    np.testing.assert_array_equal(found, plain * warm)


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_the_steps_of_an_epoch_cover_it_and_none_is_empty(size, batch):
    steps = steps_per_epoch(size, batch)
    assert (steps - 1) * batch < size <= steps * batch


def test_an_unknown_name_or_unit_is_named():
    arguments = {"learning_rate": 0.1, "epochs": 1, "steps_per_epoch": 1}
    with pytest.raises(ValueError, match="'linear'.*cosine, triangular, constant"):
        make_schedule("linear", **arguments)
    with pytest.raises(ValueError, match="'batch'.*epoch, step"):
        make_schedule("cosine", unit="batch", **arguments)


@pytest.mark.parametrize("t_max", [0, -1])
def test_a_period_that_is_not_positive_is_refused(t_max):
    with pytest.raises(ValueError, match=rf"t_max \({t_max}\)"):
        make_schedule("cosine", learning_rate=0.1, epochs=5, steps_per_epoch=2, t_max=t_max)


@pytest.mark.parametrize("lengths", [{"warmup_epochs": -1.0}, {"steps_per_epoch": 0}])
def test_an_invalid_length_is_refused(lengths):
    arguments = {"learning_rate": 0.1, "epochs": 2, "steps_per_epoch": 4} | lengths
    with pytest.raises(ValueError, match=next(iter(lengths))):
        make_schedule("cosine", **arguments)


class TestAfterTheEnd:
    peak, t_max, per_epoch, epochs = 0.3, 4, 5, 13

    def make(self, name="cosine", unit="epoch", **settings):
        return make_schedule(
            name,
            learning_rate=self.peak,
            epochs=self.epochs,
            steps_per_epoch=self.per_epoch,
            unit=unit,
            final_scale=0.1,
            **({"t_max": self.t_max} | settings),
        )

    @unhurried
    @given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
    def test_restarts_are_at_whole_steps_however_long_an_epoch_is(self, first, later, per_epoch):
        """By whole numbers, which have no rounding."""
        steps = np.arange(400)
        passed = np.where(steps < first, steps, (steps - first) % later / later * first)
        for name, expected in (
            ("cosine", cosine(passed, first, 0.2, 0)),
            ("triangular", 0.2 * (1 - passed / first)),
        ):
            schedule = make_schedule(
                name,
                learning_rate=0.2,
                epochs=400 / per_epoch,
                steps_per_epoch=per_epoch,
                t_max=first / per_epoch,
                after="restart",
                restart_epochs=later / per_epoch,
            )
            np.testing.assert_allclose(schedule(steps), expected, atol=2e-4)

    def test_restarts_are_torchs_warm_restarts(self):
        torch = pytest.importorskip("torch")
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=self.peak)
        restarts = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
            optimizer, self.t_max, eta_min=0.1 * self.peak
        )
        theirs = []
        for _ in range(self.epochs):
            theirs.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            restarts.step()
        ours = rates(self.make(after="restart"), self.epochs * self.per_epoch)
        np.testing.assert_allclose(ours, np.repeat(theirs, self.per_epoch), atol=1e-7)

    @pytest.mark.parametrize("unit", ["epoch", "step"])
    @pytest.mark.parametrize("name", ["cosine", "triangular"])
    def test_the_final_rate_stays(self, name, unit):
        ours = rates(self.make(name, unit, after="final"), self.epochs * self.per_epoch)
        np.testing.assert_allclose(ours[self.t_max * self.per_epoch :], 0.1 * self.peak, rtol=1e-6)

    def test_a_triangle_begins_again_at_its_peak_without_a_warm_up(self):
        schedule = self.make("triangular", "step", after="restart", warmup_epochs=2.0)
        ours, first = rates(schedule, self.epochs * self.per_epoch), self.t_max * self.per_epoch
        fall = np.linspace(self.peak, 0.1 * self.peak, first + 1)[:-1]
        np.testing.assert_allclose(ours[first : 2 * first], fall, rtol=1e-5)

    @unhurried
    @given(
        st.sampled_from(["cosine", "triangular"]),
        st.sampled_from(["epoch", "step"]),
        st.integers(1, 8),
        st.floats(0, 3),
        st.sampled_from(["final", "restart"]),
        st.sampled_from([None, 1.0, 2.5]),
    )
    def test_the_past_does_not_depend_on_it(self, name, unit, end, warmup, after, repeated):
        """A run that ended with its schedule has the same rates when it is extended."""
        same = {"name": name, "unit": unit, "warmup_epochs": warmup}
        short = make_schedule(
            learning_rate=0.3, epochs=end, steps_per_epoch=3, final_scale=0.1, **same
        )
        longer = make_schedule(
            learning_rate=0.3,
            epochs=end + 4,
            steps_per_epoch=3,
            final_scale=0.1,
            t_max=float(end),
            after=after,
            restart_epochs=repeated if after == "restart" else None,
            **same,
        )
        np.testing.assert_array_equal(rates(short, 3 * end), rates(longer, 3 * end))
        later = rates(longer, 3 * (end + 4))[3 * max(end, int(np.ceil(warmup))) :]
        assert (later >= 0.3 * 0.1 * (1 - 1e-5)).all()
        assert (later <= 0.3 * (1 + 1e-5)).all()

    def test_settings_that_are_unknown_are_refused(self):
        with pytest.raises(ValueError, match="unknown schedule setting 'again'"):
            self.make(after="again")
        with pytest.raises(ValueError, match=r"restart_epochs \(0\)"):
            self.make(after="restart", restart_epochs=0)
