r"""How far samples are from data: Fréchet distance, kernel distance, precision and recall, computed by torch-fidelity.

The distances are those behind FID and KID, but the features are this project's own (a checkpoint of kind
``features``), registered with torch-fidelity as a feature extractor. A number from here is therefore *not* an FID and
compares only with numbers from the same feature network. Images are quantised to 8 bits first, as when FID is
computed from image files. The feature network runs in float64: the numbers do not depend on the batch size, and on
the machine only through rounding.

torch-fidelity's own cache is off (it is keyed by a name, not by content), no file is written and nothing is fetched.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from . import data, models
from .errors import UserError, unknown

__all__ = ["METRICS", "Features", "confidence_interval", "evaluate", "extractor", "rms_error"]

METRICS = {
    "frechet_distance": ("fid", "frechet_inception_distance"),
    "kernel_distance": ("kid", "kernel_inception_distance_mean"),
    "precision": ("prc", "precision"),
    "recall": ("prc", "recall"),
}
"""Metrics that torch-fidelity computes: our name, its switch and its name of the result."""

NEIGHBOURHOOD = 3
"""The k of the k-nearest-neighbour balls of precision and recall (Kynkäänniemi et al. 2019, §2)."""


class Features(nn.Module):
    """The feature vectors of 8-bit images under a checkpoint of kind ``features``.

    Args:
        name: the checkpoint's name.

    Raises:
        UserError: if there is no such checkpoint, or it is not a feature network.
    """

    def __init__(self, name: str = "digits-features") -> None:
        super().__init__()
        network = models.load(name)
        if not isinstance(network, models.FeatureNet | models.ResNet):
            raise UserError(f"checkpoint {name!r} is not a feature network; use one such as 'digits-features'")
        self.network = network.double()
        self.shape = tuple(network.config["shape"])  # type: ignore[var-annotated, arg-type]

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Features (N, F), float64, of images (N, C, H, W), uint8."""
        return self.network.features(images.double() / 127.5 - 1)


@functools.cache
def _features(feature_net: str) -> Features:
    return Features(feature_net)


@functools.cache
def extractor(feature_net: str) -> str:
    """Registers a feature network with torch-fidelity, once per process, and returns the name it is registered under.

    Raises:
        UserError: as :class:`Features`.
    """
    import torch_fidelity  # here, not above: it takes seconds to import

    features = _features(feature_net)
    registered = f"fewstep-{feature_net}"
    known: dict[bytes, Tensor] = {}

    class Extractor(torch_fidelity.FeatureExtractorBase):
        def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
            super().__init__(name, features_list)
            self.features = features

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("penultimate",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "penultimate"

        @staticmethod
        def can_be_compiled() -> bool:
            return False

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            # The reference set comes with every call; its features are computed once.
            content = hashlib.sha256(images.cpu().numpy().tobytes()).digest()
            if content not in known:
                known[content] = self.features(images)
            return (known[content],)

    torch_fidelity.register_feature_extractor(registered, Extractor)
    return registered


class _Images(torch.utils.data.Dataset):
    """A tensor of images as the dataset that torch-fidelity asks for: items are images, not tuples."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


def evaluate(
    samples: Tensor,
    reference: Tensor | str = "digits",
    feature_net: str = "digits-features",
    metrics: Iterable[str] = tuple(METRICS),
    batch_size: int = 512,
) -> dict[str, float]:
    r"""Metrics of samples against a reference set, by torch-fidelity.

    - ``frechet_distance``: :math:`|\mu_1 - \mu_2|^2 + \operatorname{tr}(C_1 + C_2 - 2(C_1 C_2)^{1/2})` of the features'
      means and covariances (Heusel et al. 2017, Eq. 6). Biased upwards for few samples: compare equal counts only.
    - ``kernel_distance``: the unbiased squared MMD with kernel :math:`(x^\top y/d + 1)^3` (Bińkowski et al. 2018, §4),
      so it may be slightly negative. Sets of up to 2,000 enter whole, in one block as large as the smaller set;
      of larger ones, as usual, 100 random blocks of 1,000 are averaged.
    - ``precision``, ``recall``: the fraction of samples inside the reference set's k-nearest-neighbour balls, and the
      fraction of the reference set inside the samples' (Kynkäänniemi et al. 2019, Eq. 2–3; k = 3).

    Args:
        samples: images (N, C, H, W) in [-1, 1]; values outside are clamped.
        reference: images of the same shape (M, C, H, W), or the name of a dataset.
        feature_net: name of the feature checkpoint.
        metrics: which of :data:`METRICS`.
        batch_size: images per call of the feature network; the result does not depend on it.

    Returns:
        Metric name to value.

    Raises:
        UserError: for an unknown metric, dataset or feature network, for images of another shape than the network's,
            for values that are not finite, and for too few images.
    """
    metrics = list(metrics)
    for metric in metrics:
        if metric not in METRICS:
            raise unknown("metric", metric, METRICS)
    if isinstance(reference, str):
        reference = data.load(reference).images
    name = extractor(feature_net)
    import torch_fidelity

    shape = _features(feature_net).shape
    for what, images in (("samples", samples), ("reference", reference)):
        if tuple(images.shape[1:]) != shape:
            raise UserError(f"{what} have shape {tuple(images.shape[1:])}; {feature_net} takes {shape}")
        if not torch.isfinite(images).all():
            raise UserError(f"{what} contain NaN or infinite values; finite images in [-1, 1] are needed")
        if len(images) <= NEIGHBOURHOOD:
            raise UserError(
                f"{len(images)} {what} are too few for these metrics; at least {NEIGHBOURHOOD + 1} are needed"
            )
    smaller = min(len(samples), len(reference))
    whole = smaller <= 2000
    result = torch_fidelity.calculate_metrics(
        input1=_Images(data.to_uint8(samples.cpu())),
        input2=_Images(data.to_uint8(reference.cpu())),
        **{METRICS[metric][0]: True for metric in metrics},
        feature_extractor=name,
        cuda=torch.cuda.is_available(),
        batch_size=batch_size,
        kid_subsets=1 if whole else 100,
        kid_subset_size=smaller if whole else 1000,
        prc_neighborhood=NEIGHBOURHOOD,
        save_cpu_ram=True,  # no worker processes, and distances block by block
        cache=False,
        verbose=False,
    )
    return {metric: float(result[METRICS[metric][1]]) for metric in metrics}


def rms_error(x: Tensor, reference: Tensor) -> float:
    """Root mean square of ``x - reference`` over all elements, in float64."""
    return (x.double() - reference.double()).square().mean().sqrt().item()


def confidence_interval(values: Sequence[float] | ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    r"""Mean and Student-t interval of repeated measurements, :math:`\bar v \mp t_{n-1}\, s/\sqrt n`.

    Args:
        values: one value per seed.
        level: the interval's confidence.

    Returns:
        (mean, low, high).

    Raises:
        UserError: if there are fewer than two values, or one is not finite.
    """
    from scipy.stats import t

    v = np.asarray(values, dtype=np.float64).ravel()
    if len(v) < 2:
        raise UserError(f"{len(v)} value(s) give no confidence interval; at least 2 seeds are needed")
    if not np.all(np.isfinite(v)):
        raise UserError("a confidence interval needs finite values")
    mean = v.mean()
    half = t.ppf(0.5 + level / 2, len(v) - 1) * v.std(ddof=1) / np.sqrt(len(v))
    return float(mean), float(mean - half), float(mean + half)
