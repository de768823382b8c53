r"""A latent text-to-image network (Rombach et al. 2022): an ε-model of latents, and the way from them to images.

Its parts, the U-Net, the text encoder and the autoencoder, come from one repository of the hub, as diffusers'
``StableDiffusionPipeline`` writes it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import shards
from ..errors import UserError
from .declared import Record
from .hub import first_line
from .pins import Pin
from .zoo import PaperModel, compare

__all__ = ["TextToImage", "Texts", "from_files"]

@dataclass
class Texts:
    """A text-to-image network with some texts, as a network with classes: label i is the i-th text.

    Attributes:
        model: the network.
        encoded: (``classes`` + 1, L, W), the texts and then the empty one.
        classes: how many texts there are; as a label, it means no text.
    """

    model: TextToImage
    encoded: Tensor
    classes: int

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """ε of latents (B, C, H, W) at times (B,), given the labels (B,)."""
        return self.model.epsilon(x, t, encoder_hidden_states=self.encoded[labels])


class TextToImage(PaperModel):
    r"""A network with its text encoder and its autoencoder: an ε-model of latents, of no text when it is called itself.

    Latents are the mean of the autoencoder's code, times its ``scaling_factor``. :meth:`texts` gives the network with
    texts, for :func:`fewstep.tasks.guidance.classifier_free`.

    Args:
        pipeline: diffusers' ``StableDiffusionPipeline`` with all parts.
        record: what is declared of it.
        provenance: the SHA-256 of its weights, its hub and revision.

    Raises:
        UserError: if the pipeline's scheduler has another schedule than the record.
    """

    PIECE = 4
    """Images that pass the autoencoder at once: 512² pixels take gigabytes there."""

    def __init__(self, pipeline: Any, record: Record, provenance: dict[str, str] | None = None) -> None:
        super().__init__(pipeline.unet, record, provenance)
        declared = self.process.alpha(torch.arange(len(pipeline.scheduler.alphas_cumprod)).double().numpy()) ** 2
        # Theirs is a float32 product of up to 1000 factors.
        if abs(pipeline.scheduler.alphas_cumprod.double().numpy() / declared - 1).max() > 1e-3:
            raise UserError(f"{record.title}: its scheduler has another schedule than {record.schedule.name}")
        self.text_encoder, self.autoencoder, self._pipeline = pipeline.text_encoder, pipeline.vae, pipeline

    def texts(self, given: Sequence[str]) -> Texts:
        """The network with these texts, cut off where they are too long for the text encoder."""
        device = next(self.parameters()).device
        encoded, _ = self._pipeline.encode_prompt([*given, ""], device, 1, False)
        return Texts(self, encoded, len(given))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """ε of latents of no text; there are no labels."""
        return self.texts([])(x, t, torch.zeros(len(x), dtype=torch.long, device=x.device))

    def encode(self, images: Tensor) -> Tensor:
        """Latents (N, C, H/8, W/8) of images (N, 3, H, W) in [−1, 1]."""
        device, scale = next(self.parameters()).device, self.autoencoder.config.scaling_factor

        def work(first: int, last: int) -> Tensor:
            return scale * self.autoencoder.encode(images[first:last].to(device)).latent_dist.mean

        return torch.cat(list(shards.in_batches(work, 0, len(images), self.PIECE)))

    def decode(self, latents: Tensor) -> Tensor:
        """Images of latents."""
        pieces = (latents / self.autoencoder.config.scaling_factor).split(self.PIECE)
        return torch.cat([self.autoencoder.decode(piece, return_dict=False)[0] for piece in pieces])


def from_files(name: str, record: Record, pin: Pin, files: dict[str, Path]) -> TextToImage:
    """The network of a record with its other parts, of a folder as diffusers' ``StableDiffusionPipeline`` writes it.

    Raises:
        UserError: if the folder is none, or does not fit the record.
    """
    from diffusers import StableDiffusionPipeline

    folder = files["model_index.json"].parent
    config = files["unet/config.json"]
    try:
        compare(name, record, json.loads(config.read_text("utf-8")), config)
        pipeline = StableDiffusionPipeline.from_pretrained(
            folder,
            local_files_only=True,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    except UserError:
        raise
    except Exception as error:  # as of a network alone
        raise UserError(f"{folder} is no pipeline of diffusers: {first_line(error)}; delete the folder") from None
    return TextToImage(pipeline, record, pin.provenance(record))
