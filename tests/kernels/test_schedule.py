import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernels.schedule import (
    Schedule,
    base_alpha_bar,
    cosine_alpha_bar,
    linear_alpha_bar,
    log_sigma_timesteps,
    network_calls,
    respaced_timesteps,
    scaled_linear_alpha_bar,
    sectioned_timesteps,
    strided_timesteps,
    time_travel,
)


def test_twelve_steps_of_a_thousand_are_the_published_ones():
    assert respaced_timesteps(1000, 12).tolist() == [
        0,
        91,
        182,
        272,
        363,
        454,
        545,
        636,
        727,
        817,
        908,
        999,
    ]


@given(st.integers(1, 1000), st.data())
def test_respaced_timesteps_reach_both_ends_in_order(steps, data):
    start = data.draw(st.integers(steps - 1, 999))
    kept = respaced_timesteps(1000, steps, start)
    assert len(kept) == steps
    assert kept[-1] == start
    assert kept[0] == 0 or steps == 1
    assert np.all(np.diff(kept) > 0)


@given(st.integers(0, 999), st.integers(1, 60))
def test_log_sigma_timesteps_are_distinct_and_end_at_start(start, steps):
    kept = log_sigma_timesteps(linear_alpha_bar(), start, steps)
    assert 1 <= len(kept) <= steps
    assert kept[-1] == start
    assert np.all(np.diff(kept) > 0)


def test_log_sigma_timesteps_are_finer_at_low_noise():
    kept = log_sigma_timesteps(linear_alpha_bar(), 400, 10)
    assert np.all(np.diff(kept, 2) >= 0)


def test_network_calls_count_descending_steps_only():
    for steps, calls in ((100, 280), (250, 730)):
        times = time_travel(steps, 10, 3)
        assert network_calls(times) == calls
        assert times[0] == steps - 1
        assert times[-1] == -1


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 5))
def test_time_travel_walks_by_single_steps_and_costs_the_stated_calls(steps, length, repeat):
    times = time_travel(steps, length, repeat)
    assert set(np.abs(np.diff(times))) == {1}
    jumps = max(0, -(-(steps - length) // length))
    assert network_calls(times) == steps + jumps * (repeat - 1) * length


@pytest.mark.parametrize("name", ["linear", "cosine", "scaled-linear"])
def test_base_schedules_fall_from_almost_one_towards_zero(name):
    alpha_bar = base_alpha_bar(name)
    assert np.all(np.diff(alpha_bar) < 0)
    assert alpha_bar[0] > 0.999
    assert alpha_bar[-1] < 5e-3


def test_linear_betas_scale_with_the_number_of_timesteps():
    beta = 1 - linear_alpha_bar(100)[0]
    assert beta == pytest.approx(1e-3)


def test_first_index_of_every_schedule_is_noise_free():
    for base in (linear_alpha_bar(), cosine_alpha_bar(), scaled_linear_alpha_bar()):
        schedule = Schedule.from_timesteps(base, respaced_timesteps(1000, 20))
        assert (schedule.c1[0], schedule.c2[0], schedule.posterior_variance[0]) == (1, 0, 0)


def test_respacing_keeps_the_noise_levels():
    kept = respaced_timesteps(1000, 37)
    schedule = Schedule.from_timesteps(linear_alpha_bar(), kept)
    np.testing.assert_allclose(schedule.alpha_bar, linear_alpha_bar()[kept], rtol=1e-12)


def test_strided_timesteps_start_at_zero_with_equal_gaps():
    assert strided_timesteps(1000, 25).tolist() == list(range(0, 1000, 40))


@pytest.mark.parametrize(
    "call",
    [
        lambda: respaced_timesteps(1000, 0),
        lambda: respaced_timesteps(1000, 300, start=250),
        lambda: respaced_timesteps(1000, 3, start=1000),
        lambda: log_sigma_timesteps(linear_alpha_bar(), 1000, 5),
        lambda: log_sigma_timesteps(linear_alpha_bar(), 10, 0),
        lambda: sectioned_timesteps(10, [6, 2]),
        lambda: strided_timesteps(10, 7),
        lambda: time_travel(10, 0, 2),
        lambda: base_alpha_bar("sigmoid"),
        lambda: Schedule.from_timesteps(linear_alpha_bar(), [3, 3, 5]),
        lambda: Schedule.from_timesteps(linear_alpha_bar(), []),
        lambda: Schedule.from_timesteps(linear_alpha_bar(), [0, 1000]),
    ],
)
def test_impossible_requests_are_refused_on_one_line(call):
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        call()
