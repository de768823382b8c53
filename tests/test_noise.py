"""Noise: Philox's published vectors, and a pure function of (seed, draw, sample, element)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from fewstep.errors import UserError
from fewstep.noise import normal, philox, uniform_bits

# Random123's known-answer file, philox4x32 with 10 rounds: counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_vectors(counter, key, result):
    words = philox(tuple(torch.tensor([c]) for c in counter), key)
    assert tuple(int(w) for w in words) == result


@pytest.mark.parametrize("shape", [(3,), (1, 8, 8), (3, 5, 7)])
def test_a_sample_does_not_depend_on_its_batch(shape):
    whole = normal(7, 3, range(50), shape)
    for part in ([0], [17], [49, 3, 3], range(10, 31)):
        assert torch.equal(normal(7, 3, part, shape), whole[list(part)])


def test_an_element_does_not_depend_on_how_many_follow():
    assert torch.equal(uniform_bits(1, 2, torch.tensor([5]), 11), uniform_bits(1, 2, torch.tensor([5]), 64)[:, :11])


def test_seeds_draws_and_large_sample_numbers_differ():
    one = normal(0, 0, [0], (64,))
    for other in (
        normal(1, 0, [0], (64,)),
        normal(0, 1, [0], (64,)),
        normal(0, 0, [1], (64,)),
        normal(0, 0, [2**32], (64,)),
        normal(2**32, 0, [0], (64,)),
    ):
        assert not torch.any(one == other)


def test_it_is_standard_normal():
    z = normal(0, 0, range(1000), (101,), dtype=torch.float64)
    # Kolmogorov–Smirnov at 1e-4; the seed is fixed, so this passes or fails once and for all.
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-4
    assert abs(float(z.mean())) < 4 / np.sqrt(z.numel()) and abs(float(z.var()) - 1) < 4 * np.sqrt(2 / z.numel())
    # Neighbouring elements, samples and draws are uncorrelated.
    for a, b in ((z[:, 1:], z[:, :-1]), (z[1:], z[:-1]), (z, normal(0, 1, range(1000), (101,), dtype=torch.float64))):
        assert abs(float((a * b).mean())) < 4 / np.sqrt(a.numel())


def test_dtype_is_a_rounding_of_one_number():
    double = normal(0, 0, range(4), (9,), dtype=torch.float64)
    assert torch.equal(normal(0, 0, range(4), (9,), dtype=torch.float32), double.float())


@pytest.mark.parametrize(("seed", "draw"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**32)])
def test_out_of_range(seed, draw):
    with pytest.raises(UserError, match="out of range"):
        normal(seed, draw, [0], (2,))
