r"""Counter-based noise: every normal number is a pure function of (seed, draw, sample, element).

The generator is Philox4x32-10 (Salmon et al. 2011), evaluated in integer tensor arithmetic on any device, followed
by the Box–Muller transform in float64. Nothing is drawn *in sequence*: sample 17 has the same bits alone, in a batch
of 64, or on another worker.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .errors import UserError

__all__ = ["normal", "philox", "uniform_bits"]

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32 with ten rounds (Salmon et al. 2011, §3): four 32-bit words of counter to four of noise.

    Args:
        counter: four int64 tensors of one broadcastable shape, values in [0, 2³²).
        key: two integers in [0, 2³²).

    Returns:
        Four int64 tensors with values in [0, 2³²).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The product of two 32-bit words wraps in int64; its low and high halves are right all the same.
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            ((p1 >> 32) & _MASK) ^ c1 ^ k0,
            p1 & _MASK,
            ((p0 >> 32) & _MASK) ^ c3 ^ k1,
            p0 & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def uniform_bits(seed: int, draw: int, ids: Tensor, count: int) -> Tensor:
    """``count`` 32-bit words for each sample, shape (len(ids), count), int64 in [0, 2³²)."""
    blocks = torch.arange(-(-count // 4), dtype=torch.int64, device=ids.device)
    block, sample = torch.broadcast_tensors(blocks, ids[:, None])
    low, high = sample & _MASK, (sample >> 32) & _MASK
    words = philox((block, low, high, torch.full_like(block, draw)), (seed & _MASK, (seed >> 32) & _MASK))
    return torch.stack(words, dim=-1).reshape(len(ids), -1)[:, :count]


def normal(
    seed: int,
    draw: int,
    ids: Iterable[int] | Tensor,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    r"""Standard normal noise for the samples ``ids``.

    Two words :math:`u_1, u_2` give the pair
    :math:`\sqrt{-2\log u_1}\,(\cos 2\pi u_2,\ \sin 2\pi u_2)`.

    Args:
        seed: a non-negative integer below 2⁶⁴, the same for all samples of a run.
        draw: which draw of the run: 0 is the start state, 1, 2, … are the injected noises in order.
        ids: sample numbers, non-negative.
        shape: the shape of one sample.
        dtype: of the result.
        device: of the result.

    Returns:
        A tensor of shape (len(ids), \*shape).

    Raises:
        UserError: if the seed, the draw or a sample number is negative or too large.
    """
    ids = torch.as_tensor(ids if isinstance(ids, Tensor) else list(ids), dtype=torch.int64).to(device)
    if not 0 <= seed < 2**64 or not 0 <= draw < 2**32:
        raise UserError(
            f"seed {seed} or draw {draw} is out of range: 0 <= seed < 2**64 and 0 <= draw < 2**32 are needed"
        )
    count = math.prod(shape)
    bits = uniform_bits(seed, draw, ids, 2 * -(-count // 2)).double()
    u = (bits + 0.5) * 2.0**-32
    radius, angle = torch.sqrt(-2.0 * torch.log(u[:, 0::2])), 2.0 * math.pi * u[:, 1::2]
    pairs = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)
    return pairs.reshape(len(ids), -1)[:, :count].reshape(len(ids), *shape).to(dtype)
