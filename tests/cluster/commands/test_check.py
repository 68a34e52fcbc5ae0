"""`check` prints what every reading of a network leaves of the noise, and exits with 2 where the
stated one does not denoise.
"""

import json
from textwrap import dedent

import numpy as np
import pytest

from tests.kernels.denoisers.small_networks import forget_modules
from tests.priors import small_guided

NEGATED = """
    from kernels.denoisers.builtin import load_builtin

    class Net:
        tile = 32

        def __init__(self):
            self.prior = load_builtin()

        def __call__(self, x_t, t):
            return -self.prior(x_t, t)
"""


@pytest.fixture
def image(write_picture, tmp_path):
    picture = small_guided.draw(1, seed=9, side=48)[0].numpy()
    return write_picture(tmp_path / "in.png", np.rint((picture + 1) * 127.5).astype("uint8"))


def test_a_network_that_denoises_ends_with_0(cli, image):
    ended = cli("check", "analytic:", image)
    assert ended.code == 0
    lines = ended.out.splitlines()
    assert lines[1].startswith("as stated")
    assert "denoises this image" in lines[-1]
    document = json.loads(cli("check", "analytic:", image, "--json").out)
    assert document["denoises"] is True
    assert len(document["readings"][0]["levels"]) == len(document["sigmas"]) == 5


def test_a_network_that_does_not_ends_with_2_and_what_to_do(cli, image, tmp_path, monkeypatch):
    (tmp_path / "negated.py").write_text(dedent(NEGATED))
    forget_modules(monkeypatch, tmp_path, "negated")
    ended = cli("check", "module:negated:Net", image)
    assert ended.code == 2
    assert ended.out.splitlines()[2].startswith("answers with minus the noise")
    assert len(ended.err.splitlines()) == 1
    assert "returns the noise, where the network answers with minus the noise" in ended.err


def test_a_missing_image_is_one_line(cli, tmp_path):
    ended = cli("check", "builtin", tmp_path / "absent.png")
    assert ended.code == 2
    assert "absent.png" in ended.complaint
