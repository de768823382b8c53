"""The feature network: a small classifier whose last hidden layer is the space that the metrics measure in."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["FeatureNet"]


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
