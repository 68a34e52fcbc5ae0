"""What fixed jobs publish stays as it was published before, on every machine.

A change of these samples is a change for everybody who resumes or repeats a run. Where it is meant,
the stored bytes and samples are made anew, and the changelog says so.
"""

import hashlib
import json

import numpy as np
import pytest
import torch

from tests.orchestrator.run.published_jobs import JOBS, arguments, published, rounding, write_inputs
from tests.places import ROOT

pytestmark = pytest.mark.slow

HERE = ROOT / "tests" / "orchestrator" / "run"

# Another processor rounds otherwise. Its samples differ by at most this much,
LEVELS = {"uint8": 1, "uint16": 64, "float32": 1e-3}
# and by more than this
ROUNDING = {"uint8": 0, "uint16": 2, "float32": 1e-5}
# on at most so many of them.
DIFFERENT = 0.005


# What the second pixel rules change; the other jobs have the same bytes under both.
SECOND = {
    f"{name}@2"
    for name in (
        *("sr3-five-bands", "inpaint", "inpaint-repaint"),
        *("denoise-grey-detail", "outpaint"),
    )
}


@pytest.fixture(autouse=True)
def one_thread():
    """The number of threads decides the order of sums, hence their rounding."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def stored():
    with np.load(HERE / "published_samples.npz") as samples:
        return dict(samples)


def test_every_job_has_stored_bytes_and_samples(stored):
    hashes = json.loads((HERE / "published_bytes.json").read_text())
    assert all(set(known) == set(JOBS) | SECOND for known in hashes.values())
    assert set(stored) == set(JOBS) | SECOND


@pytest.mark.parametrize("key", [*JOBS, *sorted(SECOND)])
def test_a_fixed_job_publishes_what_it_always_did(key, inputs, stored, cli, tmp_path):
    name, _, rules = key.partition("@")
    out = tmp_path / "out.zarr"
    ended = cli("restore", *arguments(name, inputs, out, rules or 1))
    assert ended.code == 0, ended.err
    samples = published(out)

    known = json.loads((HERE / "published_bytes.json").read_text()).get(rounding())
    if known is not None:
        assert hashlib.sha256(samples.tobytes()).hexdigest() == known[key]

    thinned = samples[:, ::3, ::3]
    assert (thinned.shape, thinned.dtype) == (stored[key].shape, stored[key].dtype)
    distance = np.abs(thinned.astype(np.float64) - stored[key].astype(np.float64))
    assert distance.max() <= LEVELS[samples.dtype.name]
    assert (distance > ROUNDING[samples.dtype.name]).mean() <= DIFFERENT
