"""Datasets as float32 tensors in [-1, 1], shape (N, channels, height, width), with integer labels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from . import cifar
from .errors import unknown

__all__ = ["DATASETS", "Dataset", "cifar10", "digits", "load", "split", "to_float", "to_uint8"]


class Dataset(NamedTuple):
    """Images and their labels.

    Attributes:
        images: float32, (N, C, H, W), in [-1, 1].
        labels: int64, (N,).
    """

    images: Tensor
    labels: Tensor


def digits() -> Dataset:
    """The 1,797 handwritten digits bundled with scikit-learn: 1x8x8, grey levels 0..16 scaled to ``level / 8 - 1``."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images).to(torch.float32).unsqueeze(1) / 8 - 1
    return Dataset(images, torch.from_numpy(bunch.target).to(torch.int64))


def cifar10(part: str = "train") -> Dataset:
    """CIFAR-10, 50,000 images to train on or 10,000 to test on, 3x32x32, read by :func:`fewstep.cifar.load`."""
    images, labels = cifar.load(part)
    return Dataset(to_float(images), labels)


DATASETS: dict[str, Callable[[], Dataset]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar10-test": functools.partial(cifar10, "test"),
}
"""Dataset constructors by name."""


def load(name: str) -> Dataset:
    """The dataset of this name.

    Raises:
        UserError: if there is no such dataset.
    """
    if name not in DATASETS:
        raise unknown("dataset", name, DATASETS)
    return DATASETS[name]()


def split(dataset: Dataset, held_out: float, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Two disjoint parts in random order; the second holds the fraction ``held_out`` of the samples."""
    n = len(dataset.images)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    first, second = order[round(n * held_out) :], order[: round(n * held_out)]
    return Dataset(*(part[first] for part in dataset)), Dataset(*(part[second] for part in dataset))


def to_uint8(images: Tensor) -> Tensor:
    """Images in [-1, 1] as 8-bit images: clamped, scaled to 0..255 and rounded to the nearest level."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def to_float(images: Tensor) -> Tensor:
    """8-bit images as float32 in [-1, 1], level v at v / 127.5 − 1; float images as they are."""
    return images.to(torch.float32) / 127.5 - 1 if images.dtype == torch.uint8 else images
