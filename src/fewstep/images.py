r"""The papers' image sets as 8-bit images, read when they are asked for: no set is in memory as a whole.

The folder ``FEWSTEP_IMAGES``, by default ``data/cache/images``, holds

- ``img_align_celeba/``: CelebA's aligned images as published, 178 × 218;
- ``church_outdoor_train_lmdb/``, ``bedroom_train_lmdb/``: LSUN in its own format, or
  ``church_outdoor_train/``, ``bedroom_train/``, the images taken out of it, in any subfolders;
- ``celebahq/``, ``imagenet/``: folders of images, in any subfolders;
- ``val2014/``: COCO's validation images of 2014, and beside it ``annotations/captions_val2014.json``.

CIFAR-10 is where :mod:`fewstep.cifar` finds it. What is done to an image is what the record of a network says
(``preprocessing`` in ``data/models.yml``): a crop, then the shorter side resized to ``resize`` pixels, bilinear with
Pillow's antialiasing as in the papers' programs, then the middle square.
"""

from __future__ import annotations

import functools
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import cifar
from .errors import UserError, unknown
from .models.declared import Preprocessing
from .provenance import ROOT

__all__ = ["SETS", "Images", "captions", "folder", "load"]

VARIABLE = "FEWSTEP_IMAGES"
"""Environment variable with the folder of the image sets."""
CACHE = ROOT / "data" / "cache" / "images"
CELEBA_SIZE = (178, 218)

CAPTIONS = Path("annotations") / "captions_val2014.json"

SETS = {
    "COCO": "val2014",
    "CelebA": "img_align_celeba",
    "CelebA-HQ": "celebahq",
    "ImageNet": "imagenet",
    "LSUN bedroom": "bedroom_train",
    "LSUN church_outdoor": "church_outdoor_train",
}
"""The sets' names in ``data/models.yml`` and their folders; CIFAR-10 is found otherwise."""

Read = Callable[[int], Any]
"""Image number i, as a file or a path that Pillow opens."""


class Images:
    """Images that are read when a range of them is asked for: ``images[i:j]`` is a tensor (j − i, 3, S, S), uint8.

    Args:
        n: how many.
        read: opens the i-th.
        name: of the i-th, for messages.
        how: crop and size.

    Attributes:
        shape: (n, 3, S, S).
        dtype: uint8.

    Raises:
        UserError: if the first image cannot be read or is of the wrong size.
    """

    dtype = torch.uint8

    def __init__(self, n: int, read: Read, name: Callable[[int], str], how: Preprocessing) -> None:
        self.n, self.read, self.name, self.how = n, read, name, how
        self.shape = (n, *self._one(0).shape)

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, numbers: slice) -> Tensor:
        found = []
        for i in range(*numbers.indices(self.n)):
            found.append(self._one(i))
            if found[-1].shape != self.shape[1:]:
                size, needed = (f"{shape[2]}×{shape[1]}" for shape in (found[-1].shape, self.shape[1:]))
                raise UserError(f"{self.name(i)} is {size} pixels; {needed}, the size of the first image, is needed")
        return torch.stack(found) if found else torch.empty(0, *self.shape[1:], dtype=self.dtype)

    def _one(self, i: int) -> Tensor:
        from PIL import Image

        try:
            with Image.open(self.read(i)) as image:
                pixels = np.array(_prepared(image.convert("RGB"), self.how, self.name(i)))
        except UserError:
            raise
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            raise UserError(f"{self.name(i)} is no image that can be read; put a whole copy in its place") from None
        return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _prepared(image: Any, how: Preprocessing, name: str) -> Any:
    from torchvision.transforms import functional

    if how.dataset == "CelebA" and image.size != CELEBA_SIZE:
        raise UserError(f"{name} is {image.width}×{image.height} pixels; aligned CelebA images are 178×218")
    least = max(how.crop or 1, how.resize or 1)
    if min(image.size) < least and not how.enlarge:
        raise UserError(f"{name} is {image.width}×{image.height} pixels; at least {least}×{least} is needed")
    if how.crop is not None:
        row, column = how.centre or (image.height / 2, image.width / 2)
        corner = round(row - how.crop / 2), round(column - how.crop / 2)
        image = functional.crop(image, *corner, how.crop, how.crop)
    if how.resize is not None:
        image = functional.resize(image, [how.resize], functional.InterpolationMode.BILINEAR)
        image = functional.center_crop(image, [how.resize, how.resize])
    return image


def folder(place: Path, how: Preprocessing | None = None) -> Images:
    """The images below a folder, in the order of their paths; all of one size once they are cropped and resized.

    Args:
        place: the folder.
        how: crop and size; by default the images are taken as they are.

    Raises:
        UserError: if there are none, or the first is of the wrong size.
    """
    from PIL import Image

    Image.init()
    paths = sorted(path for path in Path(place).rglob("*") if path.suffix.lower() in Image.EXTENSION)
    if not paths:
        advice = f"; put those of {how.dataset} there or set {VARIABLE}" if how else ", in a format that Pillow reads"
        raise UserError(f"{place} is no folder with images{advice}")
    return Images(len(paths), paths.__getitem__, lambda i: str(paths[i]), how or Preprocessing(dataset="folder"))


@functools.cache
def _open(opener: Callable[..., Any], place: str) -> Any:
    """An lmdb, opened once: a process cannot open it twice."""
    return opener(place, readonly=True, lock=False, readahead=False, meminit=False)


def _lsun(place: Path, how: Preprocessing) -> Images:
    """LSUN's own format: an lmdb of encoded images."""
    import lmdb

    try:
        opened = _open(lmdb.open, str(place))
        with opened.begin() as transaction:
            keys = [bytes(key) for key in transaction.cursor().iternext(keys=True, values=False)]
    except lmdb.Error:
        raise UserError(f"{place} is no whole lmdb; fetch it anew") from None
    if not keys:
        raise UserError(f"{place} holds no images; fetch it anew")

    def read(i: int) -> io.BytesIO:
        with opened.begin() as transaction:
            return io.BytesIO(transaction.get(keys[i]))

    return Images(len(keys), read, lambda i: f"{place}: image {keys[i].decode(errors='replace')}", how)


def load(how: Preprocessing) -> Images | Tensor:
    """The images that a network was trained on, as it saw them, uint8: to slice, and to take statistics of.

    Args:
        how: ``preprocessing`` of the network's record.

    Raises:
        UserError: if there is no such set, its folder is missing, or its images are of the wrong size.
    """
    if how.dataset == "CIFAR-10":
        return cifar.load("train").images
    if how.dataset not in SETS:
        raise unknown("image set", how.dataset, ["CIFAR-10", *SETS])
    place = Path(os.environ.get(VARIABLE) or CACHE) / SETS[how.dataset]
    own_format = place.with_name(f"{place.name}_lmdb")
    if how.dataset.startswith("LSUN") and own_format.is_dir():
        return _lsun(own_format, how)
    return folder(place, how)


def captions(n: int) -> list[str]:
    """COCO's captions of the first ``n`` images of its annotations, of each image the last one.

    That is the choice of Permenter & Yuan's program.

    Raises:
        UserError: if the annotations are missing or not whole, or have fewer images.
    """
    path = Path(os.environ.get(VARIABLE) or CACHE) / CAPTIONS
    try:
        given = json.loads(path.read_text("utf-8"))
        last = {one["image_id"]: str(one["caption"]).strip() for one in given["annotations"]}
        found = [last[image["id"]] for image in given["images"][:n]]
    except FileNotFoundError:
        advice = f"put COCO's annotations of 2014 there or set {VARIABLE}"
        raise UserError(f"the captions {path} are missing; {advice}") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(f"{path} is not COCO's file of captions; put a whole copy in its place") from None
    if len(found) < n:
        raise UserError(f"{path} has captions of {len(found)} images, {n} are needed")
    return found
