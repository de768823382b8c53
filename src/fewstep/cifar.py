"""CIFAR-10 (Krizhevsky 2009) as 8-bit images, from whatever lies in the folder that ``FEWSTEP_DATA`` names.

Three layouts are told apart by what the folder holds:

- **strips**: ``train-CLASS-00.webp`` …, each a column of images stacked vertically, lossless, read by Pillow;
- torchvision's own download (``cifar-10-batches-py``); where ``FEWSTEP_DATA`` is not set, it is fetched into
  ``data/cache/``;
- **class folders** ``CLASS/*.png`` (or another format of Pillow's), below ``train`` and ``test`` where there are two
  parts.

Labels number the classes in alphabetical order.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from .errors import UserError
from .provenance import ROOT

if TYPE_CHECKING:
    from .data import Dataset

__all__ = ["CLASSES", "PARTS", "class_folders", "load", "strips"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PARTS = {"train": 10, "test": 2}
"""The parts of the set, and how many strips a class has in each."""

SIDE = 32
PER_STRIP = 500
CACHE = ROOT / "data" / "cache"
NATIVE = "cifar-10-batches-py"


def load(part: str = "train", place: Path | str | None = None) -> Dataset:
    """The images of a part, uint8, (N, 3, 32, 32), and their labels.

    Args:
        part: ``train`` (50,000 images) or ``test`` (10,000).
        place: the folder; by default the one that the environment variable ``FEWSTEP_DATA`` names.

    Raises:
        UserError: if there is no such part, the folder holds no images, or one of its files is missing, damaged or of
            another size; the line names the file.
    """
    if part not in PARTS:
        raise UserError(f"CIFAR-10 has no part {part!r}; it has {' and '.join(PARTS)}")
    place = place or os.environ.get("FEWSTEP_DATA")
    if not place:
        return _torchvision(CACHE, part, download=True)
    place = Path(place)
    if not place.is_dir():
        raise UserError(f"{place} is not a folder; FEWSTEP_DATA must name the one that holds the images")
    if any(place.glob("*.webp")):
        return strips(place, part)
    if (place / NATIVE).is_dir():
        return _torchvision(place, part, download=False)
    found = class_folders(place, part)
    names = sorted(path.name for path in _folders(_part_of(place, part)))
    if len(names) != len(CLASSES) or found.images.shape[1:] != (3, SIDE, SIDE):
        size = "×".join(map(str, found.images.shape[2:]))
        raise UserError(f"{place}: {len(names)} class folders of {size} images; CIFAR-10 has {len(CLASSES)} of 32×32")
    return found


def strips(place: Path, part: str, per_class: int | None = None, per_strip: int = PER_STRIP) -> Dataset:
    """The images of a part from strips ``PART-CLASS-NN.webp``.

    Args:
        place: the folder.
        part: ``train`` or ``test``.
        per_class: strips of a class, numbered from 00; CIFAR-10's own count by default.
        per_strip: images in a strip.

    Raises:
        UserError: if a strip is missing, damaged or of another size; the line names it.
    """
    found = []
    for name in CLASSES:
        for number in range(per_class or PARTS[part]):
            path = place / f"{part}-{name}-{number:02d}.webp"
            pixels = _pixels(path)
            if pixels.shape != (per_strip * SIDE, SIDE, 3):
                height, width = pixels.shape[:2]
                needed = f"{SIDE}×{per_strip * SIDE} ({per_strip} images of {SIDE}×{SIDE})"
                raise UserError(f"{path} is {width}×{height} pixels; {needed} is needed")
            found.append(pixels.reshape(per_strip, SIDE, SIDE, 3))
    labels = np.repeat(np.arange(len(CLASSES)), len(found) // len(CLASSES) * per_strip)
    return _dataset(np.concatenate(found), labels)


def class_folders(place: Path, part: str = "train") -> Dataset:
    """The images of a folder of class folders, of any one size; the classes are numbered alphabetically.

    Args:
        place: holds the class folders, or ``train`` and ``test`` that hold them.
        part: ``train`` or ``test``; a folder without parts is the train part.

    Raises:
        UserError: if there are no images, or one is damaged or of another size than the first; the line names it.
    """
    from PIL import Image

    Image.init()
    found: list[np.ndarray] = []
    labels: list[int] = []
    for label, folder in enumerate(_folders(_part_of(place, part))):
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in Image.EXTENSION)
        if not paths:
            raise UserError(f"{folder} holds no images; every class folder must hold some")
        for path in paths:
            found.append(_pixels(path))
            if found[-1].shape != found[0].shape:
                size, needed = ("×".join(map(str, pixels.shape[1::-1])) for pixels in (found[-1], found[0]))
                raise UserError(f"{path} is {size} pixels; {needed}, the size of the first image, is needed")
        labels += [label] * len(paths)
    return _dataset(np.stack(found), np.array(labels))


def _part_of(place: Path, part: str) -> Path:
    if (place / part).is_dir():
        return place / part
    if part == "train" and not any((place / other).is_dir() for other in PARTS):
        return place
    raise UserError(f"{place} has no folder {part!r}; class folders of images below {place / part} are needed")


def _folders(place: Path) -> list[Path]:
    folders = sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise UserError(f"{place} holds no images; strips (train-CLASS-00.webp …) or class folders are needed")
    return folders


def _pixels(path: Path) -> np.ndarray:
    """A file's pixels, (height, width, 3), uint8."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; put it back, or name another folder by FEWSTEP_DATA") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = " ".join(str(error).replace(str(path), "it").split())
        raise UserError(f"{path} is no image that can be read ({reason}); put a whole copy in its place") from None


def _torchvision(root: Path, part: str, download: bool) -> Dataset:
    from torchvision.datasets import CIFAR10

    try:
        found = CIFAR10(str(root), train=part == "train", download=download)
    except (OSError, RuntimeError) as error:  # no network, no space, or a file that fails its checksum
        reason = " ".join(str(error).split())
        advice = "set FEWSTEP_DATA to a folder that holds the images" if download else "fetch it anew"
        raise UserError(f"CIFAR-10 cannot be read from {root / NATIVE} ({reason}); {advice}") from None
    return _dataset(found.data, np.asarray(found.targets))


def _dataset(pixels: np.ndarray, labels: np.ndarray) -> Dataset:
    from .data import Dataset

    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return Dataset(images, torch.from_numpy(labels).to(torch.int64))
