"""How far clean estimates go outside of black and white: as far as what was measured."""

import torch

from kernels.operators.elementary import AveragePool
from kernels.sampling.constraints import Measurement, Problem, Reach, select


def test_an_estimate_ends_at_black_and_white_where_nothing_was_measured_beyond():
    x0 = torch.linspace(-3, 3, 2 * 16).reshape(2, 1, 4, 4)
    y = torch.full((2, 1, 2, 2), float("nan"))
    y[:, 0, 0, 0] = 0.7
    expected = x0.clamp(-1, 1)
    assert torch.equal(Problem().within(x0), expected)
    assert torch.equal(Problem(reach=Reach.of(y)).within(x0), expected)


def test_it_follows_what_was_measured_tile_by_tile():
    x0 = torch.tensor([-9.0, 0.5, 9.0]).reshape(1, 1, 1, 3).repeat(2, 1, 1, 1)
    y = torch.tensor([[0.2, 4.0], [-2.0, 0.1]]).reshape(2, 1, 1, 2)
    problem = Problem(reach=Reach.of(y))
    assert problem.within(x0).flatten(1).tolist() == [[-1.0, 0.5, 4.0], [-2.0, 0.5, 1.0]]
    assert select(problem, [1]).within(x0[1:]).flatten().tolist() == [-2.0, 0.5, 1.0]
    problem.check((2, 1, 4, 4))
    assert Problem.cat([select(problem, [i]) for i in (0, 1)]).within(x0).equal(problem.within(x0))


def test_what_lies_beyond_keeps_its_detail():
    x0 = torch.rand((1, 1, 8, 8), generator=torch.Generator().manual_seed(1)) + 2
    y = torch.full((1, 1, 2, 2), 2.5)
    measured = Measurement(AveragePool(4), y)
    flat = Problem(measurement=measured)
    assert float(flat.project(flat.within(x0)).std()) == 0
    free = Problem(measurement=measured, reach=Reach.of(y))
    assert float(free.project(free.within(x0)).std()) > 0.05
