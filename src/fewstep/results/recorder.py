"""Writing a record: a notebook measures, and the record is written when all went well."""

from __future__ import annotations

import contextlib
import datetime
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ..errors import UserError
from ..files import complaint
from ..provenance import cell_key, device_name, package_versions, revision, weights_of
from .experiments import is_training, made_by
from .files import RESULTS, write
from .record import Measurement, Provenance, Record, Setting

if TYPE_CHECKING:
    from ..shards import Shard

__all__ = ["Recorder", "recording"]


@dataclass
class Recorder:
    """Collects the measurements of one cell.

    Attributes:
        measurements: what was added so far.
        scratch: the folder that keeps the shards of the cell until its record is written; None: they are not kept.
        part: (k, n): this job draws the k-th of n ranges of the samples, and measures nothing.
        pieces: a job that draws all keeps a set of samples in so many ranges, one after the other.
    """

    measurements: list[Measurement] = field(default_factory=list)
    scratch: Path | None = None
    part: tuple[int, int] | None = None
    pieces: int = 1

    def collect(self, name: str, samples: int, draw: Callable[[range], Shard]) -> Shard | None:
        """The shard of the samples 0 … ``samples`` − 1: ranges that lie in ``scratch``, ``draw`` for the others.

        What is drawn is kept in ``scratch``, so that a killed job goes on where it was, and so that several jobs share
        the work: the shard is the same, up to rounding, whoever drew which range.

        Args:
            name: of this set of samples, different for each in the cell.
            samples: how many.
            draw: makes the shard of a range of sample numbers.

        Returns:
            The shard; None in a job that draws one part only.
        """
        if self.scratch is None:
            return draw(range(samples))
        from .. import shards  # here, not above: it needs torch, and those who only read records do not

        folder = self.scratch / name

        def kept(numbers: range) -> Shard:
            path = folder / f"{numbers.start}-{numbers.stop}.safetensors"
            with contextlib.suppress(UserError):  # missing, or no shard: it is made anew
                return shards.load(path)
            shards.save(draw(numbers), path)
            return shards.load(path)

        if self.part is not None:
            k, n = self.part
            numbers = range(samples * k // n, samples * (k + 1) // n)
            if numbers:
                kept(numbers)
            return None
        found = [range(*map(int, path.stem.split("-"))) for path in folder.glob("[0-9]*.safetensors")]
        ranges: list[range] = []
        done, most = 0, -(-samples // self.pieces)
        for numbers in [*sorted(found, key=lambda numbers: numbers.start), range(samples, samples)]:
            while done < numbers.start <= samples:
                ranges.append(range(done, min(done + most, numbers.start)))
                done = ranges[-1].stop
            if numbers and numbers.start == done and numbers.stop <= samples:
                ranges.append(numbers)
                done = numbers.stop
        return shards.merge(kept(numbers) for numbers in ranges)

    def add(
        self,
        metric: str,
        value: float,
        low: float | None = None,
        high: float | None = None,
        *,
        solver: str | None = None,
        grid: str | None = None,
        nfe: int | None = None,
        samples: int | None = None,
        seeds: Sequence[int] = (),
        settings: Mapping[str, Setting] | None = None,
    ) -> None:
        """Adds one number. NumPy and torch scalars are taken as Python's.

        Raises:
            UserError: if the number is not finite, the interval is half given, or the metric is not in
                :data:`~fewstep.results.record.METRICS`.
        """
        values = {
            "metric": metric,
            **{name: _plain(number) for name, number in (("value", value), ("low", low), ("high", high))},
            "solver": solver,
            "grid": grid,
            "nfe": _plain(nfe),
            "samples": _plain(samples),
            "seeds": [_plain(seed) for seed in seeds],
            "settings": {name: _plain(setting) for name, setting in (settings or {}).items()},
        }
        try:
            self.measurements.append(Measurement.model_validate(values))
        except ValidationError as error:
            raise UserError(f"measurement of {metric} ({solver}, nfe={nfe}): {complaint(error)}") from None


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


@contextlib.contextmanager
def recording(
    profile: str,
    experiment: str,
    cell: str,
    parameters: Mapping[str, Any],
    *,
    out: Path | str | None = None,
    scratch: Path | str | None = None,
    part: Sequence[int] | None = None,
    pieces: int | None = None,
    device: str = "cpu",
) -> Iterator[Recorder]:
    """Collects measurements and writes their record when the block ends well; an exception leaves no file.

    Args:
        profile: on what (``digits``); with ``experiment`` and ``cell`` it names the file.
        experiment: the notebook's name.
        cell: the name of this run of the notebook.
        parameters: what the run was made with, as in ``workflow/experiments.yml``; they and the code make its key.
        out: folder of records; the committed ones by default.
        scratch: where the shards of the cell are kept (:meth:`Recorder.collect`); removed when the record is written.
        part: (k, n): draw the k-th of n ranges of the samples only, and write no record.
        pieces: keep each set of samples in so many ranges, so that less is lost when the job ends before its time.
        device: torch's name of the device that the numbers are computed on.

    Raises:
        UserError: if nothing was measured, two measurements have the same coordinates, or the file cannot be written.
    """
    key = cell_key(experiment, parameters)  # before the block: the code that runs is the code that was imported
    weights = weights_of(parameters)
    commit, dirty = revision()
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    clock = time.perf_counter()
    recorder = Recorder(
        scratch=Path(scratch) if scratch else None, part=(part[0], part[1]) if part else None, pieces=pieces or 1
    )
    yield recorder
    if part:
        return
    if not recorder.measurements:
        raise UserError(f"{profile}/{experiment}/{cell} measured nothing; a record needs at least one measurement")
    seconds = time.perf_counter() - clock
    if is_training(experiment):
        seconds = sum(m.value for m in recorder.measurements if m.metric == "seconds")
        weights = made_by(recorder.measurements)
    try:
        provenance = Provenance(
            profile=profile,
            experiment=experiment,
            cell=cell,
            parameters=dict(parameters),
            key=key,
            weights=weights,
            feature_net=parameters.get("features"),
            device=device_name(device),
            python=platform.python_version(),
            packages=package_versions(),
            revision=commit,
            dirty=dirty,
            started=started,
            wall_s=round(seconds, 3),
        )
        record = Record(provenance=provenance, measurements=recorder.measurements)
    except ValidationError as error:
        raise UserError(f"{profile}/{experiment}/{cell}: {complaint(error)}") from None
    write(record, Path(out) if out else RESULTS)
    if scratch:
        shutil.rmtree(scratch, ignore_errors=True)
