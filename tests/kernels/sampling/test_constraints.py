import pytest
import torch

from kernels.operators.compose import Compose
from kernels.operators.elementary import AveragePool, Grey, Mask, MaskedPool
from kernels.sampling.constraints import Known, Measurement, Problem, ddnm_plus, guide


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def full_problem(batch=3, seed=0):
    known = torch.zeros(batch, 1, 8, 8, dtype=torch.bool)
    known[..., :4] = True
    mask = randn(batch, 1, 8, 8, seed=seed) > 0
    operator = Compose(MaskedPool(2, mask), Grey())
    return Problem(
        guide=guide(randn(batch, 3, 4, 4, seed=seed + 1), 2),
        measurement=Measurement(
            operator, operator.A(randn(batch, 3, 8, 8, seed=seed + 2)), sigma_y=0.1
        ),
        known=Known(known, randn(batch, 3, 8, 8, seed=seed + 3)),
    )


def tensors(problem):
    m = problem.measurement
    return [problem.guide.y, m.y, m.operator.outer.mask, problem.known.mask, problem.known.value]


def test_constraints_come_in_the_order_guide_measurement_known():
    problem = full_problem()
    assert problem.constraints == (problem.guide, problem.measurement, problem.known)
    assert Problem(known=problem.known).constraints == (problem.known,)


def test_the_last_projection_holds_and_the_measurement_corrects_the_guide():
    x0 = randn(1, 3, 8, 8)
    y = randn(1, 3, 2, 2, seed=1)
    result = Problem(
        guide=guide(randn(1, 3, 4, 4, seed=2), 2), measurement=Measurement(AveragePool(4), y)
    ).project(x0)
    assert (AveragePool(4).A(result) - y).abs().max() < 1e-6


def test_consistent_constraints_on_aligned_cells_all_hold():
    truth = randn(2, 3, 8, 8)
    x0 = randn(2, 3, 8, 8, seed=1)
    pool = AveragePool(4)
    half = AveragePool(2)
    known = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    known[..., 4:] = True
    problem = Problem(
        guide(half.A(truth), 2), Measurement(pool, pool.A(truth)), Known(known, truth)
    )
    result = problem.project(x0)
    assert (half.A(result) - half.A(truth)).abs().max() < 1e-6
    assert (pool.A(result) - pool.A(truth)).abs().max() < 1e-6
    assert torch.equal(result[..., 4:], truth[..., 4:])


def test_unknown_pixels_of_an_overlap_may_hold_anything():
    known = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    x0 = randn(1, 3, 4, 4)
    assert torch.equal(Known(known, torch.full((1, 3, 4, 4), torch.nan)).project(x0), x0)


def test_selected_tiles_joined_again_are_the_same_problem():
    problem = full_problem()
    parts = [problem.select([i]) for i in (2, 0, 1)]
    again = Problem.cat(parts).select([1, 2, 0])
    for a, b in zip(tensors(problem), tensors(again), strict=True):
        assert torch.equal(a, b)
    assert again.measurement.sigma_y == 0.1


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            Problem(measurement=Measurement(AveragePool(2), randn(1, 3, 4, 4))),
            "4 and another value",
        ),
        (
            Problem(measurement=Measurement(AveragePool(4), randn(1, 3, 2, 2), 0.1)),
            "0.0 and another value",
        ),
        (
            Problem(measurement=Measurement(Mask(torch.ones(1, 1, 8, 8)), randn(1, 3, 8, 8))),
            "AveragePool, Mask",
        ),
        (Problem(), "Measurement, NoneType"),
    ],
)
def test_tiles_that_differ_in_more_than_their_data_cannot_share_a_batch(other, message):
    problem = Problem(measurement=Measurement(AveragePool(4), randn(1, 3, 2, 2)))
    with pytest.raises(ValueError, match=message):
        Problem.cat([problem, other])


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (
            Problem(measurement=Measurement(AveragePool(3), randn(1, 3, 2, 2))),
            "tile 8 x 8 is not a multiple of 3",
        ),
        (
            Problem(measurement=Measurement(AveragePool(4), randn(1, 3, 4, 4))),
            r"shape \(1, 3, 4, 4\)",
        ),
        (Problem(guide=guide(randn(2, 3, 4, 4), 2)), "not of batch 1"),
        (Problem(known=Known(torch.ones(1, 1, 8, 8), randn(1, 3, 8, 8))), "give a bool mask"),
    ],
)
def test_problems_that_do_not_fit_their_tiles_are_refused(problem, message):
    with pytest.raises(ValueError, match=message):
        problem.check((1, 3, 8, 8))


def test_negative_noise_is_refused():
    with pytest.raises(ValueError, match="sigma_y -1"):
        Measurement(AveragePool(2), randn(1, 3, 4, 4), -1)


@pytest.mark.parametrize("noise_scale", [1.0, 0.5, 0.0])
@pytest.mark.parametrize("eta", [0.0, 0.85, 1.0])
@pytest.mark.parametrize("s", [1.0, 0.25])
def test_ddnm_plus_spends_exactly_the_noise_budget_in_the_range_space(eta, s, noise_scale):
    alpha = torch.tensor(0.7)
    tau = torch.linspace(0.01, 1.0, 50)
    eta = torch.tensor(eta)
    lam, fresh = ddnm_plus(alpha, tau, eta, 0.2, s, noise_scale=noise_scale)
    spent = (alpha * lam * 0.2 / s) ** 2 + (noise_scale * fresh) ** 2
    # Where the correction is whole, less fresh noise only leaves part of the budget unspent.
    expected = torch.where(lam < 1, tau**2, (alpha * 0.2 / s) ** 2 + (noise_scale * fresh) ** 2)
    assert torch.allclose(spent, expected, rtol=1e-5)
    assert (spent <= tau**2 * (1 + 1e-5)).all()
    assert ((lam > 0) | (noise_scale * eta == 1)).all()
    assert (lam <= 1).all()


def test_the_last_step_leaves_a_noisy_measurement_unenforced():
    zero = torch.tensor(0.0)
    lam, fresh = ddnm_plus(torch.tensor(1.0), zero, zero, 0.2, 0.25)
    assert (float(lam), float(fresh)) == (0.0, 0.0)


def test_ddnm_plus_weights_of_the_method_document():
    # sigma_y 0.2, 100 steps of the linear schedule, scalar form, t = 0..4.
    from kernels.schedule import Schedule, linear_alpha_bar, respaced_timesteps

    schedule = Schedule.from_timesteps(linear_alpha_bar(), respaced_timesteps(1000, 100))
    tau = torch.from_numpy(schedule.posterior_variance[:5]).sqrt()
    lam, _ = ddnm_plus(torch.from_numpy(schedule.c1[:5]), tau, torch.zeros(5), 0.2, 1.0)
    assert torch.allclose(
        lam, torch.tensor([0, 0.051, 0.29, 0.565, 0.885], dtype=lam.dtype), atol=6e-4
    )
