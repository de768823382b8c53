"""The feature networks: small classifiers whose last hidden layer is the space that the metrics measure in."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["FeatureNet", "ResNet"]


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
