"""Weights on disk: a safetensors file per network, or several (shards), and a ``manifest.json`` that says what each is.

The manifest gives for each network its SHA-256, kind and configuration, and the profile it belongs to. Of a network in
shards it gives the SHA-256 of each of them too; the network's own is then that of the shards one after another. A file
is built into a network only after its hash was compared. Pickles are never read: opening one runs the code in it.

A file that is not in the folder is fetched (``fewstep.models.downloads``) where the manifest gives a ``url``: that
of the file, or, ending in ``/``, that of the folder which holds it or its shards. ``bytes`` is the length of the file.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError, unknown
from ..files import write_atomically
from ..provenance import ROOT

__all__ = ["FOLDER", "KINDS", "load", "manifest", "save", "sha256"]

FOLDER = ROOT / "data" / "checkpoints"
"""Where the shipped weights lie."""

MANIFEST = "manifest.json"
RESTORE = "restore it with git or train it again with make train"
SUFFIX = ".safetensors"
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")


def _unet(config: dict[str, Any]) -> nn.Module:
    from .unet import UNet

    return UNet(**config)


def _features(config: dict[str, Any]) -> nn.Module:
    from .features import FeatureNet

    return FeatureNet(**config)


def _resnet(config: dict[str, Any]) -> nn.Module:
    from .features import ResNet

    return ResNet(**config)


def _noisy_classifier(config: dict[str, Any]) -> nn.Module:
    from .features import NoisyClassifier

    return NoisyClassifier(**config)


KINDS: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "unet": _unet,
    "features": _features,
    "resnet": _resnet,
    "noisy-classifier": _noisy_classifier,
}
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


def save(
    name: str,
    model: nn.Module,
    kind: str,
    profile: str,
    folder: Path | None = None,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int | None = None,
    **facts: Any,
) -> str:
    """Write a network's weights as ``<name>.safetensors`` and enter them in the manifest.

    Args:
        name: name of the checkpoint, without suffix.
        model: a network of :data:`KINDS`; its ``config`` attribute rebuilds it.
        kind: key of :data:`KINDS`.
        profile: the profile that the weights belong to.
        folder: the checkpoint folder; default :data:`FOLDER`.
        dtype: of the weights in the file, such as float16; as they are unless given. Integers stay integers.
        shard_bytes: largest size of a file; the weights are written as shards ``<name>-00001-of-00003.safetensors``.
        facts: further JSON values for the manifest, such as how the weights were trained.

    Returns:
        The SHA-256 of the file, or of the shards one after another.

    Raises:
        UserError: if the kind is unknown, the folder cannot be written to, a weight does not fit into a shard, or is
            not finite in ``dtype``.
    """
    from safetensors.torch import save as serialise

    if kind not in KINDS:
        raise unknown("kind of network", kind, KINDS)
    folder = Path(folder or FOLDER)
    weights = {key: _cast(name, key, value, dtype) for key, value in model.state_dict().items()}
    blobs = [serialise(part) for part in _parts(weights, shard_bytes)]
    files = [f"{name}.safetensors"]
    if shard_bytes is not None:
        files = [f"{name}-{i:05d}-of-{len(blobs):05d}.safetensors" for i in range(1, len(blobs) + 1)]
    for file, blob in zip(files, blobs, strict=True):
        write_atomically(folder / file, functools.partial(Path.write_bytes, data=blob))
    digest = hashlib.sha256(b"".join(blobs)).hexdigest()
    entry = {"sha256": digest, "kind": kind, "config": model.config, "profile": profile, **facts}
    if shard_bytes is not None:
        entry["shards"] = {file: hashlib.sha256(blob).hexdigest() for file, blob in zip(files, blobs, strict=True)}
    entries = manifest(folder)
    former = entries.get(f"{name}.safetensors", {}).get("shards", [])
    entries[f"{name}.safetensors"] = entry
    text = json.dumps(dict(sorted(entries.items())), indent=2) + "\n"
    write_atomically(folder / MANIFEST, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    for file in set(former) - set(files):  # of another number of shards
        (folder / file).unlink(missing_ok=True)
    return digest


def _cast(name: str, key: str, value: Tensor, dtype: torch.dtype | None) -> Tensor:
    value = value.detach().cpu().contiguous()
    if dtype is None or not value.is_floating_point():
        return value
    if not torch.isfinite(value.to(dtype)).all():
        raise UserError(f"{name}: the weight {key} is not finite in {dtype}; save it in a wider type")
    return value.to(dtype)


def _parts(weights: dict[str, Tensor], limit: int | None) -> list[dict[str, Tensor]]:
    """Weights in order, cut where a file would outgrow the limit."""
    if limit is None:
        return [weights]
    parts: list[dict[str, Tensor]] = [{}]
    room = limit
    for key, value in weights.items():
        # A tensor's bytes, and at most as much again in the header as its name and shape take.
        need = value.nbytes + len(key) + 128
        if parts[-1] and need > room:
            parts.append({})
            room = limit
        if need > room:
            raise UserError(f"the weight {key} needs {need} bytes; a shard of {limit} has no room for it")
        parts[-1][key] = value
        room -= need
    return parts


def load(name: str, folder: Path | None = None) -> nn.Module:
    """The network of this name, in eval mode and without gradients, on the CPU, float32.

    Raises:
        UserError: if the name is unknown, or a file of it is missing, truncated, of another hash or a pickle, or it
            cannot be fetched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as deserialise

    folder = Path(folder or FOLDER)
    entries = manifest(folder)
    if f"{name}{SUFFIX}" not in entries:
        for file in (name, *(f"{name}{suffix}" for suffix in PICKLES)):
            if file.endswith(PICKLES) and (file == name or file in entries or (folder / file).exists()):
                raise _pickle(folder / file)
        raise unknown("checkpoint", name, [Path(file).stem for file in entries])
    entry = entries[f"{name}{SUFFIX}"]
    files = entry.get("shards", {f"{name}{SUFFIX}": entry["sha256"]})
    blobs = [_read(folder, file, digest, entry) for file, digest in files.items()]
    model = KINDS[entry["kind"]](entry["config"])
    try:
        weights: dict[str, Tensor] = {}
        for blob in blobs:
            weights |= deserialise(blob)
        model.load_state_dict(weights)
    except (SafetensorError, RuntimeError):
        which = folder / next(iter(files)) if len(files) == 1 else f"{folder / name} ({len(files)} shards)"
        raise UserError(f"checkpoint {which} is not a safetensors file of this network; {RESTORE}") from None
    return model.float().eval().requires_grad_(False)


def _read(folder: Path, file: str, digest: str, entry: dict[str, Any]) -> bytes:
    """A file's bytes, compared with the hash that the manifest states."""
    if file.endswith(PICKLES):
        raise _pickle(folder / file)
    if Path(file).name != file or not file.endswith(SUFFIX):
        raise UserError(f"{folder / MANIFEST} names {file!r}; the name of a {SUFFIX} file without a folder is needed")
    path = folder / file
    if "url" in entry and not path.exists():
        # Named by a text, as solver families are: how weights come here determines no number, their SHA-256 does, so
        # that module is no part of a record's key (fewstep.provenance).
        downloads = importlib.import_module("fewstep.models.downloads")
        url, size = entry["url"], None if "shards" in entry else entry.get("bytes")
        path = downloads.fetch(f"{url}{file}" if str(url).endswith("/") else url, digest, file, size)
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read checkpoint {path}: {error.strerror}; {RESTORE}") from None
    if _is_pickle(blob):
        raise _pickle(path)
    if hashlib.sha256(blob).hexdigest() != digest:
        what = "is truncated" if _truncated(blob) else "does not have the SHA-256 that its manifest states"
        raise UserError(f"checkpoint {path} {what}; {RESTORE}")
    return blob


def _is_pickle(blob: bytes) -> bool:
    """Whether this is what ``torch.save`` (a zip file with ``data.pkl``, or an older form) or ``pickle`` writes."""
    if blob[8:9] == b"{":  # a safetensors file: a length of 8 bytes, then JSON
        return False
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(blob)) as archive:
        return any(name.endswith(".pkl") for name in archive.namelist())
    return len(blob) > 1 and blob[0] == 0x80 and 2 <= blob[1] <= 5  # the opcode PROTO, and the protocol


def _pickle(path: Path) -> UserError:
    convert = f"model.load_state_dict(torch.load({str(path)!r}, weights_only=True))"
    return UserError(
        f"checkpoint {path} is a pickle, which can run code when it is opened, and is not read; convert it with "
        f"{convert}; fewstep.models.save({path.stem!r}, model, kind, profile)"
    )


def _truncated(blob: bytes) -> bool:
    """Whether a safetensors file ends before the last tensor that its header announces."""
    size = int.from_bytes(blob[:8], "little")
    try:
        header = json.loads(blob[8 : 8 + size])
        return len(blob) < 8 + size + max(v["data_offsets"][1] for k, v in header.items() if k != "__metadata__")
    except (ValueError, KeyError, TypeError):
        return len(blob) < 8 + size
