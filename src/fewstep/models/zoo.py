"""The papers' own networks: from a record of ``data/models.yml`` to an ε-model and its process.

A network comes from a hub (:mod:`fewstep.models.hub`), or as a file that ``fewstep convert`` wrote, from the folder
``FEWSTEP_MODELS``, by default ``data/cache/models``. Its first use pins it (:mod:`fewstep.models.pins`).
:func:`check` finds a record that does not fit its network. A text-to-image network comes with its other parts
(:mod:`fewstep.models.text_to_image`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import shards
from ..errors import UserError
from ..noise import normal
from ..provenance import ROOT
from . import hub, pins
from .checkpoints import sha256
from .declared import FOLDERS, PREDICTIONS, TEXT_TO_IMAGE, LocalFile, Record, build, record_of, records
from .hub import first_line
from .pins import Pin
from .protocol import coefficients

__all__ = ["PaperModel", "Sanity", "check", "load", "pin", "read_network", "sanity", "wiener_error"]

FILES = ROOT / "data" / "cache" / "models"
FOLDER_VARIABLE = "FEWSTEP_MODELS"
"""Environment variable with the folder of converted networks."""


class PaperModel(nn.Module):
    """A network of a record as an ε-model: ``model(x, t) -> eps``, with classes ``model(x, t, labels)``.

    Attributes:
        network: the network itself.
        record: what is declared of it.
        process: the process that it was trained on.
        provenance: the SHA-256 of its weights, and its hub and revision or file; for records of measurements.
    """

    def __init__(self, network: nn.Module, record: Record, provenance: dict[str, str] | None = None) -> None:
        super().__init__()
        self.network = network
        self.record = record
        self.process = record.schedule.process()
        self.provenance = provenance or {}

    def forward(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """ε in the dtype of ``x``; the network computes in that of its weights.

        Raises:
            UserError: if the network has classes and no labels are given, or the other way round.
        """
        if bool(self.record.classes) != (labels is not None):
            needed = f"labels 0 to {self.record.classes - 1}" if self.record.classes else "no labels"
            raise UserError(f"{self.record.title}: {needed} are needed")
        return self.epsilon(x, t, class_labels=labels)

    def epsilon(self, x: Tensor, t: Tensor, **given: Tensor | None) -> Tensor:
        """ε, with whatever else the network takes by name."""

        def raw(x: Tensor, t: Tensor) -> Tensor:
            times, dtype = self.record.time(t, self.process), next(self.network.parameters()).dtype
            if self.record.architecture == "score-unet":
                return self.network(x, times)
            return self.network(x.to(dtype), times, **given, return_dict=False)[0].to(x.dtype)

        return PREDICTIONS[self.record.prediction](raw, self.process)(x, t)

    def encode(self, images: Tensor) -> Tensor:
        """What the network works on, of images in [−1, 1]: the images themselves."""
        return images


# --- loading and pinning -------------------------------------------------------------------------------------------


def load(
    name: str,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    root: Path = ROOT,
    endpoint: str | None = None,
) -> PaperModel:
    """The network of this name, in eval mode and without gradients, on the CPU, float32.

    A network that is not pinned yet is, once it is loaded, to the commit and the content that it was loaded from; a
    printed line says so.

    Args:
        name: a key of ``data/models.yml``.
        images: images of its data set, (N, C, H, W) in [−1, 1]; with them, :func:`check` compares record and network.
        labels: their classes, where the network has classes.
        root: the clone with ``data/models.yml`` and ``data/models.lock.json``.
        endpoint: the hub's address; default that of ``huggingface_hub``.

    Raises:
        UserError: if there is no such record, the weights are not at hand, gated, incomplete or other ones than
            pinned, or the sanity check fails.
    """
    record = record_of(name, root)
    pinned = pins.of(name, record, root)
    found = pinned or _resolved(name, record, endpoint)
    if isinstance(record.source, LocalFile):
        model = _from_file(name, record, record.source, found)
    else:
        files = hub.fetch(name, found, FOLDERS[record.architecture].others, endpoint, pinned=pinned is not None)
        if record.architecture == TEXT_TO_IMAGE:
            from . import text_to_image  # here, not above: it builds on this module

            model = text_to_image.from_files(name, record, found, files)
        else:
            model = _from_files(name, record, found, files)
    model = model.float().eval().requires_grad_(False)
    if pinned is None and pins.write({name: found}, root):
        print(f"{name} is pinned to {found} from now on; git commit {pins.FILE}", flush=True)
    if images is not None:
        check(model, images, labels)
    return model


def pin(
    names: Iterable[str] = (), *, again: bool = False, root: Path = ROOT, endpoint: str | None = None
) -> dict[str, Pin]:
    """Pin networks that are not pinned yet, without loading them or fetching their weights.

    Args:
        names: of the networks; default all those of a hub.
        again: also those that are pinned: to what the hub or the converted file has now.
        root: as in :func:`load`.
        endpoint: as in :func:`load`.

    Returns:
        What these networks are pinned to.

    Raises:
        UserError: if one of them cannot be pinned; then none is.
    """
    chosen = {name: record_of(name, root) for name in names} or {
        name: record for name, record in records(root).items() if not isinstance(record.source, LocalFile)
    }
    found = {}
    for name, record in chosen.items():
        kept = None if again else pins.of(name, record, root)
        found[name] = kept or _resolved(name, record, endpoint)
    pins.write(found, root, again=again)
    return found


def _resolved(name: str, record: Record, endpoint: str | None) -> Pin:
    """What a network is at present: by the hub's statement, or by the content of the converted file."""
    source = record.source
    if isinstance(source, LocalFile):
        return Pin(sha256={source.file: sha256(_converted(name, source))})
    return hub.resolve(name, source.hub, source.revision, record.weights.values(), endpoint)


def _converted(name: str, source: LocalFile) -> Path:
    """Where the converted file is.

    Raises:
        UserError: if it is not there; says how to make it.
    """
    path = Path(os.environ.get(FOLDER_VARIABLE) or FILES) / source.file
    if not path.is_file():
        make = f"fewstep convert CHECKPOINT --layout {source.layout} --out {path}"
        raise UserError(f"the weights of {name} are not at hand: get {source.original}, then {make}")
    return path


def compare(name: str, record: Record, config: dict[str, Any], where: Path) -> None:
    """Compare a network's configuration with the declared one.

    Raises:
        UserError: if they differ.
    """
    for key, declared in record.config.items():
        if key in config and json.loads(json.dumps(config[key])) != declared:
            raise UserError(f"{where}: {key} is {config[key]}, the record of {name} declares {declared}")


def read_network(path: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The network in a file that ``fewstep convert`` wrote, and the file's facts: architecture, configuration, layout.

    Raises:
        UserError: if it is cut off, or another file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["fewstep"])
            weights = {key: file.get_tensor(key) for key in file.keys()}
        network = build(facts["architecture"], facts["config"], empty=True)
        network.load_state_dict(weights, assign=True)
    except UserError:
        raise
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError):
        raise UserError(f"{path} is cut off or was not written by fewstep convert; make it anew with that") from None
    return network, facts


def _from_file(name: str, record: Record, source: LocalFile, pin: Pin) -> PaperModel:
    path = _converted(name, source)
    if (digest := sha256(path)) != pin.sha256[source.file]:
        raise UserError(
            f"{path} has SHA-256 {digest}, {pins.FILE} pins {pin.sha256[source.file]}; {pins.AGAIN.format(name)}"
        )
    network, facts = read_network(path)
    if facts["architecture"] != record.architecture:
        raise UserError(
            f"{path} holds a network of architecture {facts['architecture']}, "
            f"the record of {name} declares {record.architecture}"
        )
    compare(name, record, facts["config"], path)
    return PaperModel(network, record, pin.provenance(record))


def _from_files(name: str, record: Record, pin: Pin, files: dict[str, Path]) -> PaperModel:
    from diffusers import UNet2DModel

    config, weights = files["config.json"], files[pin.files(record)["sha256"]]
    try:
        compare(name, record, json.loads(config.read_text("utf-8")), config)
        safe = weights.suffix == ".safetensors"  # else it is read with torch.load(weights_only=True)
        network: Any = UNet2DModel.from_pretrained(weights.parent, use_safetensors=safe, local_files_only=True)
    except UserError:
        raise
    except Exception as error:  # diffusers raises OSError, ValueError, RuntimeError and others, over many lines
        what = first_line(error)
        raise UserError(f"{weights.parent} is not a network of diffusers: {what}; delete the folder") from None
    return PaperModel(network, record, pin.provenance(record))


# --- does the record fit the network? ------------------------------------------------------------------------------

LEVELS = (0.3, 1.0, 3.0)
"""Noise-to-signal ratios ρ at which :func:`check` compares."""
SLACK = 1.25


class Sanity(NamedTuple):
    r"""Mean squared error per element of ε at one noise level, and what it must stay below.

    Attributes:
        rho: :math:`\rho = \sigma/\alpha`.
        error: of the network.
        bound: of the best linear filter, with the slack.
    """

    rho: float
    error: float
    bound: float


def wiener_error(images: Tensor, rho: float) -> float:
    r"""Error of the best linear shift-invariant estimate of the noise in :math:`x_0 + \rho z`, per element.

    .. math:: \frac1D \sum_f \frac{S(f)}{S(f) + \rho^2},

    with S the images' power at each of the D frequencies and channels (Wiener 1949). A network that knows more of the
    images than their spectrum errs less.

    Args:
        images: (N, C, H, W), two or more.
        rho: noise-to-signal ratio.
    """
    images = images.double()
    power = torch.fft.fft2(images - images.mean(0), norm="ortho").abs().square().sum(0) / (len(images) - 1)
    return float((power / (power + rho**2)).mean())


@torch.no_grad()
def sanity(model: PaperModel, images: Tensor, labels: Tensor | None = None) -> list[Sanity]:
    """The network's error of ε on noised images at three noise levels, and their bounds.

    Args:
        model: a network with its record.
        images: of its data set, (N, C, H, W) in [−1, 1], 16 or more: from fewer, the spectrum is not known.
        labels: their classes, where the network has classes.

    Raises:
        UserError: if the images have another shape than the network's, or are too few.
    """
    images = model.encode(images)
    if tuple(images.shape[1:]) != model.record.shape or len(images) < 16:
        raise UserError(f"16 or more images of shape {model.record.shape} are needed, got {tuple(images.shape)}")
    device = next(model.parameters()).device
    images = images.to(device)
    z = normal(0, 0, range(len(images)), images.shape[1:], images.dtype, device)
    found = []
    for rho in LEVELS:
        t = torch.full((len(images),), float(model.process.t_of_rho(rho)), dtype=torch.float64, device=device)
        alpha, sigma = coefficients(model.process, t, images)
        given = () if labels is None else (labels.to(device),)
        size = max(1, 2**20 // images[0].numel())  # few at a time where they are large
        noised = alpha * images + sigma * z
        eps = _in_batches(model, size, noised, t, *given)
        error = float((eps - z).double().square().mean())
        found.append(Sanity(rho, error, SLACK * wiener_error(images, rho)))
    return found


def _in_batches(model: PaperModel, size: int, *whole: Tensor) -> Tensor:
    """ε of the network for parts of all its arguments, ``size`` long as long as the memory suffices."""
    parts = shards.in_batches(lambda i, j: model(*(one[i:j] for one in whole)), 0, len(whole[0]), size)
    return torch.cat(list(parts))


def check(model: PaperModel, images: Tensor, labels: Tensor | None = None) -> list[Sanity]:
    """:func:`sanity`, and an error if the record does not fit the network.

    Raises:
        UserError: if at one of the levels the network errs more than a linear filter, as it does with a wrong
            schedule, prediction type, time convention or preprocessing.
    """
    found = sanity(model, images, labels)
    bad = [one for one in found if not one.error <= one.bound]
    if bad:
        errors = ", ".join(f"{one.error:.3g} at ρ = {one.rho:g} (at most {one.bound:.3g})" for one in bad)
        record = model.record
        raise UserError(
            f"{record.title}: the error of ε is {errors}; schedule {record.schedule.name}, prediction "
            f"{record.prediction}, time and preprocessing of its record do not fit the network or these images"
        )
    return found
