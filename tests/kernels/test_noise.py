import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.noise import KeyedNoise, box_muller, philox4x32

CPU = torch.device("cpu")
ONES = 0xFFFFFFFF


def words(counter, key):
    c0, *rest = counter
    return [int(w) for w in philox4x32(torch.tensor([c0]), *rest, key=key)]


def test_philox_gives_the_known_answers_of_random123():
    assert words((0, 0, 0, 0), (0, 0)) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert words((ONES,) * 4, (ONES,) * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]
    pi = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344)
    assert words(pi, (0xA4093822, 0x299F31D0)) == [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]


def test_a_few_deviates_are_pinned():
    z = KeyedNoise(7).draw([(1, 2, 3)], [4], (1, 1, 5), CPU).flatten()
    # Computed apart, in integers and float64 of plain Python.
    expected = torch.tensor([0.44599965, -0.28827894, -0.43189812, -1.02839625, -0.84088749])
    assert torch.allclose(z, expected, rtol=0, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 2**64 - 1),
    st.lists(st.tuples(*[st.integers(0, 200)] * 3), min_size=2, max_size=5),
)
def test_noise_ignores_batch_composition(seed, keys):
    source = KeyedNoise(seed)
    shape = (2, 3, 5)
    index = list(range(len(keys)))
    batch = source.draw(keys, index, shape, CPU)
    alone = torch.cat(
        [source.draw([key], [i], shape, CPU) for key, i in zip(keys, index, strict=True)]
    )
    assert torch.equal(batch, alone)


def test_every_part_of_the_key_changes_the_noise():
    def draw(seed=5, key=(1, 2, 3), index=4):
        return KeyedNoise(seed).draw([key], [index], (1, 4, 4), CPU)

    others = [
        draw(seed=6),
        draw(seed=5 + 2**32),
        draw(key=(0, 2, 3)),
        draw(key=(1, 3, 2)),
        draw(index=5),
    ]
    for other in others:
        assert not torch.any(other == draw())


def test_noise_is_standard_normal_and_uncorrelated():
    z = KeyedNoise(0).draw([(0, 0, 0), (0, 0, 1)], [0, 0], (4, 128, 128), CPU).flatten(1)
    n = z.shape[1]
    for moment, value, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert (z.pow(moment).mean(1) - value).abs().max() < 5 * (variance / n) ** 0.5
    for a, b in ((z[0], z[1]), (z[0, 1:], z[0, :-1]), (z[0, 2:], z[0, :-2])):
        assert abs(float((a * b).mean())) < 5 * n**-0.5


def test_box_muller_is_finite_at_both_ends():
    ends = torch.tensor([0, ONES])
    for z in box_muller(ends, ends):
        assert torch.isfinite(z).all()
        assert z.abs().max() < 6.8


@pytest.mark.parametrize(
    ("seed", "key", "index"),
    [
        (-1, (0, 0, 0), 0),
        (2**64, (0, 0, 0), 0),
        (0, (256, 0, 0), 0),
        (0, (0, -1, 0), 0),
        (0, (0, 0, 0), 2**24),
    ],
)
def test_keys_out_of_range_are_refused(seed, key, index):
    with pytest.raises(ValueError, match=r"64 bits|noise key"):
        KeyedNoise(seed).draw([key], [index], (1, 2, 2), CPU)


def test_groups_of_bands_draw_independent_noise_and_the_first_draws_as_ever():
    noise = KeyedNoise(7)
    shape = (3, 64, 64)
    draws = noise.draw([(1, 2, 3), (1, 2, 3, 0), (1, 2, 3, 1), (1, 2, 3, 2)], [4] * 4, shape, CPU)
    assert torch.equal(draws[0], draws[1])
    flat = draws[1:].reshape(3, -1).numpy()
    correlations = np.corrcoef(flat)[np.triu_indices(3, 1)]
    assert np.abs(correlations).max() < 4 / math.sqrt(flat.shape[1])
    with pytest.raises(ValueError, match="group"):
        noise.draw([(1, 2, 3, 1 << 32)], [0], shape, CPU)
