"""The networks of score SDE, DDPM++ and NCSN++, where they differ from what diffusers' ``UNet2DModel`` can be.

Residual blocks that halve or double the image themselves, sums divided by √2, one attention per level on the way up,
and for NCSN++ a pyramid of the input, low-pass filters at each change of resolution and a Fourier embedding of log σ
(score SDE, App. H). EDM's DDPM++ is the same network.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, interpolate, scaled_dot_product_attention, silu

__all__ = ["Attention", "Pyramid", "Residual", "ScoreUNet"]

Resample = Literal["down", "up"]
EPS = 1e-6


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(channels // 4, 32), channels, eps=EPS)


@functools.cache
def _low_pass(dtype: torch.dtype, device: torch.device) -> Tensor:
    """The low-pass filter of NCSN++, which sums to one."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=dtype, device=device) / 8
    return torch.outer(taps, taps)


def _filtered(x: Tensor, stride: int, padding: int) -> Tensor:
    kernel = _low_pass(x.dtype, x.device).expand(x.shape[1], 1, 4, 4)
    return conv2d(x, kernel, stride=stride, padding=padding, groups=x.shape[1])


def _resampled(x: Tensor, how: Resample | None, filtered: bool) -> Tensor:
    """Half or twice the width and height: by mean and copy, or with the low-pass filter."""
    if how is None:
        return x
    if not filtered:
        return avg_pool2d(x, 2) if how == "down" else interpolate(x, scale_factor=2.0, mode="nearest")
    if how == "down":
        return _filtered(x, stride=2, padding=1)
    kernel = 4 * _low_pass(x.dtype, x.device).expand(
        x.shape[1], 1, 4, 4
    )  # a quarter of the pixels is not zero before filtering
    return conv_transpose2d(x, kernel, stride=2, padding=1, groups=x.shape[1])


class Residual(nn.Module):
    """BigGAN's residual block: the image is resampled in both branches, between activation and convolution."""

    def __init__(self, wide_in: int, wide_out: int, time: int, resample: Resample | None, filtered: bool) -> None:
        super().__init__()
        self.resample, self.filtered = resample, filtered
        self.norm1 = _norm(wide_in)
        self.conv1 = nn.Conv2d(wide_in, wide_out, 3, padding=1)
        self.time = nn.Linear(time, wide_out)
        self.norm2 = _norm(wide_out)
        self.conv2 = nn.Conv2d(wide_out, wide_out, 3, padding=1)
        self.skip = nn.Conv2d(wide_in, wide_out, 1) if resample or wide_in != wide_out else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """``time`` is the embedding (B, E) after its activation."""
        h = _resampled(silu(self.norm1(x)), self.resample, self.filtered)
        h = self.conv1(h) + self.time(time)[:, :, None, None]
        h = self.conv2(silu(self.norm2(h)))
        return (self.skip(_resampled(x, self.resample, self.filtered)) + h) / math.sqrt(2)


class Attention(nn.Module):
    """Self-attention of all pixels with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(2).mT  # (B, HW, C)
        found = self.out(scaled_dot_product_attention(self.q(pixels), self.k(pixels), self.v(pixels)))
        return (x + found.mT.reshape(x.shape)) / math.sqrt(2)


class Pyramid(nn.Module):
    """The input's next pyramid level: low-pass filter, then a convolution with stride 2."""

    def __init__(self, wide_in: int, wide_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(wide_in, wide_out, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(_filtered(x, stride=1, padding=2))


class ScoreUNet(nn.Module):
    r"""DDPM++, or with ``pyramid`` NCSN++ with a residual input pyramid, as score SDE uses them at 32×32 pixels.

    ``model(x, t)`` for images (B, C, H, W) in [−1, 1], scaled by the process and noised, and the t (B,) of the
    embedding: a label (about 0..1000), or σ for ``fourier``, whose logarithm is embedded. The output is what the last
    convolution gives: ε for DDPM++ as score SDE trains it, −ε for its NCSN++ on the VE process, which divides by σ
    afterwards to have the score.

    Args:
        image_channels: channels of the image.
        base: width of the first convolution and of the time's sines; the embedding is four times as wide.
        channels: width of each resolution level, finest first.
        layers: residual blocks per level on the way down; one more on the way up.
        attention: numbers of the levels, 0 the finest, that attend.
        fourier: embed log σ in random Fourier features instead of t in sines.
        pyramid: NCSN++'s filters and input pyramid.
    """

    def __init__(
        self,
        image_channels: int,
        base: int,
        channels: Sequence[int],
        layers: int,
        attention: Sequence[int],
        fourier: bool = False,
        pyramid: bool = False,
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {
            "image_channels": image_channels,
            "base": base,
            "channels": list(channels),
            "layers": layers,
            "attention": list(attention),
            "fourier": fourier,
            "pyramid": pyramid,
        }
        self.layers, self.attention = layers, frozenset(attention)
        last, time = len(channels) - 1, 4 * base

        def residual(wide_in: int, wide_out: int, resample: Resample | None = None) -> Residual:
            return Residual(wide_in, wide_out, time, resample, pyramid)

        self.frequencies: Tensor
        if fourier:
            self.register_buffer("frequencies", torch.zeros(base))
        self.time_in = nn.Linear(2 * base if fourier else base, time)
        self.time_out = nn.Linear(time, time)
        self.conv_in = nn.Conv2d(image_channels, base, 3, padding=1)
        self.down, self.down_attention, self.shrink = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.pyramid = nn.ModuleList()
        width, skips = base, [base]
        for level, wide in enumerate(channels):
            for _ in range(layers):
                self.down.append(residual(width, wide))
                self.down_attention.append(Attention(wide) if level in attention else nn.Identity())
                skips.append(width := wide)
            if level < last:
                self.shrink.append(residual(width, width, "down"))
                if pyramid:
                    self.pyramid.append(Pyramid(image_channels if level == 0 else channels[level - 1], width))
                skips.append(width)
        self.middle = nn.ModuleList([residual(width, width), Attention(width), residual(width, width)])
        self.up, self.up_attention, self.grow = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        for level, wide in reversed(list(enumerate(channels))):
            for _ in range(layers + 1):
                self.up.append(residual(width + skips.pop(), wide))
                width = wide
            self.up_attention.append(Attention(width) if level in attention else nn.Identity())
            if level:
                self.grow.append(residual(width, width, "up"))
        self.norm_out = _norm(width)
        self.conv_out = nn.Conv2d(width, image_channels, 3, padding=1)

    def in_order(self) -> Iterator[nn.Module]:
        """The modules with weights in the order of the original's flat list."""
        yield from (self.time_in, self.time_out, self.conv_in)
        levels = len(self.shrink) + 1
        for level in range(levels):
            for i in range(level * self.layers, (level + 1) * self.layers):
                yield self.down[i]
                yield self.down_attention[i]
            yield from (part[level] for part in (self.shrink, self.pyramid) if level < len(part))
        yield from self.middle
        for level in range(levels):
            yield from self.up[level * (self.layers + 1) : (level + 1) * (self.layers + 1)]
            yield self.up_attention[level]
            yield from self.grow[level : level + 1]
        yield from (self.norm_out, self.conv_out)

    def _embedded(self, t: Tensor) -> Tensor:
        """Sines and cosines of the time, (B, E)."""
        if self.config["fourier"]:
            angles = 2 * math.pi * torch.log(t)[:, None] * self.frequencies
        else:
            half = self.config["base"] // 2
            angles = t[:, None] * 1e4 ** (-torch.arange(half, device=t.device) / (half - 1)).to(t.dtype)
        return torch.cat([angles.sin(), angles.cos()], dim=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """In the dtype of ``x``; the network itself computes in that of its weights."""
        given, dtype = x.dtype, self.conv_in.weight.dtype
        x = x.to(dtype)
        time = silu(self.time_out(silu(self.time_in(self._embedded(t.to(dtype))))))
        image, skips = x, [self.conv_in(x)]
        for i, (block, attend) in enumerate(zip(self.down, self.down_attention, strict=True)):
            skips.append(attend(block(skips[-1], time)))
            level, end = divmod(i + 1, self.layers)
            if end == 0 and level <= len(self.shrink):
                h = self.shrink[level - 1](skips[-1], time)
                if len(self.pyramid):
                    h = image = (self.pyramid[level - 1](image) + h) / math.sqrt(2)
                skips.append(h)
        first, attend, second = self.middle
        h = second(attend(first(skips[-1], time)), time)
        for i, block in enumerate(self.up):
            h = block(torch.cat([h, skips.pop()], dim=1), time)
            level, end = divmod(i + 1, self.layers + 1)
            if end == 0:
                h = self.up_attention[level - 1](h)
                if level <= len(self.grow):
                    h = self.grow[level - 1](h, time)
        return self.conv_out(silu(self.norm_out(h))).to(given)
