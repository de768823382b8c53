"""Weights on disk: one safetensors file per network and one ``manifest.json`` that says what each is.

The manifest gives for each file its SHA-256, the network's kind and configuration, and the profile it belongs to.
A file is built into a network only after its hash was compared. Pickles are never read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import UserError, unknown
from ..files import write_atomically
from ..provenance import ROOT

__all__ = ["FOLDER", "KINDS", "load", "manifest", "save", "sha256"]

FOLDER = ROOT / "data" / "checkpoints"
"""Where the shipped weights lie."""

MANIFEST = "manifest.json"


def _unet(config: dict[str, Any]) -> nn.Module:
    from .unet import UNet

    return UNet(**config)


def _features(config: dict[str, Any]) -> nn.Module:
    from .features import FeatureNet

    return FeatureNet(**config)


KINDS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {"unet": _unet, "features": _features}
"""Constructors of networks from their configuration, by kind."""


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest(folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """The manifest of a checkpoint folder: file name to ``{sha256, kind, config, profile, …}``; empty if there is none.

    Raises:
        UserError: if it is not valid JSON.
    """
    path = Path(folder or FOLDER) / MANIFEST
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError:
        raise UserError(f"{path} is not valid JSON; restore it with git or train again with make train") from None


def save(name: str, model: nn.Module, kind: str, profile: str, folder: Path | None = None, **facts: Any) -> str:
    """Write a network's weights as ``<name>.safetensors`` and enter the file in the manifest.

    Args:
        name: name of the checkpoint, without suffix.
        model: a network of :data:`KINDS`; its ``config`` attribute rebuilds it.
        kind: key of :data:`KINDS`.
        profile: the profile that the weights belong to.
        folder: the checkpoint folder; default :data:`FOLDER`.
        facts: further JSON values for the manifest, such as how the weights were trained.

    Returns:
        The file's SHA-256.

    Raises:
        UserError: if the kind is unknown or the folder cannot be written to.
    """
    from safetensors.torch import save as serialise

    if kind not in KINDS:
        raise unknown("kind of network", kind, KINDS)
    path = Path(folder or FOLDER) / f"{name}.safetensors"
    blob = serialise({key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()})
    write_atomically(path, lambda temporary: temporary.write_bytes(blob))
    digest = hashlib.sha256(blob).hexdigest()
    entries = manifest(folder)
    entries[path.name] = {"sha256": digest, "kind": kind, "config": model.config, "profile": profile, **facts}
    text = json.dumps(dict(sorted(entries.items())), indent=2) + "\n"
    write_atomically(path.parent / MANIFEST, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    return digest


def load(name: str, folder: Path | None = None) -> nn.Module:
    """The network of this name, in eval mode and without gradients, on the CPU, float32.

    Raises:
        UserError: if the name is unknown, or its file is missing, truncated or of another hash.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as deserialise

    path = Path(folder or FOLDER) / f"{name}.safetensors"
    entries = manifest(folder)
    if path.name not in entries:
        raise unknown("checkpoint", name, [Path(file).stem for file in entries])
    entry = entries[path.name]
    restore = "restore it with git or train it again with make train"
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read checkpoint {path}: {error.strerror}; {restore}") from None
    if hashlib.sha256(blob).hexdigest() != entry["sha256"]:
        what = "is truncated" if _truncated(blob) else "does not have the SHA-256 that its manifest states"
        raise UserError(f"checkpoint {path} {what}; {restore}")
    model = KINDS[entry["kind"]](entry["config"])
    try:
        model.load_state_dict(deserialise(blob))
    except (SafetensorError, RuntimeError):
        raise UserError(f"checkpoint {path} is not a safetensors file of this network; {restore}") from None
    return model.float().eval().requires_grad_(False)


def _truncated(blob: bytes) -> bool:
    """Whether a safetensors file ends before the last tensor that its header announces."""
    size = int.from_bytes(blob[:8], "little")
    try:
        header = json.loads(blob[8 : 8 + size])
        return len(blob) < 8 + size + max(v["data_offsets"][1] for k, v in header.items() if k != "__metadata__")
    except (ValueError, KeyError, TypeError):
        return len(blob) < 8 + size
