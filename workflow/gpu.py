"""The whole of a profile on one GPU, within a given time: data, training, measurements, records.

    python workflow/gpu.py [PROFILE] --minutes N

`make gpu` calls it. What is there already is left alone: weights whose training has a record, and records of the code
as it is. The rest is done in the order of workflow/experiments.yml, most worthy first (of an experiment with `first: n`
n cells, and the others after all other experiments); nothing is started that will not end in time, what is under way at
the end is given up, and the next call goes on. A training saves its state and goes on from there. A cell whose samples
are cut into ranges (`shards: n`) is started when one range fits: what is drawn is kept.

The cells run in this one process, not as jobs with a kernel each: the network is compiled, and the features of the
reference are taken, once. No Jupyter is needed. A record is the same however its cell was run.

Exit code 0: all done, or time is up; 1: a cell failed; 2: a mistake in the request.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import signal
import sys
import time
import traceback
from typing import Any

import torch
from preflight import forecast, largest_piece, past, work

from fewstep import cifar, data, profiles, results, shards, solvers
from fewstep.errors import NotAtHandError, UserError
from fewstep.provenance import ROOT, device_name
from fewstep.train import UnfinishedError

GUESS = 180.0
"""Seconds that a cell of an unknown kind is taken to need at least."""

RATE = 5000.0
"""Images per second through the network that a cell of an unknown kind is taken to reach: a large card in float32."""

SPARE = 30.0
"""Seconds that a training leaves for saving its state."""


class TimeIsUpError(BaseException):
    """Raised by the alarm; not an Exception, so that no cell catches it."""


def execute(cell: results.Cell) -> None:
    """Runs the code cells of a notebook in a fresh namespace; the cell's parameters replace the notebook's."""
    notebook = ROOT / "book" / "experiments" / f"{cell.experiment}.ipynb"
    record_as: dict[str, Any] = {"profile": cell.profile, "experiment": cell.experiment, "cell": cell.name}
    record_as |= {"parameters": cell.parameters, "scratch": str(cell.scratch())}
    if cell.shards is not None:
        record_as["pieces"] = cell.shards
    given = {**cell.parameters, "record_as": record_as}
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for number, part in enumerate(json.loads(notebook.read_text("utf-8"))["cells"]):
        if part["cell_type"] == "code":
            exec(compile("".join(part["source"]), f"{notebook.name}[{number}]", "exec"), namespace)
            if "parameters" in part["metadata"].get("tags", []):
                unknown = sorted(set(given) - set(namespace))
                if unknown:
                    raise UserError(f"{notebook} has no parameter {unknown[0]!r}")
                namespace.update(given)


def by_worth(profile: str) -> list[results.Cell]:
    """The cells to be run, in their order."""
    late: list[results.Cell] = []
    planned = results.planned()[profile]
    for name, experiment in planned.items():
        late += results.cells(profile, name)[experiment.first :] if experiment.first else []
    stale = results.stale_cells(profile)
    return [cell for cell in stale if cell not in late] + [cell for cell in stale if cell in late]


def kept(cell: results.Cell) -> float:
    """Seconds that it took to draw the samples of a cell that are kept from an earlier call."""
    seconds = 0.0
    for path in cell.scratch().glob("*/[0-9]*.safetensors") if cell.shards else ():
        with contextlib.suppress(UserError):  # no shard: it will be made anew
            seconds += shards.load(path).seconds
    return seconds


def run(profile: str, minutes: float) -> int:
    """Does what is missing, as far as the time goes. Returns the exit code."""
    end = time.time() + 60 * minutes
    os.environ.setdefault("MPLBACKEND", "Agg")
    # The trainings look at it; one that was set already is kept if it is earlier.
    os.environ["FEWSTEP_DEADLINE"] = str(min(end - SPARE, float(os.environ.get("FEWSTEP_DEADLINE", "inf"))))
    os.chdir(ROOT)
    setting = profiles.get(profile)
    for cell in results.cells(profile):
        for name in cell.parameters.get("solvers", ()):
            solvers.get(name)
    training = [cell for name in results.training(profile) for cell in results.cells(profile, name)]
    if setting.dataset == "cifar10":
        for part in cifar.PARTS:  # a bad file is named before anything is spent
            print(f"data: {len(cifar.load(part).labels)} {part} images", flush=True)
    else:
        print(f"data: {len(data.load(setting.dataset).labels)} images", flush=True)

    cuda = torch.cuda.is_available()
    print(f"device: {device_name('cuda' if cuda else 'cpu')}", flush=True)
    before = past(results.cells(profile), [results.RESULTS])
    seen = [(one.cell, one.seconds) for one in before if one.cuda == cuda]
    finished = failed = left = 0
    later = 0.0  # seconds that the cells which are left will take

    def attempt(cell: results.Cell) -> bool:
        nonlocal finished, failed, left, later
        name = f"{profile}/{cell.experiment}/{cell.name}"
        remaining = end - time.time()
        # The first cell compiles, which makes its rate too high: the smallest one is nearest to the truth.
        whole = GUESS
        if not results.is_training(cell.experiment):
            whole = forecast(cell, seen, min) or max(GUESS, work(cell) / RATE)
        drawn = kept(cell)
        needed = max(whole - drawn, 0)
        piece = min(needed, whole * largest_piece(cell))
        if remaining <= piece:
            left += 1
            later += needed
            print(f"later  {name}: needs about {needed:.0f} s, {max(0, remaining):.0f} s are left", flush=True)
            return False
        print(f"start  {name}", flush=True)
        started = time.perf_counter()
        signal.setitimer(signal.ITIMER_REAL, max(remaining, 0.001), 5.0)  # again, should the first be lost in a __del__
        try:
            try:
                execute(cell)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)  # here: it must not ring while its own error is handled
        except TimeIsUpError:
            left += 1
            later += max(whole - kept(cell), 0)
            print(f"later  {name}: time is up", flush=True)
            return False
        except UnfinishedError as error:
            left += 1
            print(f"later  {name}: {error}", flush=True)
            return False
        except NotAtHandError as error:
            left += 1
            print(f"later  {name}: {error}", flush=True)
            return False
        except UserError as error:
            failed += 1
            print(f"failed {name}: {error}", flush=True)
            return False
        except torch.OutOfMemoryError:  # of a training: its batch belongs to what is trained, and is not halved
            failed += 1
            print(f"failed {name}: out of GPU memory; free some, or take a smaller batch", flush=True)
            return False
        except Exception:  # whatever it is: it is printed and counted, and the cells after it go on
            failed += 1
            print(f"failed {name}\n{traceback.format_exc(limit=-3)}", flush=True)
            return False
        finally:
            gc.collect()  # functions of a notebook and its names hold each other, and with them the GPU's memory
        seconds = time.perf_counter() - started
        finished += 1
        seen.append((cell, drawn + seconds))
        print(f"done   {name} {seconds:.1f} s", flush=True)
        return True

    # A change of the code makes a record of training stale, but not the weights: `make train` trains anew.
    trained = [cell.path().exists() or attempt(cell) for cell in training]
    if all(trained):
        for cell in by_worth(profile):
            attempt(cell)
    done = f"{60 * minutes - (end - time.time()):.0f} s"
    print(f"{profile}: {finished} cells done, {left} left, {failed} failed in {done}", flush=True)
    if later:
        print(f"what is left will take about {later / 3600:.1f} hours", flush=True)
    return 1 if failed else 0


def main(arguments: list[str] | None = None) -> int:
    """The command line above."""
    parser = argparse.ArgumentParser(description="Run a profile on one GPU, within a given time.")
    parser.add_argument("profile", nargs="?", default="cifar10", help="a profile of workflow/experiments.yml")
    parser.add_argument("--minutes", type=float, default=30.0, help="time for all (default 30)")
    options = parser.parse_args(arguments)

    def ring(*_: object) -> None:
        raise TimeIsUpError

    signal.signal(signal.SIGALRM, ring)
    try:
        if not options.minutes > 0:
            raise UserError(f"minutes must be positive, got {options.minutes:g}")
        return run(options.profile, options.minutes)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
