"""Profiles: on which data, with which networks and on which process something runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .errors import unknown
from .schedules import Process, linear_vp

__all__ = ["CIFAR10_UNET", "PROFILES", "Profile", "get"]

CIFAR10_UNET = {
    "shape": [3, 32, 32],
    "channels": [128, 128, 192],
    "layers": 2,
    "attention_head_dim": 64,
    "norm_num_groups": 32,
    "attention": [1],
}
"""The ε-network of the profile ``cifar10``: 12.7 million weights, attention at 16×16 pixels and in the middle."""


@dataclass(frozen=True)
class Profile:
    """What a profile's name stands for.

    Attributes:
        name: as the command line and the records spell it.
        dataset: a key of :data:`fewstep.data.DATASETS`.
        process: makes the diffusion process of the network.
        model: the checkpoint of the ε-network.
        features: the checkpoint of the network whose features the metrics use.
    """

    name: str
    dataset: str
    process: Callable[[], Process]
    model: str
    features: str


PROFILES = {
    "digits": Profile("digits", "digits", linear_vp, "digits-unet", "digits-features"),
    "cifar10": Profile("cifar10", "cifar10", linear_vp, "cifar10-unet", "cifar10-features"),
}
"""All profiles by name."""


def get(name: str) -> Profile:
    """The profile called ``name``; UserError with the nearest names if there is none."""
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    return PROFILES[name]
