"""The networks of the papers' programs, as functions of weights by the originals' names.

Written from the papers and the programs' descriptions: a forward pass draws each weight when it first asks for it, so
that the names and shapes of a checkpoint come from here alone. The tests compare converted networks with these, and the
dry run (`smoke.py`) makes checkpoints with them.
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F


class Weights(dict):
    """Weights by the original's names, drawn when they are asked for; ``norm`` weights are about one."""

    def __init__(self, seed=0):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def get(self, name, *shape, offset=0.0):
        if name not in self:
            fan = math.prod(shape[1:]) if len(shape) > 1 else 10
            self[name] = offset + torch.randn(shape, generator=self.generator) / fan**0.5
        assert self[name].shape == shape
        return self[name]

    def conv(self, name, x, out, size=3, **options):
        options = {"padding": size // 2} | options
        weight, bias = self.get(f"{name}.weight", out, x.shape[1], size, size), self.get(f"{name}.bias", out)
        return F.conv2d(x, weight, bias, **options)

    def linear(self, name, x, out):
        return F.linear(x, self.get(f"{name}.weight", out, x.shape[-1]), self.get(f"{name}.bias", out))

    def norm(self, name, x, groups, eps):
        channels = x.shape[1]
        weight, bias = self.get(f"{name}.weight", channels, offset=1.0), self.get(f"{name}.bias", channels)
        return F.group_norm(x, groups, weight, bias, eps)


def attend(q, k, v, heads=1):
    """Attention of pixels, written out: (B, C, H, W) each."""
    b, c, h, w = q.shape
    q, k, v = (one.reshape(b, heads, c // heads, h * w) for one in (q, k, v))
    scores = torch.einsum("bhci,bhcj->bhij", q, k) / math.sqrt(c // heads)
    return torch.einsum("bhij,bhcj->bhci", scores.softmax(-1), v).reshape(b, c, h, w)


def angles(t, n, last):
    """t times n frequencies from 1 down to 1e-4, which the last one (``last`` = n − 1) or one more (n) would have."""
    return t[:, None] * torch.tensor([1e4 ** (-i / last) for i in range(n)])


# --- the references ------------------------------------------------------------------------------------------------


def ddim(w, x, t, wide=32, multiples=(1, 2, 2), blocks=2, attention=(1,)):
    """DDPM's network as DDIM's program names it (DDPM, App. B)."""
    time = torch.cat([(a := angles(t, wide // 2, wide // 2 - 1)).sin(), a.cos()], 1)
    time = F.silu(w.linear("temb.dense.1", F.silu(w.linear("temb.dense.0", time, 4 * wide)), 4 * wide))

    def block(name, x, out):
        h = w.conv(f"{name}.conv1", F.silu(w.norm(f"{name}.norm1", x, 32, 1e-6)), out)
        h = h + w.linear(f"{name}.temb_proj", time, out)[..., None, None]
        h = w.conv(f"{name}.conv2", F.silu(w.norm(f"{name}.norm2", h, 32, 1e-6)), out)
        return (x if x.shape[1] == out else w.conv(f"{name}.nin_shortcut", x, out, 1)) + h

    def attention_block(name, x):
        h = w.norm(f"{name}.norm", x, 32, 1e-6)
        q, k, v = (w.conv(f"{name}.{part}", h, x.shape[1], 1) for part in "qkv")
        return x + w.conv(f"{name}.proj_out", attend(q, k, v), x.shape[1], 1)

    skips = [w.conv("conv_in", x, wide)]
    for i, multiple in enumerate(multiples):
        for j in range(blocks):
            h = block(f"down.{i}.block.{j}", skips[-1], wide * multiple)
            skips.append(attention_block(f"down.{i}.attn.{j}", h) if i in attention else h)
        if i < len(multiples) - 1:
            padded = F.pad(skips[-1], (0, 1, 0, 1))
            skips.append(w.conv(f"down.{i}.downsample.conv", padded, padded.shape[1], stride=2, padding=0))
    h = block("mid.block_1", skips[-1], wide * multiples[-1])
    h = block("mid.block_2", attention_block("mid.attn_1", h), wide * multiples[-1])
    for i, multiple in reversed(list(enumerate(multiples))):
        for j in range(blocks + 1):
            h = block(f"up.{i}.block.{j}", torch.cat([h, skips.pop()], 1), wide * multiple)
            h = attention_block(f"up.{i}.attn.{j}", h) if i in attention else h
        if i:
            h = w.conv(f"up.{i}.upsample.conv", h.repeat_interleave(2, 2).repeat_interleave(2, 3), h.shape[1])
    return w.conv("conv_out", F.silu(w.norm("norm_out", h, 32, 1e-6)), x.shape[1])


def low_pass(x, before, after, gain=1.0):
    """Filter with (1, 3, 3, 1)/8 along both axes, with so many zeros before and after."""
    x = F.pad(x, (before, after, before, after))
    taps = [1 / 8, 3 / 8, 3 / 8, 1 / 8]
    for axis in (2, 3):
        length = x.shape[axis] - 3
        x = sum(tap * x.narrow(axis, i, length) for i, tap in enumerate(taps))
    return gain * x


def smaller(x, filtered):
    if filtered:
        return low_pass(x, 1, 1)[..., ::2, ::2]
    return sum(x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)) / 4


def larger(x, filtered):
    if not filtered:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    spread = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    spread[..., ::2, ::2] = x
    return low_pass(spread, 2, 1, gain=4.0)


def score_sde(w, x, t, wide=16, multiples=(1, 2), blocks=2, attention=(1,), ncsnpp=False):
    """DDPM++, or NCSN++ with residual input pyramid, as a flat list of modules (score SDE, App. H)."""
    number = iter(range(1000))

    def name():
        return f"all_modules.{next(number)}"

    def norm(name, x):
        return w.norm(name, x, min(x.shape[1] // 4, 32), 1e-6)

    if ncsnpp:
        phases = 2 * math.pi * t.log()[:, None] * w.get(f"{name()}.W", wide)
    else:
        phases = angles(t, wide // 2, wide // 2 - 1)
    time = w.linear(name(), torch.cat([phases.sin(), phases.cos()], 1), 4 * wide)
    time = F.silu(w.linear(name(), F.silu(time), 4 * wide))

    def block(x, out, change=None):
        own = name()
        h = F.silu(norm(f"{own}.GroupNorm_0", x))
        if change:
            h, x = change(h, ncsnpp), change(x, ncsnpp)
        h = w.conv(f"{own}.Conv_0", h, out) + w.linear(f"{own}.Dense_0", time, out)[..., None, None]
        h = w.conv(f"{own}.Conv_1", F.silu(norm(f"{own}.GroupNorm_1", h)), out)
        return ((w.conv(f"{own}.Conv_2", x, out, 1) if change or x.shape[1] != out else x) + h) / 2**0.5

    def attention_block(x):
        own, wide = name(), x.shape[1]

        def dense(i, x):
            weight, bias = w.get(f"{own}.NIN_{i}.W", wide, wide), w.get(f"{own}.NIN_{i}.b", wide)
            return torch.einsum("bchw,cd->bdhw", x, weight) + bias[:, None, None]

        h = norm(f"{own}.GroupNorm_0", x)
        return (x + dense(3, attend(*(dense(i, h) for i in range(3))))) / 2**0.5

    image, skips = x, [w.conv(name(), x, wide)]
    for i, multiple in enumerate(multiples):
        for _ in range(blocks):
            h = block(skips[-1], wide * multiple)
            skips.append(attention_block(h) if i in attention else h)
        if i < len(multiples) - 1:
            h = block(skips[-1], wide * multiple, smaller)
            if ncsnpp:
                image = w.conv(f"{name()}.Conv2d_0", low_pass(image, 2, 2), h.shape[1], stride=2, padding=0)
                h = image = (image + h) / 2**0.5
            skips.append(h)
    h = block(attention_block(block(skips[-1], skips[-1].shape[1])), skips[-1].shape[1])
    for i, multiple in reversed(list(enumerate(multiples))):
        for _ in range(blocks + 1):
            h = block(torch.cat([h, skips.pop()], 1), wide * multiple)
        h = attention_block(h) if i in attention else h
        h = block(h, h.shape[1], larger) if i else h
    h = F.silu(norm(name(), h))
    return w.conv(name(), h, x.shape[1])


def edm(w, x, t, wide=16, multiples=(2, 2), blocks=1, attention=(8,)):
    """EDM's DDPM++ without its preconditioning, as its program names it; modules are named by their resolution."""
    w.get("model.map_augment.weight", wide, 9)  # not used where images are drawn
    phases = angles(t, wide // 2, wide // 2 - 1)
    time = F.silu(w.linear("model.map_layer0", torch.cat([phases.sin(), phases.cos()], 1), 4 * wide))
    time = F.silu(w.linear("model.map_layer1", time, 4 * wide))

    def norm(name, x):
        return w.norm(name, x, min(x.shape[1] // 4, 32), 1e-6)

    def block(name, x, out, change=None, attends=False):
        name = f"model.{name}"
        h = F.silu(norm(f"{name}.norm0", x))
        if change:
            h, x = change(h, False), change(x, False)
            w[f"{name}.conv0.resample_filter"] = torch.full((1, 1, 2, 2), 0.25)
        h = w.conv(f"{name}.conv0", h, out) + w.linear(f"{name}.affine", time, out)[..., None, None]
        h = w.conv(f"{name}.conv1", F.silu(norm(f"{name}.norm1", h)), out)
        h = ((w.conv(f"{name}.skip", x, out, 1) if change or x.shape[1] != out else x) + h) / 2**0.5
        if attends:
            qkv = w.conv(f"{name}.qkv", norm(f"{name}.norm2", h), 3 * out, 1).unflatten(1, (out, 3)).unbind(2)
            h = (h + w.conv(f"{name}.proj", attend(*qkv), out, 1)) / 2**0.5
        return h

    size = x.shape[-1]
    skips = [w.conv(f"model.enc.{size}x{size}_conv", x, wide)]
    for i, multiple in enumerate(multiples):
        if i:
            size //= 2
            skips.append(block(f"enc.{size}x{size}_down", skips[-1], skips[-1].shape[1], smaller))
        for j in range(blocks):
            name = f"enc.{size}x{size}_block{j}"
            skips.append(block(name, skips[-1], wide * multiple, attends=size in attention))
    h = block(f"dec.{size}x{size}_in0", skips[-1], skips[-1].shape[1], attends=True)
    h = block(f"dec.{size}x{size}_in1", h, h.shape[1])
    for i, multiple in reversed(list(enumerate(multiples))):
        if i < len(multiples) - 1:
            size *= 2
            h = block(f"dec.{size}x{size}_up", h, h.shape[1], larger)
        for j in range(blocks + 1):
            name, attends = f"dec.{size}x{size}_block{j}", j == blocks and size in attention
            h = block(name, torch.cat([h, skips.pop()], 1), wide * multiple, attends=attends)
    h = F.silu(norm(f"model.dec.{size}x{size}_aux_norm", h))
    return w.conv(f"model.dec.{size}x{size}_aux_conv", h, x.shape[1])


def guided(w, x, t, labels, wide=64, multiples=(1, 2), blocks=2, attention=(1,), classes=5, in_blocks=True, film=True):
    """Guided-diffusion's network with heads of 64 channels in the new order (Dhariwal & Nichol 2021, §3)."""
    phases = angles(t, wide // 2, wide // 2)
    time = F.silu(w.linear("time_embed.0", torch.cat([phases.cos(), phases.sin()], 1), 4 * wide))
    time = w.linear("time_embed.2", time, 4 * wide)
    if classes:
        time = time + w.get("label_emb.weight", classes, 4 * wide)[labels]
    time = F.silu(time)

    def block(name, x, out, change=None):
        h = F.silu(w.norm(f"{name}.in_layers.0", x, 32, 1e-5))
        if change:
            h, x = change(h, False), change(x, False)
        h = w.conv(f"{name}.in_layers.2", h, out)
        shift = w.linear(f"{name}.emb_layers.1", time, 2 * out if film else out)[..., None, None]
        if film:
            h = w.norm(f"{name}.out_layers.0", h, 32, 1e-5) * (1 + shift[:, :out]) + shift[:, out:]
        else:
            h = w.norm(f"{name}.out_layers.0", h + shift, 32, 1e-5)
        h = w.conv(f"{name}.out_layers.3", F.silu(h), out)
        return (x if x.shape[1] == out else w.conv(f"{name}.skip_connection", x, out, 1)) + h

    def attention_block(name, x):
        wide, flat = x.shape[1], w.norm(f"{name}.norm", x, 32, 1e-5).flatten(2)
        weight, bias = w.get(f"{name}.qkv.weight", 3 * wide, wide, 1), w.get(f"{name}.qkv.bias", 3 * wide)
        q, k, v = F.conv1d(flat, weight, bias).reshape(len(x), 3, wide, *x.shape[2:]).unbind(1)
        weight, bias = w.get(f"{name}.proj_out.weight", wide, wide, 1), w.get(f"{name}.proj_out.bias", wide)
        return x + F.conv1d(attend(q, k, v, wide // 64).flatten(2), weight, bias).reshape(x.shape)

    def shrink(name, x):
        if in_blocks:
            return block(name, x, x.shape[1], smaller)
        return w.conv(f"{name}.op", x, x.shape[1], stride=2)

    def grow(name, x):
        return block(name, x, x.shape[1], larger) if in_blocks else w.conv(f"{name}.conv", larger(x, False), x.shape[1])

    number, skips = iter(range(1, 100)), [w.conv("input_blocks.0.0", x, wide)]
    for i, multiple in enumerate(multiples):
        for _ in range(blocks):
            own = f"input_blocks.{next(number)}"
            h = block(f"{own}.0", skips[-1], wide * multiple)
            skips.append(attention_block(f"{own}.1", h) if i in attention else h)
        if i < len(multiples) - 1:
            skips.append(shrink(f"input_blocks.{next(number)}.0", skips[-1]))
    h = block("middle_block.0", skips[-1], skips[-1].shape[1])
    h = block("middle_block.2", attention_block("middle_block.1", h), h.shape[1])
    number = iter(range(100))
    for i, multiple in reversed(list(enumerate(multiples))):
        for j in range(blocks + 1):
            own = f"output_blocks.{next(number)}"
            h = block(f"{own}.0", torch.cat([h, skips.pop()], 1), wide * multiple)
            h = attention_block(f"{own}.1", h) if i in attention else h
            if i and j == blocks:
                h = grow(f"{own}.{2 if i in attention else 1}", h)
    return w.conv("out.2", F.silu(w.norm("out.0", h, 32, 1e-5)), 2 * x.shape[1])
