r"""The papers' own networks: what ``data/models.yml`` declares of each, and from there to an ε-model and its process.

A network comes from a hub (``huggingface_hub``, kept in ``data/cache/hub``), or as a file that ``fewstep convert``
wrote, from the folder ``FEWSTEP_MODELS``, by default ``data/cache/models``. Its record says on which process it was
trained, what it predicts, and what it calls time. :func:`check` finds a record that does not fit its network.
A text-to-image network comes with its other parts (:mod:`fewstep.models.text_to_image`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from .. import shards
from ..errors import UserError, unknown
from ..files import read_yaml
from ..noise import normal
from ..provenance import ROOT
from ..schedules import PROCESSES, Process
from .checkpoints import sha256
from .protocol import EpsModel, coefficients, from_score, from_v, from_x0

__all__ = [
    "ARCHITECTURES",
    "PREDICTIONS",
    "Hub",
    "LocalFile",
    "PaperModel",
    "Preprocessing",
    "Record",
    "Sanity",
    "Schedule",
    "Time",
    "build",
    "check",
    "load",
    "read_network",
    "records",
    "sanity",
    "wiener_error",
]

HUB_CACHE = ROOT / "data" / "cache" / "hub"
FILES = ROOT / "data" / "cache" / "models"
HUB_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
"""What weights are called on a hub: as safetensors, or as PyTorch's file where a repository has no other."""
TEXT_TO_IMAGE = "text-unet2d"
FOLDER_VARIABLE = "FEWSTEP_MODELS"
"""Environment variable with the folder of converted networks."""


def _unet2d(config: dict[str, Any]) -> nn.Module:
    from diffusers import UNet2DModel  # here, not above: it takes seconds to import

    made: Any = UNet2DModel(**config)  # no module in the eyes of a type checker
    return made


def _text_unet2d(config: dict[str, Any]) -> nn.Module:
    from diffusers import UNet2DConditionModel

    made: Any = UNet2DConditionModel(**config)
    return made


def _score_unet(config: dict[str, Any]) -> nn.Module:
    from .score_unet import ScoreUNet

    return ScoreUNet(**config)


ARCHITECTURES: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "unet2d": _unet2d,
    TEXT_TO_IMAGE: _text_unet2d,
    "score-unet": _score_unet,
}
"""Constructors of networks from their configuration: diffusers' U-Nets without and with texts, and score SDE's."""


def build(architecture: str, config: dict[str, Any], *, empty: bool = False) -> nn.Module:
    """A network with random weights, or with none (on the device ``meta``).

    Raises:
        UserError: if the architecture is unknown.
        ValueError, TypeError: if the configuration makes no network.
    """
    if architecture not in ARCHITECTURES:
        raise unknown("architecture", architecture, ARCHITECTURES)
    with torch.device("meta" if empty else "cpu"):
        return ARCHITECTURES[architecture](config).eval()


# --- what is declared ----------------------------------------------------------------------------------------------


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hub(_Strict):
    """A folder of a model hub with ``config.json`` and weights, as diffusers writes them."""

    hub: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="owner/name")
    revision: str | None = Field(pattern="^[0-9a-f]{40}$", description="commit; null if not known")


class LocalFile(_Strict):
    """A file that ``fewstep convert`` wrote from a checkpoint of the paper's program."""

    file: str = Field(pattern=r"^[\w.-]+\.safetensors$")
    layout: str = Field(description="of fewstep convert")
    original: str = Field(description="name of the checkpoint, and who gives it away")


class Time(_Strict):
    """What the network is told of time: ``scale`` times t or σ(t), or that number's logarithm."""

    of: Literal["t", "sigma"] = "t"
    scale: float = 1.0
    offset: float = 0.0
    log: bool = False

    def __call__(self, t: Tensor, process: Process) -> Tensor:
        """Times (B,) of the process in the network's terms, float32."""
        times = t.detach().to("cpu", torch.float64)
        if self.of == "sigma":
            times = torch.from_numpy(process.sigma(times.numpy()))
        if self.log:
            times = times.log()
        return (self.scale * times + self.offset).to(t.device, torch.float32)


class Schedule(_Strict):
    """A key of :data:`fewstep.schedules.PROCESSES` and its arguments."""

    name: str
    arguments: dict[str, int | float] = {}

    def process(self) -> Process:
        """The process."""
        make: Any = PROCESSES[self.name]
        return make(**self.arguments)


class Preprocessing(_Strict):
    """How the images to compare with were made: ``crop`` and ``resize`` in pixels; and the range that they had there.

    The crop is a square around ``centre``, (row, column), or around the image's middle. Images that are too small are
    refused unless ``enlarge`` is set. A network whose images were in [0, 1] is run on images in [−1, 1]; its process
    and time say so.
    """

    dataset: str
    split: str = "training images"
    crop: int | None = None
    centre: tuple[int, int] | None = None
    resize: int | None = None
    enlarge: bool = False
    trained_range: tuple[float, float] = (-1.0, 1.0)


class Record(_Strict):
    """One network of a paper."""

    title: str
    source: Hub | LocalFile
    sha256: str | None = Field(pattern="^[0-9a-f]{64}$", description="of the weights; null if not known")
    unpinned: str = Field(default="", description="why the revision or the SHA-256 is null")
    parts: dict[Literal["text_encoder", "autoencoder"], str] = Field(default={}, description="SHA-256 of other weights")
    architecture: str
    config: dict[str, Any]
    shape: tuple[int, int, int]
    schedule: Schedule
    prediction: str
    time: Time = Time()
    classes: int = 0
    preprocessing: Preprocessing
    licence: str

    @model_validator(mode="after")
    def _consistent(self) -> Record:
        for what, name, known in (
            ("architecture", self.architecture, ARCHITECTURES),
            ("schedule", self.schedule.name, PROCESSES),
            ("prediction", self.prediction, PREDICTIONS),
        ):
            if name not in known:
                raise unknown(what, name, known)
        null = self.sha256 is None or (isinstance(self.source, Hub) and self.source.revision is None)
        if null != bool(self.unpinned):
            raise ValueError("'unpinned' says why the revision or the SHA-256 is null, and only then")
        if self.architecture == TEXT_TO_IMAGE and not isinstance(self.source, Hub):
            raise ValueError(f"a network of architecture {TEXT_TO_IMAGE} comes from a hub, with all its parts")
        try:
            self.schedule.process()
        except TypeError as error:
            raise ValueError(f"schedule: {error}") from None
        return self


class _Models(_Strict):
    models: dict[str, Record]


def records(root: Path = ROOT) -> dict[str, Record]:
    """The content of ``data/models.yml``, by name.

    Raises:
        UserError: if the file is missing or does not fit its schema.
    """
    return read_yaml(root / "data" / "models.yml", _Models).models


# --- from a network to an ε-model ----------------------------------------------------------------------------------

Raw = Callable[[Tensor, Tensor], Tensor]
DATA_STD = 0.5
"""σ_data of EDM, Table 1."""


def _first_half(model: Raw, process: Process) -> EpsModel:
    """ε of a network whose further channels are a learned variance (iDDPM, §3.1)."""
    return lambda x, t: model(x, t)[:, : x.shape[1]]


def _negative(model: Raw, process: Process) -> EpsModel:
    r"""ε of a network that gives :math:`\sigma s = -\varepsilon`, the score times the noise level."""
    return lambda x, t: -model(x, t)


def _preconditioned(model: Raw, process: Process) -> EpsModel:
    r"""ε from EDM's network F, :math:`D = c_{skip}\,x + c_{out} F(c_{in}\,x)` (EDM, Eq. 7 and Table 1); α = 1."""

    def denoised(x: Tensor, t: Tensor) -> Tensor:
        _, sigma = coefficients(process, t, x)
        both = sigma**2 + DATA_STD**2
        return DATA_STD**2 / both * x + sigma * DATA_STD / both.sqrt() * model(x / both.sqrt(), t)

    return from_x0(denoised, process)


def _epsilon(model: Raw, process: Process) -> EpsModel:
    return lambda x, t: model(x, t)


PREDICTIONS: dict[str, Callable[[Raw, Process], EpsModel]] = {
    "epsilon": _epsilon,
    "epsilon-and-variance": _first_half,
    "v": from_v,
    "x0": from_x0,
    "score": from_score,
    "sigma-score": _negative,
    "edm": _preconditioned,
}
"""What a network may give, and how ε follows from it."""


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


def load(
    name: str,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    root: Path = ROOT,
    endpoint: str | None = None,
) -> PaperModel:
    """The network of this name, in eval mode and without gradients, on the CPU, float32.

    Args:
        name: a key of ``data/models.yml``.
        images: images of its data set, (N, C, H, W) in [−1, 1]; with them, :func:`check` compares record and network.
        labels: their classes, where the network has classes.
        root: the clone with ``data/models.yml``.
        endpoint: the hub's address; default that of ``huggingface_hub``.

    Raises:
        UserError: if there is no such record, the weights are not at hand, gated, incomplete or other ones than
            declared, or the sanity check fails.
    """
    known = records(root)
    if name not in known:
        raise unknown("network in data/models.yml", name, known)
    record = known[name]
    if isinstance(record.source, LocalFile):
        model = PaperModel(*_from_file(name, record, record.source))
    elif record.architecture == TEXT_TO_IMAGE:
        from . import text_to_image  # here, not above: it builds on this module

        model = text_to_image.from_hub(name, record, record.source, endpoint)
    else:
        model = PaperModel(*_from_hub(name, record, record.source, endpoint))
    model = model.float().eval().requires_grad_(False)
    if images is not None:
        check(model, images, labels)
    return model


def compare(name: str, record: Record, config: dict[str, Any], where: Path) -> None:
    """Compare a network's configuration with the declared one.

    Raises:
        UserError: if they differ.
    """
    for key, declared in record.config.items():
        if key in config and json.loads(json.dumps(config[key])) != declared:
            raise UserError(f"{where}: {key} is {config[key]}, the record of {name} declares {declared}")


def hashed(name: str, declared: str | None, path: Path) -> str:
    """The SHA-256 of weights.

    Raises:
        UserError: if another one is declared.
    """
    found = sha256(path)
    if declared not in (None, found):
        raise UserError(f"{path} has SHA-256 {found}, the record of {name} declares {declared}; delete it")
    return found


def first_line(error: Exception) -> str:
    """What an error of a library says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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


Loaded = tuple[nn.Module, Record, dict[str, str]]


def _from_file(name: str, record: Record, source: LocalFile) -> Loaded:
    path = Path(os.environ.get(FOLDER_VARIABLE) or FILES) / source.file
    if not path.is_file():
        make = f"fewstep convert CHECKPOINT --layout {source.layout} --out {path}"
        raise UserError(f"the weights of {name} are not at hand: get {source.original}, then {make}")
    digest = hashed(name, record.sha256, path)
    network, facts = read_network(path)
    if facts["architecture"] != record.architecture:
        raise UserError(
            f"{path} holds a network of architecture {facts['architecture']}, "
            f"the record of {name} declares {record.architecture}"
        )
    compare(name, record, facts["config"], path)
    return network, record, {"file": source.file, "sha256": digest}


def _from_hub(name: str, record: Record, source: Hub, endpoint: str | None) -> Loaded:
    from diffusers import UNet2DModel

    config, weights = download(name, source, "config.json", endpoint), weights_file(name, source, "", endpoint)
    digest = hashed(name, record.sha256, weights)
    try:
        compare(name, record, json.loads(config.read_text("utf-8")), config)
        safe = weights.suffix == ".safetensors"  # else it is read with torch.load(weights_only=True)
        network = UNet2DModel.from_pretrained(weights.parent, use_safetensors=safe, local_files_only=True)
    except UserError:
        raise
    except Exception as error:  # diffusers raises OSError, ValueError, RuntimeError and others, over many lines
        what = first_line(error)
        raise UserError(f"{weights.parent} is not a network of diffusers: {what}; delete the folder") from None
    # A snapshot's folder is named by its commit, whether the record pins one or not.
    return network, record, {"hub": source.hub, "revision": weights.parent.name, "sha256": digest}


class NoSuchFileError(UserError):
    """A hub, or what is kept of it where it cannot be reached, does not have a file."""


def weights_file(name: str, source: Hub, folder: str, endpoint: str | None) -> Path:
    """The weights in a folder of a hub's repository; raises as :func:`download`."""
    first, other = (f"{folder}{file}" for file in HUB_WEIGHTS)
    try:
        return download(name, source, first, endpoint)
    except NoSuchFileError as error:
        try:
            return download(name, source, other, endpoint)
        except NoSuchFileError:
            raise error from None


def download(name: str, source: Hub, file: str, endpoint: str | None) -> Path:
    """A file of the hub, from the cache or fetched into it; a download that was cut off goes on.

    Raises:
        NoSuchFileError: if the repository has no such file, or none is kept and the hub cannot be reached.
        UserError: if the repository is gated or not there, or the download fails.
    """
    from huggingface_hub import errors, hf_hub_download

    page = f"{(endpoint or 'https://huggingface.co').rstrip('/')}/{source.hub}"
    at = source.revision or "main"
    try:
        found = hf_hub_download(source.hub, file, revision=source.revision, cache_dir=HUB_CACHE, endpoint=endpoint)
    except errors.GatedRepoError:
        advice = f"{name} is gated: accept its terms at {page}, then log in with 'hf auth login'"
    except errors.RepositoryNotFoundError:
        advice = f"there is no {page}, or it is private; another source is needed in data/models.yml"
    except errors.RevisionNotFoundError:
        advice = f"{page} has no revision {at}; another one is needed in data/models.yml"
    except errors.RemoteEntryNotFoundError:
        advice = f"{page} has no file {file} at revision {at}; another source is needed in data/models.yml"
        raise NoSuchFileError(advice) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        advice = f"{file} of {name} is not in {HUB_CACHE} and {page} cannot be reached; run it once with a network"
        raise NoSuchFileError(advice) from None
    except Exception as error:  # of its HTTP client and the file system, each by its own name
        advice = f"cannot fetch {file} of {name} from {page}: {first_line(error)}; the same command goes on from there"
    else:
        return Path(found)
    raise UserError(advice)


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
