r"""What ``data/models.yml`` declares of the papers' networks, and what its words mean.

A record says where a network comes from, which architecture it has, on which process it was trained, what it predicts,
and what it calls time. What it was resolved to stands in another file (:mod:`fewstep.models.pins`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from ..errors import unknown
from ..files import read_yaml
from ..provenance import ROOT
from ..schedules import PROCESSES, Process
from .protocol import EpsModel, coefficients, from_score, from_v, from_x0

__all__ = [
    "ARCHITECTURES",
    "FOLDERS",
    "PREDICTIONS",
    "TEXT_TO_IMAGE",
    "Folder",
    "Hub",
    "LocalFile",
    "Preprocessing",
    "Record",
    "Schedule",
    "Time",
    "build",
    "record_of",
    "records",
]

TEXT_TO_IMAGE = "text-unet2d"


# --- architectures -------------------------------------------------------------------------------------------------


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


# --- what a hub has of a network ------------------------------------------------------------------------------------


class Folder(NamedTuple):
    """What of a hub's repository a network of some architecture needs.

    Attributes:
        weights: the names that the file of weights may have, best first, by the name of its SHA-256 in a record of a
            measurement: ``sha256`` is the network's own, others are those of further parts.
        others: the other files.
    """

    weights: dict[str, tuple[str, ...]]
    others: tuple[str, ...]


def _diffusers(folder: str = "") -> tuple[str, ...]:
    """What diffusers calls weights: safetensors, or PyTorch's file where a repository has no other."""
    return tuple(f"{folder}diffusion_pytorch_model.{suffix}" for suffix in ("safetensors", "bin"))


FOLDERS = {
    "unet2d": Folder({"sha256": _diffusers()}, ("config.json",)),
    TEXT_TO_IMAGE: Folder(
        {
            "sha256": _diffusers("unet/"),
            "text_encoder": ("text_encoder/model.safetensors",),
            "autoencoder": _diffusers("vae/"),
        },
        (
            "model_index.json",
            "scheduler/scheduler_config.json",
            "text_encoder/config.json",
            "tokenizer/merges.txt",
            "tokenizer/special_tokens_map.json",
            "tokenizer/tokenizer_config.json",
            "tokenizer/vocab.json",
            "unet/config.json",
            "vae/config.json",
        ),
    ),
}
"""What is needed of a hub's repository, by architecture."""


# --- from what a network gives to ε --------------------------------------------------------------------------------

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


# --- what is declared ----------------------------------------------------------------------------------------------


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Hub(_Strict):
    """A repository of a model hub, as diffusers writes it."""

    hub: str = Field(pattern=r"^[\w.-]+/[\w.-]+$", description="owner/name")
    revision: str | None = Field(
        default=None, pattern="^[0-9a-f]{40}$", description="commit; by default the last one when it is pinned"
    )


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
        if isinstance(self.source, Hub) and self.architecture not in FOLDERS:
            raise ValueError(f"a network of architecture {self.architecture} comes from a file of fewstep convert")
        if self.architecture == TEXT_TO_IMAGE and not isinstance(self.source, Hub):
            raise ValueError(f"a network of architecture {TEXT_TO_IMAGE} comes from a hub, with all its parts")
        try:
            self.schedule.process()
        except TypeError as error:
            raise ValueError(f"schedule: {error}") from None
        return self

    @property
    def weights(self) -> dict[str, tuple[str, ...]]:
        """The names that the file of weights may have, of each part of the network."""
        if isinstance(self.source, LocalFile):
            return {"sha256": (self.source.file,)}
        return FOLDERS[self.architecture].weights


class _Models(_Strict):
    models: dict[str, Record]


def records(root: Path = ROOT) -> dict[str, Record]:
    """The content of ``data/models.yml``, by name.

    Raises:
        UserError: if the file is missing or does not fit its schema.
    """
    return read_yaml(root / "data" / "models.yml", _Models).models


def record_of(name: str, root: Path = ROOT) -> Record:
    """The record of this name.

    Raises:
        UserError: if there is none.
    """
    known = records(root)
    if name not in known:
        raise unknown("network in data/models.yml", name, known)
    return known[name]
