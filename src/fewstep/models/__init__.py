"""Networks: the ε-model protocol, its adapters, the U-Net, the feature network and their checkpoints."""

from __future__ import annotations

from .checkpoints import load, manifest, save
from .features import FeatureNet, NoisyClassifier, ResNet
from .protocol import EpsModel, clipped, coefficients, from_score, from_v, from_x0, normalised, thresholded
from .unet import UNet

__all__ = [
    "EpsModel",
    "FeatureNet",
    "NoisyClassifier",
    "ResNet",
    "UNet",
    "clipped",
    "coefficients",
    "from_score",
    "from_v",
    "from_x0",
    "load",
    "manifest",
    "normalised",
    "save",
    "thresholded",
]
