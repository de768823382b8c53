"""Files that commands read and write."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import write_atomically


def check_writable(out: Path, suffixes: Iterable[str]) -> None:
    """Refuse an output file before the work, not after it."""
    if out.suffix not in suffixes:
        raise UserError(f"cannot write {out}: its name must end in {' or '.join(suffixes)}")
    if not out.parent.is_dir():
        raise UserError(f"cannot write {out}: the folder {out.parent} does not exist")
    if out.is_dir() or not os.access(out if out.exists() else out.parent, os.W_OK):
        raise UserError(f"cannot write {out}: no right to write there, choose another place")


def write_images(out: Path, images: Any, *, above: Any = None, columns: int | None = None, **others: Any) -> None:
    """Images as one picture (.png), or as the tensor ``samples`` of a file (.safetensors), whole or not at all.

    Args:
        out: the file.
        images: shape (N, C, H, W), in [-1, 1].
        above: images that the picture shows above them, to compare with.
        columns: images in a row of the picture; by default one row of ``above``, else about as many as there are rows.
        others: more tensors of the .safetensors file, by name.
    """
    if out.suffix == ".safetensors":
        from safetensors.torch import save

        blob = save({"samples": images.contiguous(), **others})
        write_atomically(out, lambda path: path.write_bytes(blob))
        return
    import torch
    from PIL import Image
    from torchvision.utils import make_grid

    from ..data import to_uint8

    if above is not None:
        images, columns = torch.cat([above, images]), len(above)
    columns = columns or max(1, round(len(images) ** 0.5))
    # Small images are enlarged by whole pixels, so that a viewer shows what there is.
    scale = max(1, 64 // images.shape[-1])
    pixels = to_uint8(images).repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    grid = make_grid(pixels, nrow=columns, padding=2, pad_value=255)
    picture = Image.fromarray(grid.permute(1, 2, 0).numpy())
    write_atomically(out, lambda path: picture.save(path, format="PNG"))


def read_images(path: Path | None, samples: int, default: Any) -> Any:
    """The first ``samples`` images of a file, or of the data set, which ``default`` loads."""
    return (default() if path is None else read_tensor(path, "samples").float())[:samples]


def read_tensor(path: Path, name: str) -> Any:
    """The tensor of this name in a safetensors file."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        found = load(path.read_bytes())
    except (OSError, SafetensorError):
        raise UserError(f"cannot read {path}: a safetensors file with a tensor {name!r} is needed") from None
    if name not in found:
        raise UserError(f"{path} has no tensor {name!r}, only {', '.join(sorted(found)) or 'nothing'}")
    return found[name]
