"""What `make` calls to run experiments.

    python workflow/run.py experiments PROFILE    run the cells whose record is missing or stale
                       ... PROFILE --cell NAME    only this one, EXPERIMENT/CELL, or all of EXPERIMENT; may be repeated
                       ... PROFILE --force        also those whose record is as it should be
    python workflow/run.py check PROFILE          run every cell into a scratch folder, compare the numbers
                       ... PROFILE --part K/N     only the K-th of N parts of the cells; or --cell as above
    python workflow/run.py train PROFILE          run the notebooks that train its networks; or --cell as above

`experiments` and `check` start Snakemake, which runs the cells as jobs of one thread each: `--executor local` on this
machine, `--executor slurm` on a cluster, with the settings of workflow/profiles/. `--jobs N` limits how many run at a
time, `--shards N` cuts each cell that can be cut into N jobs and one that gathers. Before the first cell everything is
looked at and what the run will take is printed; `--dry-run` stops there. `experiments` with nothing to do returns at
once; its profile `paper-smoke` is workflow/smoke.py. A killed run (`kill -9` too) leaves no process and no lock behind:
the next one takes it up. Exit code 0: all is well; 1: a cell failed or a number moved; 2: a mistake in the request.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any, NoReturn

import preflight
import run_cell
import smoke
import yaml
from run_cell import BUILD
from tqdm import tqdm

from fewstep import results
from fewstep.errors import UserError, unknown
from fewstep.provenance import ROOT

HERE = Path(__file__).resolve().parent


def experiments(
    profile: str,
    *,
    executor: str = "local",
    jobs: int | None = None,
    shards: int | None = None,
    out: Path = results.RESULTS,
    work: Path = BUILD,
    every: bool = False,
    dry_run: bool = False,
    only: Collection[str] = (),
) -> int:
    """Runs the cells of a profile whose record in ``out`` is missing or stale. Returns the exit code.

    Args:
        profile: of ``workflow/experiments.yml``.
        executor: a folder of ``workflow/profiles``, or the path of one like them.
        jobs: how many jobs at a time, if not as many as the executor's profile says.
        shards: into how many parts to cut the cells that can be cut, if not as many as the plan says.
        out: folder of records.
        work: folder of executed notebooks and shards.
        every: run all cells but those that measure times, whatever ``out`` holds.
        dry_run: print what would be run and what it would take, and stop.
        only: names of cells, ``experiment/cell``, if not all are wanted.
    """
    settings = HERE / "profiles" / executor / "config.yaml"
    if not settings.is_file():
        raise unknown("executor", executor, (path.parent.name for path in settings.parents[1].glob("*/config.yaml")))
    engine = yaml.safe_load(settings.read_text("utf-8"))
    local = engine.get("executor", "local") == "local"
    at_once = jobs or (os.cpu_count() or 1 if local else engine.get("jobs", 1))
    outlook = preflight.look_ahead(profile, at_once, out, shards=shards, every=every, here=local, only=only)
    planned, stale = outlook.planned, outlook.cells
    if stale:
        print(outlook, flush=True)
    if outlook.problems:
        print(*(f"error: {line}" for line in outlook.problems), sep="\n", file=sys.stderr)
        return 2
    if not dry_run:
        tidy(profile, stale, work)
    if not stale:
        print(f"{profile}: the records of all {planned} cells are up to date")
    if not stale or dry_run:
        return 0
    config = {"profile": profile, "out": str(out), "work": str(work), "timed": "no" if every else "yes"}
    # The longest first, so that none is left alone at the end; what nothing is known of may be long.
    needs = sorted(outlook.needs, key=lambda need: -(need.seconds or math.inf))
    config["order"] = " ".join(f"{need.cell.experiment}/{need.cell.name}" for need in needs)
    if shards:
        config["shards"] = str(shards)
    if only:
        config["only"] = " ".join(only)
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(HERE / "Snakefile"), "--directory", str(BUILD)),
        *("--profile", str(settings.parent)),
    ]
    if local:
        devices = visible_devices(stale)
        config["devices"] = ",".join(devices)
        command += ["--resources", f"gpu={len(devices)}"]
    if engine.get("executor") == "slurm":
        mine = "fewstep-" + hashlib.sha256(f"{ROOT}/{profile}".encode()).hexdigest()[:12]
        cancel_orphans(mine)
        command += ["--slurm-jobname-prefix", mine]
    if jobs:
        command += ["--cores" if local else "--jobs", str(jobs)]
    # Snakemake takes a text alone for a number or strips its quotes, but reads an object as it is, all values as texts.
    command += ["--config", f"run={json.dumps(config)}"]

    parts = [run_cell.parts(cell, work / cell.scratch().relative_to(BUILD), shards) for cell in stale]
    total = len(stale) + sum(not part.exists() for part in itertools.chain(*parts))
    in_jobs = f", in {total} jobs" if total > len(stale) else ""
    print(f"{profile}: {len(stale)} of {planned} cells to run{in_jobs}", flush=True)
    BUILD.mkdir(parents=True, exist_ok=True)
    names: dict[str, str] = {}
    tail: list[str] = []
    failures = 0
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, errors="replace") as process:
        # Ctrl-C reaches Snakemake too, which ends the jobs, on a cluster too; it is waited for.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        assert process.stdout is not None
        with tqdm(total=total, unit="job", desc=profile) as bar:
            for line in process.stdout:
                if started := re.match(r"Job (\d+): (.*)", line):
                    names[started[1]] = started[2]
                elif (finished := re.match(r"Finished jobid: (\d+)", line)) and finished[1] in names:
                    bar.update()
                    bar.set_postfix_str(names.pop(finished[1]))
                elif line.startswith(("failed ", "| ")):
                    bar.write(line.rstrip(), file=sys.stderr)
                    failures += line.startswith("failed ")
                else:
                    tail.append(line)
    signal.signal(signal.SIGINT, interrupt)
    left = results.stale_cells(profile, out, timed=not every, only=only)
    if left or process.returncode:
        if not failures:  # something else than a cell: Snakemake says what
            sys.stderr.writelines(tail[-20:])
        print(f"{profile}: {len(left)} of {planned} cells have no record of the code as it is", file=sys.stderr)
        return 1
    return 0


def again(profile: str, *, dry_run: bool = False, only: Collection[str] = (), **how: Any) -> int:
    """Runs cells whatever records they have, and replaces the records when all are made anew. Returns the exit code.

    Until then the old ones stay, and a run that was killed or failed goes on with what is missing.

    The arguments are those of :func:`experiments`.
    """
    scratch = BUILD / "again" / profile
    out = scratch / "results"
    failed = experiments(profile, out=out, work=scratch, dry_run=dry_run, only=only, **how)
    if failed or dry_run:
        return failed
    for cell in results.cells(profile, only=only):
        record = cell.path(results.RESULTS)
        record.parent.mkdir(parents=True, exist_ok=True)
        os.replace(cell.path(out), record)
    shutil.rmtree(scratch)
    return 0


def named(cells: Iterable[results.Cell], texts: Iterable[str]) -> list[str]:
    """The cells that are asked for, in texts of one name or several; an experiment's name stands for its cells."""
    names = list(dict.fromkeys(name for text in texts for name in text.split()))
    known: dict[str, list[str]] = {}
    for cell in cells:
        known.setdefault(cell.experiment, []).append(f"{cell.experiment}/{cell.name}")
    return [cell for name in names for cell in known.get(name, [name])]


def tidy(profile: str, stale: Iterable[results.Cell], work: Path) -> None:
    """Removes what only a cell in progress needs, for cells that have their record: a kill came just after it."""
    missing = {(cell.experiment, cell.name) for cell in stale}
    for cell in results.cells(profile):
        if (cell.experiment, cell.name) not in missing:
            (work / "experiments" / profile / cell.experiment / f"{cell.name}.failed.ipynb").unlink(missing_ok=True)
            for folder in (work / "shards" / profile / cell.experiment).glob(f"{cell.name}.*"):
                if re.fullmatch(r"[0-9a-f]+", folder.name[len(cell.name) + 1 :]):
                    shutil.rmtree(folder, ignore_errors=True)


def visible_devices(cells: Iterable[results.Cell]) -> list[str]:
    """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES names them; none if no cell wants one."""
    if not any(cell.gpu for cell in cells):
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        import torch

        return [str(number) for number in range(torch.cuda.device_count())]
    # CUDA, too, ignores what comes after the first entry that names no device.
    entries = (entry.strip() for entry in named.split(","))
    return list(itertools.takewhile(re.compile(r"\d+|(GPU|MIG)-[\w/-]+").fullmatch, entries))


def cancel_orphans(prefix: str) -> None:
    """Cancels the SLURM jobs that a killed run of this clone and profile has left, and waits until they are gone.

    They would write to the same places as the new run's jobs.
    """
    try:
        while True:
            queue = ["squeue", "--me", "--noheader", "--format", "%j %i"]
            lines = subprocess.run(queue, capture_output=True, text=True, check=True).stdout.splitlines()
            orphans = [line.split()[-1] for line in lines if line.startswith(prefix)]
            if not orphans:
                return
            subprocess.run(["scancel", *orphans], capture_output=True, check=True)
            time.sleep(1)
    except FileNotFoundError:
        raise UserError("there is no SLURM here: squeue is missing; use EXECUTOR=local") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines() or [f"{error.cmd[0]} failed"]
        raise UserError(f"SLURM does not answer: {said[-1]}; try again when it does, or use EXECUTOR=local") from None


def check(
    profile: str,
    *,
    executor: str = "local",
    jobs: int | None = None,
    shards: int | None = None,
    dry_run: bool = False,
    only: Collection[str] = (),
) -> int:
    """Runs cells of a profile anew and compares each number with the committed record. Returns the exit code.

    Cells that measure the time of a machine are left out.

    The arguments are those of :func:`experiments`.
    """
    planned = results.cells(profile, timed=False, only=only)
    scratch = BUILD / "check" / profile
    if not dry_run:
        shutil.rmtree(scratch, ignore_errors=True)
    failed = experiments(
        profile,
        executor=executor,
        jobs=jobs,
        shards=shards,
        out=scratch / "results",
        work=scratch,
        every=True,
        dry_run=dry_run,
        only=only,
    )
    if dry_run or failed == 2:
        return failed
    names, wanted = dict.fromkeys(cell.experiment for cell in planned), {f"{profile}/{cell}" for cell in only}
    committed, fresh = (
        [one for name in names for one in results.load(profile, name, folder) if not only or one.name in wanted]
        for folder in (results.RESULTS, scratch / "results")
    )
    comparison = results.compare(committed, fresh)
    for change in comparison.changes:
        print(change)
    print(f"{comparison.compared} numbers compared, {len(comparison.changes)} moved")
    return 1 if failed or comparison.changes else 0


def share(profile: str, part: tuple[int, int]) -> list[str]:
    """The k-th of n parts of the cells of a check: every n-th, from the longest to the shortest by their records."""
    cells = results.cells(profile, timed=False)
    took = {past.cell.path(): past.seconds for past in preflight.past(cells, [results.RESULTS])}
    if part[1] > len(cells):
        raise UserError(f"profile {profile} has {len(cells)} cells to check, which are no {part[1]} parts")
    longest_first = sorted(cells, key=lambda cell: -took.get(cell.path(), math.inf))
    return [f"{cell.experiment}/{cell.name}" for cell in longest_first[part[0] - 1 :: part[1]]]


def train(profile: str, texts: Iterable[str] = ()) -> int:
    """Runs the training notebooks of a profile, or the cells of them that are asked for, with all threads.

    Returns the exit code.
    """
    failed = 0
    cells = [cell for name in results.training(profile) or [results.TRAINING] for cell in results.cells(profile, name)]
    names = [f"{cell.experiment}/{cell.name}" for cell in cells]
    asked = named(cells, texts) or names
    for name in asked:
        if name not in names:
            raise unknown("cell", name, names)
    for cell in (cell for name, cell in zip(names, cells, strict=True) if name in asked):
        print(f"{profile}/{cell.experiment}/{cell.name}", flush=True)
        log = BUILD / "experiments" / profile / cell.experiment / f"{cell.name}.{cell.key()[:12]}.ipynb"
        failed |= not run_cell.run(cell, log, results.RESULTS, echo=True)
    return int(failed)


class Parser(argparse.ArgumentParser):
    """Says a mistake in one line, like everything else here."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())}\n")


def main(arguments: list[str] | None = None) -> int:
    """The command line above."""
    parser = Parser(description="Run the experiments of a profile.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("experiments", "run the cells whose record is missing or stale"),
        ("check", "run every cell into a scratch folder and compare with the records"),
        ("train", "run the notebooks that train the profile's networks"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("profile", help="a profile of workflow/experiments.yml")
        command.add_argument("--cell", action="append", default=[], help="only EXPERIMENT/CELL, or EXPERIMENT")
        if name == "check":
            command.add_argument("--part", type=run_cell.part_of, metavar="K/N", help="only this part of the cells")
        if name == "experiments":
            command.add_argument("--force", action="store_true", help="measure anew what has a record, too")
        if name != "train":
            command.add_argument("--executor", default="local", help="a folder of workflow/profiles (default local)")
            command.add_argument("--jobs", type=_positive, help="jobs at a time (default: all cores; 100 on a cluster)")
            command.add_argument("--shards", type=_positive, help="jobs for the samples of each cell that can be cut")
            command.add_argument("--dry-run", action="store_true", help="print what it would take, and stop")
    options = parser.parse_args(arguments)
    run_cell.die_with_parent()
    warnings.filterwarnings("ignore", category=UserWarning, module="papermill")
    try:
        if options.command == "train":
            return train(options.profile, options.cell)
        how = {name: getattr(options, name) for name in ("executor", "jobs", "shards", "dry_run")}
        if options.command == "experiments":
            if options.profile == smoke.PROFILE:
                if options.force:
                    raise UserError(
                        f"profile {smoke.PROFILE} keeps no records and runs anew each time; without FORCE=1"
                    )
                return smoke.run(options.cell, jobs=options.jobs, dry_run=options.dry_run)
        how["only"] = named(results.cells(options.profile) if options.cell else [], options.cell)
        if options.command == "experiments" and options.force:
            return again(options.profile, **how)
        if options.command == "check" and options.part:
            if options.cell:
                raise UserError("--cell and --part exclude each other")
            how["only"] = share(options.profile, options.part)
        return {"experiments": experiments, "check": check}[options.command](options.profile, **how)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _positive(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d*", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
