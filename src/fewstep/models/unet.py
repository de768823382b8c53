"""The denoising network: diffusers' ``UNet2DModel`` behind the ε-model protocol."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["UNet"]


class UNet(nn.Module):
    """A U-Net, ``model(x, t) -> eps``; one with classes also ``model(x, t, labels)``.

    A plain residual block stack per resolution; self-attention between the two halves, where the image is smallest
    and attention costs least, and at the resolutions that ask for it.

    Args:
        shape: (channels, height, width) of a sample.
        channels: width of each resolution level, finest first; the image is halved between levels.
        layers: residual blocks per level.
        attention_head_dim: width of an attention head; 0 leaves attention out.
        norm_num_groups: groups of each group norm; divides every width.
        time_scale: factor from the process's t to the unit of the sinusoidal embedding (about 0..1000).
        attention: numbers of the levels, 0 the finest, whose blocks attend too.
        classes: how many classes it knows; the label ``classes``, or none, means *no class*.
    """

    def __init__(
        self,
        shape: Sequence[int],
        channels: Sequence[int],
        layers: int = 1,
        attention_head_dim: int = 8,
        norm_num_groups: int = 8,
        time_scale: float = 1.0,
        attention: Sequence[int] = (),
        classes: int = 0,
    ) -> None:
        from diffusers import UNet2DModel  # here, not above: it takes seconds to import

        super().__init__()
        self.config = {
            "shape": list(shape),
            "channels": list(channels),
            "layers": layers,
            "attention_head_dim": attention_head_dim,
            "norm_num_groups": norm_num_groups,
            "time_scale": time_scale,
            "attention": list(attention),
            "classes": classes,
        }
        attends = [attention_head_dim > 0 and level in attention for level in range(len(channels))]
        self.time_scale = time_scale
        self.classes = classes
        self.net = UNet2DModel(
            sample_size=tuple(shape[1:]),
            in_channels=shape[0],
            out_channels=shape[0],
            layers_per_block=layers,
            block_out_channels=tuple(channels),
            down_block_types=tuple("AttnDownBlock2D" if yes else "DownBlock2D" for yes in attends),
            up_block_types=tuple("AttnUpBlock2D" if yes else "UpBlock2D" for yes in reversed(attends)),
            norm_num_groups=norm_num_groups,
            add_attention=attention_head_dim > 0,
            attention_head_dim=attention_head_dim or None,
            num_class_embeds=classes + 1 if classes else None,
        )

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """ε in the dtype of ``x``; the network itself computes in the dtype of its weights."""
        if self.classes and labels is None:
            labels = torch.full((len(x),), self.classes, device=x.device)
        weight = self.net.conv_in.weight  # type: ignore[attr-defined]
        times = t.to(weight.dtype) * self.time_scale
        eps = self.net(x.to(weight.dtype), times, class_labels=labels, return_dict=False)[0]  # type: ignore[operator]
        return eps.to(x.dtype)
