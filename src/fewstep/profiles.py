"""Profiles: on which data, with which networks and on which process something runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .errors import unknown
from .schedules import Process, linear_vp

__all__ = ["PROFILES", "Profile", "get"]


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
}
"""All profiles by name."""


def get(name: str) -> Profile:
    """The profile called ``name``; UserError with the nearest names if there is none."""
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    return PROFILES[name]
