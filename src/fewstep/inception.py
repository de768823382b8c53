r"""FID as the papers state it: the Fréchet distance of Inception features, by torch-fidelity's ``inception-v3-compat``.

Features are the 2048 of the last pooling layer, of images quantised to 8 bits; the distance is that of Heusel et al.
(2017, Eq. 6). Reference statistics are computed once and kept in ``data/cache/statistics`` by the content of images and
weights, or read from a published ``.npz`` with ``mu`` and ``sigma``.

The weights are a file of torch-fidelity's releases. ``FEWSTEP_INCEPTION`` names it; otherwise it is fetched once, into
``data/cache/inception``.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from . import data, shards
from .errors import NotAtHandError, UserError
from .files import write_atomically
from .images import Images
from .models import downloads
from .models.checkpoints import sha256
from .models.convert import read
from .provenance import ROOT

__all__ = [
    "FID",
    "Inception",
    "Statistics",
    "fid",
    "frechet_distance",
    "read_statistics",
    "statistics",
    "weights_file",
]

VARIABLE = "FEWSTEP_INCEPTION"
"""Environment variable that names the file of weights."""
NAME = "weights-inception-2015-12-05-6726825d.pth"
"""The file of torch-fidelity's releases; its name ends in the first digits of its SHA-256."""
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
FOLDER = ROOT / "data" / "cache" / "inception"
CACHE = ROOT / "data" / "cache" / "statistics"
"""Where statistics of references are kept."""
FEATURES = 2048
EXTRACTOR = "inception-v3-compat"

Float = NDArray[np.float64]


def weights_file() -> Path:
    """The file of weights, fetched if there is none and the network allows it.

    Raises:
        NotAtHandError: if there is none and it cannot be fetched; says which file to put where.
        UserError: if the variable names no file.
    """
    if given := os.environ.get(VARIABLE):
        if not Path(given).is_file():
            raise UserError(
                f"{VARIABLE} names {given}, where no file is; put {NAME} of torch-fidelity's releases there"
            )
        return Path(given)
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3 as url

    try:
        return downloads.fetch(url, SHA256, NAME, cache=FOLDER)
    except UserError as error:
        raise NotAtHandError(f"{error}; or fetch it elsewhere and set {VARIABLE} to the file {NAME}") from None


class Inception(nn.Module):
    """Inception features of 8-bit images, in eval mode on the CPU.

    Args:
        path: a file of weights as torch-fidelity writes them; default that of :func:`weights_file`.

    Attributes:
        sha256: of the file.
        published: whether its content is that of the file that torch-fidelity publishes.

    Raises:
        UserError: if the file holds anything but these weights.
    """

    def __init__(self, path: Path | None = None) -> None:
        super().__init__()
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        path = Path(path or weights_file())
        read(path)  # torch-fidelity unpickles without checks what is found here to hold nothing but tensors
        self.sha256 = sha256(path)
        self.published = self.sha256 == SHA256
        if path.name.endswith(NAME) and not self.published:
            raise UserError(f"{path} is damaged: its SHA-256 is {self.sha256}, not {SHA256}; fetch it anew")
        try:
            self.network = FeatureExtractorInceptionV3(EXTRACTOR, [str(FEATURES)], feature_extractor_weights_path=path)
        except (RuntimeError, TypeError, AttributeError):  # other names or shapes, or no dictionary
            raise UserError(f"{path} does not hold the weights of {EXTRACTOR}; {NAME} does") from None
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features (N, 2048), float64, of images (N, 3, H, W), uint8; of grey ones (N, 1, H, W), as three channels."""
        if images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        return self.network(images)[0].double()


class Statistics(NamedTuple):
    """Mean and covariance of the features of a set of images.

    Attributes:
        mu: (F,), float64.
        sigma: (F, F), float64, unbiased.
        n: number of images; None where a published file does not say.
        source: what they are of: the SHA-256 of the images, or of the published file.
    """

    mu: Float
    sigma: Float
    n: int | None
    source: str


def read_statistics(path: Path, features: int = FEATURES) -> Statistics:
    """Published statistics, an ``.npz`` file with ``mu`` and ``sigma``.

    Args:
        path: the file.
        features: how many there must be.

    Raises:
        UserError: if the file is missing, damaged, or holds other arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            mu, sigma = (np.asarray(arrays[name], dtype=np.float64) for name in ("mu", "sigma"))
            n = int(arrays["n"]) if "n" in arrays else None
    except Exception:  # a damaged file makes NumPy's and zipfile's readers fail in any way
        raise UserError(f"cannot read {path}: an .npz file with the arrays mu and sigma is needed") from None
    if mu.shape != (features,) or sigma.shape != (features, features):
        raise UserError(f"{path} has mu {mu.shape} and sigma {sigma.shape}; {features} features are needed")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all() and np.allclose(sigma, sigma.T)):
        raise UserError(f"{path}: finite mu and a finite symmetric sigma are needed; fetch it anew")
    return Statistics(mu, sigma, n, sha256(Path(path)))


def statistics(
    images: Tensor | Images, network: nn.Module, *, batch: int = 64, cache: Path | None = None
) -> Statistics:
    """Statistics of images under a feature network, computed, or from the cache where they were kept.

    Args:
        images: (N, C, H, W), uint8, or float in [−1, 1], which is clamped and rounded to 8 bits; or a set that is read
            in batches, twice: for its hash, and for its features if they are not in the cache.
        network: :class:`Inception`, or another network with an attribute ``sha256``.
        batch: images at a time; changes no number beyond the network's rounding.
        cache: the folder of statistics by content, if they are to be kept.

    Raises:
        UserError: for fewer than two images, or values that are not finite.
    """
    if len(images) < 2:
        raise UserError(f"{len(images)} image(s) have no covariance; at least 2 are needed")
    if isinstance(images, Tensor) and images.dtype != torch.uint8:
        if not torch.isfinite(images).all():
            raise UserError("the images contain NaN or infinite values; finite images in [-1, 1] are needed")
        images = data.to_uint8(images)
    content = hashlib.sha256(repr(tuple(images.shape)).encode())
    for first in range(0, len(images), batch):
        content.update(images[first : first + batch].cpu().contiguous().numpy().data)
    source = content.hexdigest()
    weights: Any = network.sha256
    path = None if cache is None else Path(cache) / f"{source[:16]}-{weights[:16]}.npz"
    if path is not None and path.exists():
        kept = read_statistics(path, np.load(path)["mu"].size)
        return kept._replace(source=source)
    device = next(network.parameters()).device
    moments = None
    for found in shards.in_batches(lambda i, j: network(images[i:j].to(device)), 0, len(images), batch):
        part = shards.Moments.of(found)
        moments = part if moments is None else moments + part
    assert moments is not None
    mu, sigma = moments.mean.cpu().numpy(), moments.covariance.cpu().numpy()
    result = Statistics(mu, sigma, len(images), source)
    if path is not None:
        write_atomically(path, lambda temporary: _write(temporary, mu, sigma, len(images)))
    return result


def _write(path: Path, mu: Float, sigma: Float, n: int) -> None:
    with open(path, "wb") as file:  # np.savez would append .npz to a name
        np.savez(file, mu=mu, sigma=sigma, n=n)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    r""":math:`|\mu_1 - \mu_2|^2 + \operatorname{tr}(C_1 + C_2 - 2(C_1C_2)^{1/2})`, by torch-fidelity.

    Sets of few images span few dimensions. The distance is computed within them, where it is the same: the trace of the
    root of a matrix of 2,048 × 2,048 features takes half a minute.

    Raises:
        UserError: if the statistics are of another number of features.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    if a.mu.shape != b.mu.shape:
        raise UserError(f"statistics of {len(a.mu)} and of {len(b.mu)} features cannot be compared")
    one, two = ({"mu": s.mu, "sigma": s.sigma} for s in (a, b))
    if (basis := _span(a, b)) is not None:
        one, two = ({"mu": s.mu @ basis, "sigma": basis.T @ s.sigma @ basis} for s in (a, b))
    return float(fid_statistics_to_metric(one, two, verbose=False)[KEY_METRIC_FID])


def _span(a: Statistics, b: Statistics) -> Float | None:
    r"""Orthonormal columns that span :math:`\mu_1 - \mu_2` and the ranges of both covariances; None if many."""
    n, features = (a.n or len(a.mu)) + (b.n or len(b.mu)), len(a.mu)
    if 2 * n > features:
        return None
    # As many random combinations of the columns as the span has dimensions are a basis of it with probability 1.
    random = np.random.default_rng(0).standard_normal((features, n))
    found: Float = np.linalg.qr(np.column_stack([a.mu - b.mu, (a.sigma + b.sigma) @ random]))[0]
    return found


class FID(NamedTuple):
    """A distance and all that it depends on.

    Attributes:
        value: the distance.
        protocol: feature network and the SHA-256 of its weights, quantisation, numbers of images, reference and split;
            for records.
    """

    value: float
    protocol: dict[str, Any]


def fid(
    samples: Tensor | Images,
    reference: Tensor | Images | Statistics,
    split: str,
    network: Inception | None = None,
    *,
    batch: int = 64,
    cache: Path | None = None,
) -> FID:
    """FID of samples.

    Args:
        samples: (N, C, H, W), uint8 or float in [−1, 1], or a set of images.
        reference: images or a set of them, whose statistics are kept, or statistics as :func:`read_statistics` reads.
        split: which images the reference is of, such as ``"CIFAR-10 train"``; it is written into the protocol.
        network: default :class:`Inception` with its weights.
        batch: images at a time.
        cache: the folder of the references' statistics; default :data:`CACHE`.

    Raises:
        UserError: as :class:`Inception` and :func:`statistics`.
    """
    network = network or Inception()
    if not isinstance(reference, Statistics):
        reference = statistics(reference, network, batch=batch, cache=cache or CACHE)
    ours = statistics(samples, network, batch=batch)
    protocol = {
        "extractor": EXTRACTOR,
        "weights": network.sha256,
        "published_weights": network.published,
        "features": FEATURES,
        "quantisation": "8 bits, rounded to nearest",
        "samples": ours.n,
        "split": split,
        "reference": reference.source,
        "reference_samples": reference.n,
    }
    return FID(frechet_distance(ours, reference), protocol)
