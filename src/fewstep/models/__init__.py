"""Networks: the ε-model protocol, its adapters, the U-Net, the feature network and their checkpoints."""

from __future__ import annotations

from .checkpoints import load, manifest, save
from .features import FeatureNet, ResNet
from .protocol import EpsModel, clipped, coefficients, from_score, from_v, from_x0, thresholded
from .unet import UNet

__all__ = [
    "EpsModel",
    "FeatureNet",
    "ResNet",
    "UNet",
    "clipped",
    "coefficients",
    "from_score",
    "from_v",
    "from_x0",
    "load",
    "manifest",
    "save",
    "thresholded",
]
