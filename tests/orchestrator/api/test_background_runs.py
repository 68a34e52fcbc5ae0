"""A restoration on a thread: watched, cancelled, resumed; its surroundings stay as they were."""

import signal
import threading

import numpy as np
import pytest

import gigarestore as gr
from orchestrator.events import BatchCommitted, RunFinished, RunStarted


@pytest.fixture(scope="module")
def photo(make_picture):
    """An RGB picture (H, W, C) that takes a dozen tiles."""
    return make_picture(16, 24).transpose(1, 2, 0)


@pytest.fixture(scope="module")
def whole(photo, quick, published_files):
    """What an uninterrupted restoration publishes."""
    restored = gr.restore(photo, **quick)
    return published_files(restored.path)


def test_a_started_run_tells_its_events_and_gives_the_same_bytes(
    photo, whole, quick, published_files
):
    run = gr.start(photo, **quick)

    events = list(run.events())

    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunFinished)
    tiles = sum(len(event.keys) for event in events if isinstance(event, BatchCommitted))
    assert tiles == events[0].tiles
    assert run.wait(10)
    assert run.state == "published"
    assert published_files(run.path) == whole
    assert run.result().shape == (64, 96, 3)
    assert f'<progress value="{tiles}" max="{tiles}">' in run._repr_html_()
    assert list(run.events()) == events  # whoever asks late hears the same


def test_a_cancelled_run_keeps_what_is_committed_and_resume_makes_the_same_bytes(
    photo, whole, quick, published_files, tmp_path
):
    out = tmp_path / "out.zarr"
    run = gr.start(photo, out=out, **quick)
    for event in run.events():
        if isinstance(event, BatchCommitted):
            run.cancel()
    with pytest.raises(gr.RunCancelled, match=r"resume\('.*out.zarr'\)"):
        run.result()
    assert run.state == "cancelled"
    with pytest.raises(gr.PlanError, match=r"not finished; gigarestore.resume\("):
        gr.open(out)

    heard = []
    restored = gr.resume(out, progress=heard.append)

    (began,) = [event for event in heard if isinstance(event, RunStarted)]
    assert 0 < began.done < began.tiles
    assert published_files(out) == whole
    assert restored.axes == "yxc"  # kept with the array, in the run's folder
    assert np.array_equal(np.asarray(gr.open(out)), np.asarray(restored))


def test_restore_on_a_thread_of_the_callers_installs_no_handlers(
    photo, whole, quick, published_files
):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    seen = []

    def work():
        restored = gr.restore(photo, progress=lambda event: seen.append(handlers()), **quick)
        results.append(published_files(restored.path))

    def handlers():
        return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)

    results = []
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert results == [whole]
    assert set(seen) == {before}


def test_restore_on_the_main_thread_puts_the_handlers_back(photo, quick):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    during = []

    gr.restore(
        photo, progress=lambda event: during.append(signal.getsignal(signal.SIGINT)), **quick
    )

    assert before[0] not in during
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_an_interrupt_lets_the_tile_end_and_raises(photo, quick, tmp_path):
    def interrupt(event):
        if isinstance(event, BatchCommitted):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        gr.restore(photo, out=tmp_path / "out.zarr", progress=interrupt, **quick)

    assert gr.resume(tmp_path / "out.zarr").verify().passed


def test_a_run_leaves_the_callers_threads_of_torch_alone(photo, quick):
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gr.restore(photo, **quick)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_goes_wrong_on_the_thread_is_raised_by_result(tmp_path):
    (tmp_path / "note.txt").write_text("no image at all")

    run = gr.start(tmp_path / "note.txt", scale=2)

    assert run.wait(60)
    with pytest.raises(gr.PlanError, match="not an image that is known here"):
        run.result()
    assert run.state == "failed"


def test_a_result_that_takes_too_long_is_a_timeout(photo, quick):
    run = gr.start(photo, **quick)
    with pytest.raises(TimeoutError, match="not finished after 0 s"):
        run.result(timeout=0)
    run.cancel()
    assert run.wait(60)


def test_a_second_run_at_the_same_place_is_refused_and_leaves_the_first_alone(
    photo, whole, quick, published_files, tmp_path
):
    out = tmp_path / "out.zarr"
    first = gr.start(photo, out=out, **quick)
    assert isinstance(next(first.events()), RunStarted)

    with pytest.raises(gr.PlanError, match="unfinished run"):
        gr.restore(255 - photo, out=out, **quick)
    with pytest.raises(gr.PlanError, match=r"another run works here .* take_over=True"):
        gr.restore(255 - photo, out=out, overwrite=True, **quick)

    first.result(timeout=120)
    assert published_files(out) == whole
    assert len(list((out / ".gigarestore" / "arrays").iterdir())) == 1


@pytest.mark.ray
def test_workers_run_on_ray_from_a_thread_with_the_same_bytes(
    photo, whole, quick, published_files, local_ray
):
    run = gr.start(photo, workers=2, **quick)

    restored = run.result(timeout=120)
    assert published_files(restored.path) == whole
    assert "serial" not in restored.report().times.workers
