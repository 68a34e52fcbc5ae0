"""What every operator promises, in float64, over one list: a new operator adds a row and inherits
them all.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.operators.compose import Compose, compose, operator_name
from kernels.operators.elementary import AveragePool, Grey, Identity, Mask, MaskedPool
from kernels.operators.smooth_pool import SmoothPool

H = 24
W = 36
BATCH = 2
EXACT = 1e-12

# Each builds its operator for a window of one picture-sized mask, (BATCH, 1, H, W).
OPERATORS: dict[str, Callable] = {
    "identity": lambda m: Identity(),
    "pool 1": lambda m: AveragePool(1),
    "pool 3": lambda m: AveragePool(3),
    "pool 4": lambda m: AveragePool(4),
    "grey": lambda m: Grey(),
    "mask": lambda m: Mask(m),
    "mask of floats": lambda m: Mask(m.double()),
    "mask per channel": lambda m: Mask(torch.cat([m, ~m, m], dim=1)),
    "masked pool": lambda m: MaskedPool(4, m),
    "pool after grey": lambda m: Compose(AveragePool(4), Grey()),
    "grey after pool": lambda m: Compose(Grey(), AveragePool(3)),
    "pool after pool": lambda m: Compose(AveragePool(2), AveragePool(2)),
    "mask after grey": lambda m: Compose(Mask(m), Grey()),
    "mask after pool": lambda m: Compose(Mask(m[..., ::4, ::4]), AveragePool(4)),
    "old photo": lambda m: Compose(MaskedPool(4, m), Grey()),
    "old photo at half size": lambda m: compose(
        MaskedPool(2, m[..., ::2, ::2]), AveragePool(2), Grey()
    ),
}

every_operator = pytest.mark.parametrize("build", OPERATORS.values(), ids=OPERATORS.keys())


def picture(seed=0, channels=3):
    return torch.randn(
        BATCH, channels, H, W, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )


def mask(seed=0):
    kept = torch.rand(BATCH, 1, H, W, generator=torch.Generator().manual_seed(seed)) < 0.6
    kept[..., :12, :12] = False  # cells without any known pixel
    kept[..., 12:, 24:] = True
    return kept


def close(a, b):
    return a.shape == b.shape and float((a - b).abs().max()) < EXACT


@every_operator
def test_pinv_is_a_generalised_inverse(build):
    op = build(mask())
    x = picture()
    assert close(op.A(op.pinv(op.A(x))), op.A(x))


@every_operator
def test_range_projector_is_idempotent_and_self_adjoint(build):
    op = build(mask())
    x = picture()
    z = picture(1)
    projected = op.range_project(x)
    assert close(op.range_project(projected), projected)
    assert abs(float((projected * z).sum() - (x * op.range_project(z)).sum())) < 1e-9


@every_operator
def test_projection_satisfies_the_measurement(build):
    op = build(mask())
    x = picture()
    y = op.A(picture(1))
    assert close(op.A(op.project(x, y)), y)
    assert close(op.project(x, op.A(x)), x)


@every_operator
def test_projection_does_not_depend_on_what_is_not_measured(build):
    op = build(mask())
    x = picture()
    y = op.A(picture(1))
    measured = op.A(op.pinv(torch.ones_like(y))) > 0.5
    assert torch.equal(op.project(x, torch.where(measured, y, torch.nan)), op.project(x, y))


@every_operator
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_aligned_crop_commutes(build, data):
    op = build(mask())
    x = picture()
    known = mask()
    k = op.alignment
    assert 12 % k == 0
    y0 = data.draw(st.integers(0, H // 12 - 1)) * 12
    x0 = data.draw(st.integers(0, W // 12 - 1)) * 12
    size = data.draw(st.sampled_from([12, 24] if max(y0, x0) == 0 else [12]))
    window = (..., slice(y0, y0 + size), slice(x0, x0 + size))
    s = op.scale
    cells = (..., slice(y0 // s, (y0 + size) // s), slice(x0 // s, (x0 + size) // s))
    cropped = build(known[window])
    assert close(cropped.A(x[window]), op.A(x)[cells])
    assert close(cropped.pinv(op.A(x)[cells]), op.pinv(op.A(x))[window])


@every_operator
def test_singular_values_are_those_of_the_dense_matrix(build):
    h = 12
    w = 12
    c = 3
    op = build(mask()[:1, :, 6:18, 6:18])
    basis = torch.eye(c * h * w, dtype=torch.float64).reshape(-1, c, h, w)
    dense = torch.stack([op.A(e[None]).flatten() for e in basis], dim=1)
    pinv = torch.linalg.pinv(dense, rtol=1e-10)
    s = op.singular_values(basis[:1])
    s = (
        torch.full((c * h * w,), s, dtype=torch.float64)
        if isinstance(s, float)
        else s.expand(1, c, h, w).flatten()
    )
    # A^T A = diag(s^2) on the range: the singular value belongs to the pixel.
    assert close(dense.T @ dense, s[:, None] ** 2 * (pinv @ dense))
    for y in torch.randn(
        3, dense.shape[0], dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    ):
        image = op.pinv(y.reshape(op.A(basis[:1]).shape)).flatten()
        assert close(image, pinv @ y)


def test_mask_projection_overwrites_bit_for_bit():
    x = picture().float()
    y = picture(1).float()
    known = mask()
    result = Mask(known).project(x, y)
    keep = known.expand_as(x)
    assert torch.equal(result[keep], y[keep])
    assert torch.equal(result[~keep], x[~keep])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda m: Compose(AveragePool(4), Mask(m)),
            r"AveragePool\(4\) after Mask breaks A A\+ A = A.*MaskedPool",
        ),
        (lambda m: compose(AveragePool(4), Grey(), Mask(m)), r"after Mask breaks"),
        (
            lambda m: Compose(AveragePool(2), MaskedPool(2, m)),
            r"AveragePool\(2\) after MaskedPool\(2\) breaks",
        ),
        (lambda m: Compose(Grey(), Compose(Mask(m), Grey())), r"Grey after Mask after Grey breaks"),
        (lambda m: AveragePool(0), "scale 0"),
        (lambda m: MaskedPool(0, m), "scale 0"),
        (lambda m: compose(), "at least one"),
        (lambda m: Grey(4).A(picture()), "got 3 channels"),
    ],
)
def test_invalid_operators_are_refused_by_name(build, message):
    with pytest.raises(ValueError, match=message):
        build(mask())


def test_pooling_after_a_mask_would_break_the_law():
    x = picture()
    m = mask()

    def naive_A(v):
        return AveragePool(4).A(Mask(m).A(v))

    def naive_pinv(y):
        return Mask(m).pinv(AveragePool(4).pinv(y))

    assert (naive_A(naive_pinv(naive_A(x))) - naive_A(x)).abs().max() > 0.05


def test_composition_multiplies_scales_and_aligns_both_parts():
    op = compose(AveragePool(2), Grey(), AveragePool(3))
    assert (op.scale, op.alignment, operator_name(op)) == (
        6,
        6,
        "AveragePool(2) after Grey after AveragePool(3)",
    )
    assert close(op.A(picture()), Compose(Grey(), AveragePool(6)).A(picture()))


# The smooth inverse of pooling is a generalised inverse, but not the orthogonal one of the list
# above.
@pytest.mark.parametrize(
    "op",
    [
        SmoothPool(4),
        compose(Grey(), SmoothPool(3)),
        compose(Mask(mask()[..., ::4, ::4]), SmoothPool(4)),
    ],
    ids=operator_name,
)
def test_smooth_pooling_satisfies_the_measurement_all_the_same(op):
    x = picture()
    y = op.A(picture(1))
    assert close(op.A(op.pinv(op.A(x))), op.A(x))
    assert close(op.A(op.project(x, y)), y)
    assert close(op.range_project(op.range_project(x)), op.range_project(x))


def test_smooth_pooling_does_not_depend_on_the_batch():
    x = picture().float()
    y = AveragePool(4).A(picture(1).float())
    op = SmoothPool(4)
    alone = torch.cat([op.project(x[i : i + 1], y[i : i + 1]) for i in range(BATCH)])
    assert torch.equal(op.project(x, y), alone)
