r"""Large measurements in parts: samples go from the sampler to the feature network on the device and leave moments.

A *shard* is what the images with the numbers start … stop − 1 leave: n, :math:`\sum f` and :math:`\sum ff^\top` of
their features in float64, and the first feature rows themselves where distances between single images are asked for
(kernel distance, precision, recall). Shards of any sizes, made anywhere and merged in any order give the same
distances up to rounding, because sample i of a seed is the same image in any of them.
"""

from __future__ import annotations

import functools
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from . import data, metrics, models
from .errors import UserError, unknown
from .files import write_atomically
from .noise import normal
from .plan import Plan
from .run import Model, sample

__all__ = [
    "Moments",
    "Shard",
    "draw",
    "frechet_distance",
    "in_batches",
    "load",
    "merge",
    "network",
    "of_images",
    "reference",
    "save",
    "scores",
]


@dataclass(frozen=True)
class Moments:
    r"""Sums over feature vectors, from which mean and covariance follow; ``a + b`` is that of both sets.

    Attributes:
        n: how many vectors.
        total: :math:`\sum f`, (F,), float64.
        outer: :math:`\sum ff^\top`, (F, F), float64.
    """

    n: int
    total: Tensor
    outer: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Of features (N, F), on their device."""
        f = features.double()
        return cls(len(f), f.sum(0), f.T @ f)

    def __add__(self, other: Moments) -> Moments:
        if self.total.shape != other.total.shape:
            raise UserError(f"moments of {len(self.total)} and of {len(other.total)} features cannot be added")
        return Moments(self.n + other.n, self.total + other.total, self.outer + other.outer)

    @property
    def mean(self) -> Tensor:
        """(F,)"""
        return self.total / self.n

    @property
    def covariance(self) -> Tensor:
        """Unbiased, (F, F)."""
        if self.n < 2:
            raise UserError(f"{self.n} image(s) have no covariance; at least 2 are needed")
        return (self.outer - self.n * torch.outer(self.mean, self.mean)) / (self.n - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    r""":math:`|\mu_1 - \mu_2|^2 + \operatorname{tr}(C_1 + C_2 - 2(C_1C_2)^{1/2})`, by torch-fidelity."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    one, two = ({"mu": m.mean.cpu().numpy(), "sigma": m.covariance.cpu().numpy()} for m in (a, b))
    return fid_statistics_to_metric(one, two, verbose=False)[KEY_METRIC_FID]


@dataclass(frozen=True)
class Shard:
    """What a range of images leaves behind.

    Attributes:
        start: number of the first image.
        stop: number of the last image, plus one.
        moments: of the features of all of them.
        rows: the features of the first ones, (K, F).
        seconds: what it took to make it, of all jobs together.
    """

    start: int
    stop: int
    moments: Moments
    rows: Tensor
    seconds: float = 0.0


def merge(shards: Iterable[Shard]) -> Shard:
    """One shard of several that follow each other without a gap, handed in in any order.

    Raises:
        UserError: if an image is missing or counted twice.
    """
    ordered = sorted(shards, key=lambda shard: shard.start)
    if not ordered:
        raise UserError("there are no shards to merge; at least one is needed")
    for before, after in itertools.pairwise(ordered):
        if before.stop != after.start:
            what = "missing" if before.stop < after.start else "counted twice"
            low, high = sorted((before.stop, after.start))
            raise UserError(f"images {low} to {high - 1} are {what}; shards that follow each other are needed")
    moments = functools.reduce(Moments.__add__, (shard.moments for shard in ordered))
    rows = torch.cat([shard.rows for shard in ordered])
    return Shard(ordered[0].start, ordered[-1].stop, moments, rows, sum(shard.seconds for shard in ordered))


def save(shard: Shard, path: Path) -> None:
    """Write a shard as a safetensors file, whole or not at all."""
    from safetensors.torch import save as serialise

    tensors = {"total": shard.moments.total, "outer": shard.moments.outer, "rows": shard.rows}
    facts = {"start": shard.start, "stop": shard.stop, "seconds": shard.seconds}
    blob = serialise({k: v.cpu().contiguous() for k, v in tensors.items()}, {"fewstep": json.dumps(facts)})
    write_atomically(Path(path), lambda temporary: temporary.write_bytes(blob))


def load(path: Path) -> Shard:
    """Read a shard back.

    Raises:
        UserError: if the file is missing or is no shard.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["fewstep"])
            total, outer, rows = (file.get_tensor(name) for name in ("total", "outer", "rows"))
        moments = Moments(facts["stop"] - facts["start"], total, outer)
        return Shard(facts["start"], facts["stop"], moments, rows, facts["seconds"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        raise UserError(f"{path} is not a shard; delete it, and it will be made anew") from None


def in_batches(work: Callable[[int, int], Tensor], start: int, stop: int, batch: int) -> Iterator[Tensor]:
    """``work(first, last)`` for ranges of at most ``batch`` numbers; half as many from where memory does not suffice.

    Raises:
        UserError: if memory does not suffice for a single one.
    """
    while start < stop:
        last = min(start + batch, stop)
        result = None
        try:
            result = work(start, last)
        except torch.OutOfMemoryError:
            if last - start == 1:
                raise UserError("the memory does not suffice for a single image; free some, or use the CPU") from None
        if result is None:  # outside the handler, whose traceback holds on to the memory
            batch = (last - start) // 2
            torch.cuda.empty_cache()
            print(f"out of memory with {last - start} images at a time: going on with {batch}", flush=True)
            continue
        yield result
        start = last


def draw(
    plan: Plan,
    model: Model,
    features: metrics.Features,
    numbers: range,
    *,
    seed: int = 0,
    batch: int = 2500,
    keep: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    autocast: torch.dtype | None = None,
) -> Shard:
    """Draw the samples with these numbers, quantise them to 8 bits and take their features, all on the device.

    Args:
        plan: the sampler.
        model: an ε-model on the device.
        features: the feature network on the device.
        numbers: which samples, without gaps.
        seed: of the noise.
        batch: samples at a time, as long as the memory suffices; changes no sample beyond the network's rounding.
        keep: of the samples below this number the feature rows are kept.
        device: where to compute.
        dtype: of states and combinations.
        autocast: run the ε-model under autocast in this dtype.
    """

    def work(first: int, last: int) -> Tensor:
        ids = torch.arange(first, last)
        x = plan.prior_std * normal(seed, 0, ids, features.shape, dtype, device)
        return features(data.to_uint8(sample(plan, model, x, seed=seed, ids=ids, dtype=dtype, autocast=autocast)))

    return _collect(work, numbers, batch, keep)


def of_images(
    images: Tensor, features: metrics.Features, *, batch: int = 2500, keep: int = 0, device: torch.device | str = "cpu"
) -> Shard:
    """The shard of given images, uint8 or float in [-1, 1]; the arguments as for :func:`draw`."""

    def work(first: int, last: int) -> Tensor:
        part = images[first:last].to(device)
        return features(part if part.dtype == torch.uint8 else data.to_uint8(part))

    return _collect(work, range(len(images)), batch, keep)


@functools.cache
def reference(dataset: str, features: str, keep: int = 0, device: str = "cpu") -> Shard:
    """The shard of a whole dataset, made once per process; the kept rows are those of images drawn at random."""
    images = data.load(dataset).images
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return of_images(images[order], metrics.Features(features).to(device), keep=keep, device=device)


def _collect(work: Callable[[int, int], Tensor], numbers: range, batch: int, keep: int) -> Shard:
    if not len(numbers) or numbers.step != 1:
        raise UserError(f"a shard needs a range of numbers without gaps, got {numbers}")
    clock = time.perf_counter()
    moments: Moments | None = None
    rows: list[Tensor] = []
    done = numbers.start
    for found in in_batches(work, numbers.start, numbers.stop, batch):
        moments = Moments.of(found) if moments is None else moments + Moments.of(found)
        rows.append(found[: max(0, keep - done)].cpu())
        done += len(found)
    assert moments is not None
    on_cpu = Moments(moments.n, moments.total.cpu(), moments.outer.cpu())
    return Shard(numbers.start, numbers.stop, on_cpu, torch.cat(rows), time.perf_counter() - clock)


def scores(samples: Shard, reference: Shard, names: Iterable[str] = tuple(metrics.METRICS)) -> dict[str, float]:
    """The metrics of :func:`fewstep.metrics.evaluate`, from shards.

    The Fréchet distance is that of all images; kernel distance, precision and recall are those of the kept rows.

    Raises:
        UserError: for an unknown metric, or too few kept rows.
    """
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    names = list(names)
    for name in names:
        if name not in metrics.METRICS:
            raise unknown("metric", name, metrics.METRICS)
    switches = {metrics.METRICS[name][0] for name in names}
    smaller = min(len(samples.rows), len(reference.rows))
    if switches - {"fid"} and smaller <= metrics.NEIGHBOURHOOD:
        needed = metrics.NEIGHBOURHOOD + 1
        raise UserError(f"{smaller} kept rows are too few for {', '.join(names)}; keep at least {needed}")
    found: dict[str, float] = {}
    if "fid" in switches:
        found["frechet_inception_distance"] = frechet_distance(samples.moments, reference.moments)
    if "kid" in switches:
        whole = smaller <= 2000
        sizes = {"kid_subsets": 1 if whole else 100, "kid_subset_size": smaller if whole else 1000}
        found |= kid_features_to_metric(samples.rows, reference.rows, **sizes, verbose=False)
    if "prc" in switches:
        options = {"prc_neighborhood": metrics.NEIGHBOURHOOD, "save_cpu_ram": True, "verbose": False}
        found |= prc_features_to_metric(samples.rows, reference.rows, **options)
    return {name: float(found[metrics.METRICS[name][1]]) for name in names}


@functools.cache
def network(name: str, device: str = "cpu") -> nn.Module:
    """A checkpoint's network on a device, once per process; on a CUDA device channels last and compiled."""
    found = models.load(name).to(device)
    if torch.device(device).type != "cuda":
        return found
    return torch.compile(found.to(memory_format=torch.channels_last))  # type: ignore[return-value]
