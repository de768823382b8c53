"""Classifiers: those whose last hidden layer is the space that the metrics measure in, and one of noisy images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["FeatureNet", "NoisyClassifier", "ResNet"]


class FeatureNet(nn.Module):
    """A convolutional classifier of small images.

    Args:
        shape: (channels, height, width) of an image, height and width divisible by 4.
        classes: number of classes.
        width: channels of the first convolution; the second has twice as many.
        features: length of the feature vector.
        dropout: probability with which a feature is dropped in training.
    """

    def __init__(
        self, shape: Sequence[int], classes: int, width: int = 32, features: int = 64, dropout: float = 0.2
    ) -> None:
        super().__init__()
        self.config = {
            "shape": list(shape),
            "classes": classes,
            "width": width,
            "features": features,
            "dropout": dropout,
        }
        cells = (shape[1] // 4) * (shape[2] // 4)
        self.body = nn.Sequential(
            nn.Conv2d(shape[0], width, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.SiLU(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(2 * width * cells, features),
            nn.SiLU(),
        )
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(features, classes))

    def features(self, images: Tensor) -> Tensor:
        """The feature vectors (B, features) of images (B, C, H, W) in [-1, 1]."""
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        """The class logits (B, classes) of images (B, C, H, W) in [-1, 1]."""
        return self.head(self.features(images))


class ResNet(nn.Module):
    """A residual classifier of nine layers for small photographs: eight convolutions and a linear head.

    The image is halved three times; the second and the last resolution have a residual pair of convolutions. The
    feature vector is the mean of the last map over the image.

    Args:
        shape: (channels, height, width) of an image, height and width divisible by 8.
        classes: number of classes.
        widths: channels at the four resolutions; the last is the length of the feature vector.
    """

    def __init__(self, shape: Sequence[int], classes: int, widths: Sequence[int] = (64, 128, 256, 384)) -> None:
        super().__init__()
        self.config = {"shape": list(shape), "classes": classes, "widths": list(widths)}
        first, second, third, last = widths
        self.body = nn.Sequential(
            _block(shape[0], first),
            _block(first, second, nn.MaxPool2d(2)),
            _Residual(second),
            _block(second, third, nn.MaxPool2d(2)),
            _block(third, last, nn.MaxPool2d(2)),
            _Residual(last),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(last, classes)

    def features(self, images: Tensor) -> Tensor:
        """The feature vectors (B, widths[-1]) of images (B, C, H, W) in [-1, 1]."""
        return self.body(images)

    def forward(self, images: Tensor) -> Tensor:
        """The class logits (B, classes) of images (B, C, H, W) in [-1, 1]."""
        return self.head(self.features(images))


def _block(inputs: int, outputs: int, *pool: nn.Module) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, *pool, nn.BatchNorm2d(outputs), nn.ReLU())


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_block(width, width), _block(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class NoisyClassifier(nn.Module):
    """A convolutional classifier of noisy images, for guidance: ``model(x, t)``, logits (B, classes).

    A sinusoidal embedding of the time scales and shifts the maps after each convolution.

    Args:
        shape: (channels, height, width) of an image, height and width divisible by 4.
        classes: number of classes.
        width: channels of the first convolution; the others have twice as many.
        time_scale: factor from the process's t to the unit of the embedding (about 0..1000).
    """

    def __init__(self, shape: Sequence[int], classes: int, width: int = 32, time_scale: float = 1.0) -> None:
        super().__init__()
        self.config = {"shape": list(shape), "classes": classes, "width": width, "time_scale": time_scale}
        self.time_scale = time_scale
        self.frequencies = 32
        self.embed = nn.Sequential(nn.Linear(2 * self.frequencies, 128), nn.SiLU())
        widths = [shape[0], width, 2 * width, 2 * width, 2 * width]
        pairs = list(itertools.pairwise(widths))
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairs)
        self.norms = nn.ModuleList(nn.GroupNorm(8, b) for _, b in pairs)
        self.films = nn.ModuleList(nn.Linear(128, 2 * b) for _, b in pairs)
        self.pool = nn.AvgPool2d(2)
        self.head = nn.Linear(2 * width * (shape[1] // 4) * (shape[2] // 4), classes)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The logits of states ``x`` (B, C, H, W) at the times ``t`` (B,)."""
        rates = torch.logspace(0, -4, self.frequencies, device=x.device, dtype=x.dtype)
        angles = t.to(x)[:, None] * self.time_scale * rates
        level = self.embed(torch.cat([angles.sin(), angles.cos()], 1))
        for i, (convolution, norm, film) in enumerate(zip(self.convolutions, self.norms, self.films, strict=True)):
            scale, shift = film(level)[:, :, None, None].chunk(2, 1)
            x = nn.functional.silu(norm(convolution(x)) * (1 + scale) + shift)
            if i in (1, 3):
                x = self.pool(x)
        return self.head(x.flatten(1))
