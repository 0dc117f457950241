"""Work that may cost a share of the time."""

from hypothesis import given
from hypothesis import strategies as st

from jaxcifar.common.throttle import Throttle


@given(
    st.floats(0.01, 1),
    st.lists(st.tuples(st.floats(0, 100), st.floats(0.01, 5)), min_size=1, max_size=40),
)
def test_each_work_is_paid_for_by_the_time_since_the_last(share, passing):
    now, last, took = 0.0, 0.0, 1.0
    throttle = Throttle(share, took, lambda: now)
    for waiting, seconds in passing:
        now += waiting
        assert throttle.is_due() == ((now - last) * share >= took)
        if throttle.is_due():
            started = now
            with throttle.measured():
                now += seconds
            last, took = now, now - started


def test_a_failed_work_counts_too():
    now = 0.0
    throttle = Throttle(0.5, 0.0, lambda: now)
    assert throttle.is_due()
    try:
        with throttle.measured():
            now = 4.0
            raise OSError
    except OSError:
        assert not throttle.is_due()
    now = 12.0
    assert throttle.is_due()
