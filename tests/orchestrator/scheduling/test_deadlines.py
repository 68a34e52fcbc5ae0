"""Deadlines follow a run's own batches; a failing store is tried again; signals let what
runs end.
"""

import errno
import os
import signal
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.retry import disk_full, retry_store
from orchestrator.scheduling.deadlines import FIRST_SECONDS, TIMES, Deadlines
from orchestrator.shutdown import Stop
from storage.errors import MissingCells

SECONDS = st.floats(0.01, 1e4)


@given(SECONDS, st.integers(1, 64))
def test_before_the_first_batch_of_a_level_nobody_knows_what_is_late(slack, tiles):
    deadlines = Deadlines(slack)
    deadlines.ended(1, tiles, 0.1)
    assert deadlines.usual(0, tiles) is None
    assert deadlines.allowed(0, tiles) == FIRST_SECONDS + slack


@given(st.lists(SECONDS, min_size=1, max_size=100), st.integers(1, 64))
def test_a_batch_may_take_five_times_the_mean_and_the_slack(durations, tiles):
    deadlines = Deadlines(slack=2.0)
    for seconds in durations:
        deadlines.ended(0, tiles, seconds)
    usual = deadlines.usual(0, tiles)
    assert min(durations) * 0.999 <= usual <= max(durations) * 1.001
    assert deadlines.allowed(0, tiles) == TIMES * usual + 2.0
    assert deadlines.usual(0, 2 * tiles) == pytest.approx(2 * usual)
    assert deadlines.usual(0, 1) == usual, (
        "a smaller batch is not expected sooner: most of a call does not shrink"
    )


def test_a_device_that_slows_down_is_learned():
    deadlines = Deadlines(slack=0.0)
    for seconds in [1.0] * 100 + [3.0] * 200:
        deadlines.ended(0, 1, seconds)
    assert deadlines.usual(0, 1) == pytest.approx(3.0, rel=0.01)


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "input/output error"), MissingCells("not there yet")]
)
def test_a_store_that_comes_back_is_only_noted(error):
    failures = [error, error]
    troubles = []

    def action():
        if failures:
            raise failures.pop()
        return "read"

    assert retry_store(action, 60.0, troubles.append) == "read"
    assert len(troubles) == 2
    assert str(error) in troubles[0]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_not_waited_for(number):
    tries = []

    def action():
        tries.append(1)
        raise OSError(number, os.strerror(number))

    with pytest.raises(OSError) as raised:
        retry_store(action, 60.0, pytest.fail)
    assert disk_full(raised.value)
    assert len(tries) == 1


def test_patience_ends():
    began = time.monotonic()
    with pytest.raises(FileNotFoundError):
        retry_store(lambda: os.stat("/nowhere/at/all"), 0.5, lambda _: None)
    assert time.monotonic() - began < 60


@pytest.fixture
def listening():
    """Return a function that makes a Stop listen; the handlers are put back."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def listen(seconds):
        stop = Stop(seconds)
        stop.listen()
        return stop

    yield listen
    for number, handler in before.items():
        signal.signal(number, handler)


def asked(stop, number, then):
    """Send a signal while batches run; what follows is `then`."""
    with stop.draining():
        os.kill(os.getpid(), number)
        assert stop.requested
        then()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_the_first_signal_asks_and_the_second_ends(listening, number):
    with pytest.raises(KeyboardInterrupt):
        asked(listening(300.0), number, lambda: os.kill(os.getpid(), signal.SIGTERM))


def test_draining_has_an_end(listening):
    with pytest.raises(KeyboardInterrupt):
        asked(listening(0.2), signal.SIGTERM, lambda: time.sleep(100))


def test_what_has_drained_in_time_is_not_interrupted(listening):
    asked(listening(0.5), signal.SIGTERM, lambda: None)
    time.sleep(1.0)


@pytest.mark.parametrize("seconds", [0.0, 300.0])
def test_a_signal_where_nothing_can_drain_ends_at_once(listening, seconds):
    stop = listening(seconds)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    if not seconds:
        with pytest.raises(KeyboardInterrupt), stop.draining():
            os.kill(os.getpid(), signal.SIGINT)
