import pytest
import torch

from kernels.denoiser_info import DenoiserInfo
from kernels.denoisers.builtin import load_builtin
from kernels.denoisers.symmetry import MEMBERS, SymmetricDenoiser, symmetric
from kernels.presets import EVALUATIONS


class Slanted:
    """A network that is not symmetric at all: each pixel's eps is its value times a ramp over the
    tile.
    """

    info = DenoiserInfo(name="slanted")

    def __init__(self):
        self.calls = 0

    def __call__(self, x_t, t):
        self.calls += 1
        side = x_t.shape[-1]
        ramp = torch.arange(side * side, dtype=torch.float32).reshape(side, side) / side**2
        return x_t * ramp

    def to(self, device):
        return self


def picture(seed=0, side=8, batch=1):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("ensemble", ["2", "4", "8"])
def test_an_average_over_a_group_of_symmetries_commutes_with_them(ensemble):
    x = picture()
    t = torch.tensor([3])
    served = SymmetricDenoiser(Slanted(), ensemble)
    turned = x.flip(-1).flip(-2)
    assert torch.allclose(served(turned, t), served(x, t).flip(-1).flip(-2), atol=1e-6)
    assert not torch.allclose(Slanted()(turned, t), Slanted()(x, t).flip(-1).flip(-2), atol=1e-2)


def test_the_cycle_takes_the_symmetry_that_the_timestep_names_and_eight_steps_average_to_all():
    x = picture()
    network = Slanted()
    served = SymmetricDenoiser(network, "cycle")
    steps = [served(x, torch.tensor([t])) for t in range(40, 48)]
    assert network.calls == 8
    assert len({step.numpy().tobytes() for step in steps}) == 8
    mean = torch.stack(steps).mean(0)
    assert torch.allclose(mean, SymmetricDenoiser(Slanted(), "8")(x, torch.tensor([0])), atol=1e-6)


@pytest.mark.parametrize("ensemble", sorted(EVALUATIONS))
def test_a_step_costs_as_many_evaluations_as_are_counted(ensemble):
    network = Slanted()
    symmetric(network, ensemble)(picture(), torch.tensor([5]))
    assert network.calls == EVALUATIONS[ensemble]
    assert set(MEMBERS) | {"cycle"} == set(EVALUATIONS)


@pytest.mark.parametrize("ensemble", ["2", "cycle"])
def test_a_tile_does_not_depend_on_the_timesteps_of_its_batch(ensemble):
    x = picture(1, batch=3)
    served = SymmetricDenoiser(Slanted(), ensemble)
    together = served(x, torch.tensor([1, 6, 7]))
    for i, t in enumerate((1, 6, 7)):
        assert torch.equal(together[i : i + 1], served(x[i : i + 1], torch.tensor([t])))


def test_one_evaluation_is_the_network_itself_and_other_tiles_than_squares_are_refused():
    network = Slanted()
    assert symmetric(network, "1") is network
    with pytest.raises(ValueError, match="square"):
        SymmetricDenoiser(network, "cycle")(torch.zeros(1, 3, 8, 16), torch.tensor([0]))


def test_gradients_pass_through_the_symmetries():
    served = SymmetricDenoiser(load_builtin(), "cycle")
    x = picture(2, 16).requires_grad_()
    (gradient,) = torch.autograd.grad(served(x, torch.tensor([205])).sum(), x)
    assert gradient.abs().sum() > 0
