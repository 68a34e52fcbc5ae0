"""Blur, decimation, compressed sensing: laws of the operators, and measurements that hold beside
pinned pixels.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import correlate2d

from kernels.operators import stencil as blur
from kernels.operators.convolution import Convolution, valid_mask
from kernels.operators.elementary import AveragePool
from kernels.operators.hadamard import BlockHadamard, drawn, hadamard
from kernels.operators.operator_checks import check_operator
from kernels.operators.separable import Separable
from kernels.operators.tolerance_projection import least_squares
from kernels.sampling.constraints import (
    Known,
    Measurement,
    Problem,
    cat,
    ddnm_plus,
    range_space,
    select,
)
from tests.places import GOLDEN

GOLDEN = GOLDEN / "operators"
SIDE = 32
EXACT = 1e-9
INSIDE = [
    (0, 0, SIDE, SIDE),
    (-5, -40, 28, 20),
]  # a tile in the middle, one at the picture's lower right corner
ODD = np.array([[0.0, 0.05, 0.1], [0.05, 0.6, 0.05], [0.1, 0.05, 0.0]])


def separable(stencil, threshold=0.0):
    return Separable.build(stencil, SIDE, INSIDE, threshold)


def general(threshold=1e-6, steps=60):
    stencil = blur.from_weights(ODD, normalise=False)
    return Convolution(
        stencil, torch.stack([valid_mask(stencil, SIDE, box) for box in INSIDE]), threshold, steps
    )


OPERATORS = {
    "uniform 3": lambda: separable(blur.uniform(3)),
    "gaussian": lambda: separable(blur.gaussian(0.7)),
    "anisotropic": lambda: separable(blur.anisotropic(0.8, 0.5)),
    "bicubic 2": lambda: separable(blur.bicubic(2)),
    "bicubic 4": lambda: separable(blur.bicubic(4)),
    "any kernel": general,
    "compressed sensing": lambda: drawn(8, 0.3, 1),
    "all coefficients": lambda: drawn(16, 1.0, 2),
}
every_operator = pytest.mark.parametrize("build", OPERATORS.values(), ids=OPERATORS.keys())


def picture(seed=0, side=SIDE, batch=2, channels=3):
    return torch.randn(
        batch,
        channels,
        side,
        side,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(seed),
    )


@every_operator
def test_pinv_is_a_generalised_inverse_and_its_projector_is_orthogonal(build):
    op = build()
    x = picture()
    z = picture(1)
    y = op.A(x)
    kept = op.range_project(x)
    assert float((op.A(op.pinv(y)) - y).abs().max()) < EXACT
    assert float((op.range_project(kept) - kept).abs().max()) < EXACT
    assert abs(float((kept * z).sum() - (x * op.range_project(z)).sum())) < 1e-7
    assert float((op.A(op.project(z, y)) - y).abs().max()) < EXACT


@every_operator
def test_a_tile_alone_is_the_same_bytes_as_among_others(build):
    op = build()
    x = picture().float()
    y = op.A(x)
    for i in range(2):
        one = select(op, [i])
        assert torch.equal(one.A(x[i : i + 1]), y[i : i + 1])
        assert torch.equal(one.pinv(y[i : i + 1]), op.pinv(y)[i : i + 1])
    joined = cat([select(op, [0]), select(op, [1])])
    assert torch.equal(joined.A(x), y)


@pytest.mark.parametrize("threshold", [0.03, 0.3])
def test_truncated_blur_keeps_the_laws_but_for_what_it_truncates(threshold):
    op = separable(blur.uniform(9), threshold)
    x = picture()
    y = op.A(x)
    kept = op.range_project(x)
    assert float((op.range_project(kept) - kept).abs().max()) < EXACT
    assert float((op.pinv(op.A(op.pinv(y))) - op.pinv(y)).abs().max()) < EXACT
    left = op.A(op.pinv(y)) - y
    assert float(left.norm() / x.norm()) <= threshold


@given(seed=st.integers(0, 10**6), tall=st.sampled_from([1, 3, 5]), wide=st.sampled_from([1, 3, 7]))
@settings(max_examples=15, deadline=None)
def test_stencils_measure_the_valid_convolution(seed, tall, wide):
    rng = np.random.default_rng(seed)
    weights = rng.random((tall, wide)) + 0.01
    weights /= weights.sum()
    x = rng.standard_normal((2, 14, 17))
    found = blur.from_weights(weights, normalise=False).measure(x)
    assert (
        np.abs(found - np.stack([correlate2d(band, weights, "valid") for band in x])).max() < 1e-12
    )


@pytest.mark.parametrize("name", ["uniform 3", "bicubic 2", "bicubic 4", "any kernel"])
def test_only_measurements_wholly_inside_constrain_and_they_agree_with_the_whole_picture(name):
    op = OPERATORS[name]()
    stencil = op.stencil if isinstance(op, Convolution) else None
    stencil = (
        stencil
        or {
            "uniform 3": blur.uniform(3),
            "bicubic 2": blur.bicubic(2),
            "bicubic 4": blur.bicubic(4),
        }[name]
    )
    x = picture(batch=1)
    found = select(op, [0]).A(x)[0].numpy()
    whole = stencil.measure(x[0].numpy())
    (y0, y1), (x0, x1) = (stencil.inside(axis, 0, SIDE) for axis in (0, 1))
    assert np.abs(found[:, y0:y1, x0:x1] - whole).max() < 1e-12
    if stencil.scale == 1:
        found[:, y0:y1, x0:x1] = 0
        assert not found.any()


def test_rank_one_kernels_are_recognised_and_others_are_not():
    bell = np.outer([1, 2, 1], [1, 4, 6, 4, 1]) / 64
    found = blur.from_weights(bell, normalise=False)
    assert found.separable
    assert np.allclose(found.weights, bell)
    assert not blur.from_weights(ODD, normalise=False).separable


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: blur.uniform(4), "odd"),
        (lambda: blur.gaussian(0.0), "above 0"),
        (
            lambda: blur.from_weights(np.ones((3, 3)), normalise=False),
            "sums to 9 instead of 1; divide",
        ),
        (lambda: blur.from_weights(np.ones((2, 3)) / 6, normalise=False), "odd sides"),
        (lambda: drawn(32, 0.0, 0), "outside"),
        (lambda: drawn(32, 1.5, 0), "outside"),
        (lambda: drawn(12, 0.5, 0), "power of two"),
    ],
)
def test_impossible_operators_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def pinned_case(stencil, threshold, tolerance, top):
    """Return a tile with 12 pinned columns that fit its measurement, and the residual before and
    after `finish`.
    """
    level = 2 / top
    side = 48
    cut = 12
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:side, :side]
    truth = torch.from_numpy(np.stack([np.sin(x / 5 + c) * np.cos(y / 4) for c in range(3)]) * 0.6)[
        None
    ]
    op = Separable.build(stencil, side, [(0, 0, side, side)], threshold)
    measured = torch.round(op.A(truth) / level) * level
    start = truth + 0.05 * torch.from_numpy(rng.standard_normal(truth.shape))
    start[..., :cut] = truth[..., :cut]
    start = torch.where(torch.arange(side) < cut, start, op.project(start, measured))
    unreached = torch.ones((1, side), dtype=torch.bool)
    cols = unreached.clone()
    cols[:, :cut] = False
    known = Known(~cols[:, None, None].expand(1, 1, side, side), start)
    problem = Problem(
        measurement=Measurement(op, measured, tolerance=tolerance * level), known=known
    )
    done = problem.finish(start, unreached, cols)
    sees_free = (op.cols.matrix[:, :, cut:] != 0).any(dim=2) & op.cols.exact
    valid = (op.rows.exact[:, None, :, None] & sees_free[:, None, None, :]).expand_as(measured)
    before, after = (((op.A(p) - measured)[valid].abs().max() / level) for p in (start, done))
    return start[..., :cut], done[..., :cut], float(before), float(after)


@pytest.mark.parametrize(
    ("stencil", "threshold", "top"),
    [
        (blur.uniform(9), 0.03, 255),
        (blur.uniform(9), 0.001, 65535),
        (blur.gaussian(10, 5), 0.001, 65535),
        (blur.bicubic(2), 1e-5, 255),
        (blur.bicubic(2), 1e-5, 65535),
    ],
)
def test_measurements_hold_beside_pinned_pixels_which_stay_bit_for_bit(stencil, threshold, top):
    pinned, kept, before, after = pinned_case(stencil, threshold, 0.5, top)
    assert torch.equal(pinned, kept)
    assert before > 1
    assert after <= 0.53


def test_what_cannot_hold_is_least_squares_however_many_steps_are_allowed():
    """Rounding takes over once the gradients have converged: 1000 steps too many must not undo the
    first fifty.
    """
    rng = np.random.default_rng(5)
    u, v = (torch.from_numpy(np.linalg.qr(rng.standard_normal((40, 40)))[0]) for _ in range(2))
    matrix = u[:, :24] @ torch.diag(torch.logspace(0, -2.5, 24, dtype=torch.float64)) @ v[:24]
    wanted = torch.from_numpy(rng.standard_normal((1, 1, 40, 1)))
    found = least_squares(lambda z: matrix @ z, lambda w: matrix.mT @ w, wanted, 1e-9, 3000)
    best = torch.linalg.pinv(matrix, rtol=1e-9) @ wanted
    assert torch.allclose(found, best, rtol=1e-4, atol=1e-4 * float(best.abs().max()))
    more = least_squares(
        lambda z: matrix @ z, lambda w: matrix.mT @ w, wanted - matrix @ found, 1e-9, 3000
    )
    assert float(more.abs().max()) <= 1e-4 * float(best.abs().max()), "nothing was left to be done"


def test_projecting_pins_before_and_after_a_measurement_that_overlaps_them():
    op = separable(blur.uniform(3), 0.01)
    x = picture().float()
    value = picture(1).float()
    mask = torch.zeros(2, 1, SIDE, SIDE, dtype=torch.bool)
    mask[..., :8] = True
    problem = Problem(
        measurement=Measurement(op, op.A(value), tolerance=1e-3), known=Known(mask, value)
    )
    found = problem.project(x)
    assert torch.equal(found[..., :8], value[..., :8])


def test_spectral_weights_of_a_blur_are_the_matrix_formula():
    op = Separable.build(blur.gaussian(1.0, 5), 12, [(0, 0, 12, 12)], 0.05)
    x = picture(batch=1, side=12, channels=1)
    columns = torch.stack(
        [op.A(e.reshape(1, 1, 12, 12)).flatten() for e in torch.eye(144, dtype=torch.float64)],
        dim=1,
    )
    _, s, vt = torch.linalg.svd(columns)
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    alpha = 0.7 * one
    tau = 0.3 * one
    eta = 0.0 * one
    sigma = 0.2
    found = range_space(Measurement(op, op.A(x), sigma), False, alpha, tau, eta, x)
    kept = s > 0.05
    lam, fresh = (w.flatten() for w in ddnm_plus(alpha, tau, eta, sigma, s[None, None, None]))
    for weight, values in ((found.lam, lam), (found.fresh - tau, fresh - 0.3)):
        wanted = vt.T @ (torch.where(kept, values, 0.0) * (vt @ x.flatten()))
        assert float(((weight * op.range_project(x)).flatten() - wanted).abs().max()) < 1e-9


def test_hadamard_matrix_is_orthonormal_and_the_seed_decides_what_is_kept():
    h = hadamard(16)
    assert np.allclose(h @ h.T, np.eye(16))
    assert drawn(8, 0.5, 1) == drawn(8, 0.5, 1) != drawn(8, 0.5, 2)
    assert len(drawn(32, 0.25, 0).kept) == 256


def test_whole_channel_walsh_hadamard_golden():
    golden = np.load(GOLDEN / "cs_walshhadamard_0.25.npz")
    x = torch.from_numpy(golden["x"]).double()
    op = BlockHadamard(16, tuple(int(i) for i in golden["perm"][:64]))
    y = op.A(x)
    by_coefficient = (
        y.reshape(2, 3, 64).permute(0, 2, 1).flatten(1)
    )  # the golden has the channels innermost
    assert np.abs(by_coefficient.numpy() - golden["y"]).max() < 1e-5
    assert np.abs(op.pinv(y).numpy() - golden["pinv"]).max() < 1e-5
    assert np.allclose(golden["singulars"], op.singular_values(x))


@pytest.mark.parametrize("row", range(4))
def test_noise_weights_of_compressed_sensing_golden(row):
    golden = np.load(GOLDEN / "cs_walshhadamard_0.25.npz")
    a, sigma_y, tau, eta = (
        torch.full((1, 1, 1, 1), float(v), dtype=torch.float64) for v in golden["cfg"][row]
    )
    op = BlockHadamard(16, tuple(int(i) for i in golden["perm"][:64]))
    v, z, e = (torch.from_numpy(golden[k]).double() for k in ("v", "z", "e"))
    lam, fresh = ddnm_plus(a, tau, eta, float(sigma_y), 1.0)
    v, z, e = (t.reshape(2, 3, 16, 16) for t in (v, z, e))
    found = v - op.range_project(v) + lam * op.range_project(v)
    assert np.abs(found.numpy() - golden[f"Lambda_proper_{row}"]).max() < 1e-4
    null = tau * eta * z + tau * (1 - eta**2).sqrt() * e
    noise = fresh * op.range_project(z) + null - op.range_project(null)
    assert np.abs(noise.numpy() - golden[f"Lambda_noise_proper_{row}"]).max() < 1e-4


class Wrong:
    """Average pooling with faults, chosen by name."""

    scale = alignment = 4

    def __init__(self, fault):
        self.fault = fault

    def A(self, x):
        y = AveragePool(4).A(x)
        return y * x.mean() if self.fault == "crop" else y + 1 if self.fault == "linear" else y

    def pinv(self, y):
        return AveragePool(4).pinv(y) * (0.5 if self.fault == "inverse" else 1)

    def singular_values(self, x):
        return 0.5 if self.fault == "singular" else 0.25


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ("inverse", r"breaks A A\+ A = A: relative error 0.5"),
        ("linear", "breaks linearity"),
        ("singular", "declared singular values"),
        ("none", None),
    ],
)
def test_laws_are_checked_in_numbers_and_named(fault, law):
    if law is None:
        check_operator(Wrong(fault), "mine", 3, noisy=True)
        return
    with pytest.raises(ValueError, match=law):
        check_operator(Wrong(fault), "mine", 3, noisy=True)
