"""What `make` calls to run experiments.

    python workflow/run.py experiments PROFILE [--jobs N]   run the cells whose record is missing or stale
    python workflow/run.py check PROFILE [--jobs N]         run every cell into a scratch folder, compare the numbers
    python workflow/run.py train PROFILE                    run the notebook that trains the profile's networks

`experiments` and `check` start Snakemake, which runs the cells as jobs of one thread each; `experiments` with nothing
to do returns at once. A killed run (`kill -9` too) leaves no process and no lock behind: the next one takes it up. Exit
code 0: all well; 1: a cell failed or a number moved; 2: a mistake in the request.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import run_cell
from tqdm import tqdm

from fewstep import results
from fewstep.errors import UserError
from fewstep.provenance import ROOT

HERE = Path(__file__).resolve().parent
BUILD = ROOT / "_build"


def experiments(profile: str, jobs: int, out: Path = results.RESULTS, logs: Path | None = None) -> int:
    """Runs the cells of a profile whose record in ``out`` is missing or stale. Returns the exit code."""
    logs = logs or BUILD / "experiments" / profile
    planned = results.cells(profile)
    stale = results.stale_cells(profile, out)
    if not stale:
        print(f"{profile}: the records of all {len(planned)} cells are up to date")
        return 0
    run_cell.check_parameters(stale)
    print(f"{profile}: {len(stale)} of {len(planned)} cells to run, {jobs} at a time", flush=True)
    logs.mkdir(parents=True, exist_ok=True)
    settings = {"profile": profile, "out": out, "logs": logs}
    command = [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(HERE / "Snakefile"), "--directory", str(BUILD)),
        *("--cores", str(jobs), "--keep-going", "--scheduler", "greedy"),
        *("--quiet", "host", "progress", "reason", "rules"),
        # The targets are the stale cells: an executed notebook that is there already says nothing about their records.
        "--forceall",
        # What a killed run leaves behind stops nobody: a record appears whole or not at all.
        *("--nolock", "--rerun-incomplete"),
        *("--config", *(f"{name}={value}" for name, value in settings.items())),
    ]
    tail: list[str] = []
    failures = 0
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, errors="replace") as process:
        assert process.stdout is not None
        with tqdm(total=len(stale), unit="cell", desc=profile) as bar:
            for line in process.stdout:
                state, _, rest = line.rstrip().partition(" ")
                if state in ("done", "failed"):
                    bar.update()
                if state == "done":
                    bar.set_postfix_str(rest)
                elif state in ("failed", "|"):
                    bar.write(line.rstrip(), file=sys.stderr)
                    failures += state == "failed"
                else:
                    tail.append(line)
    left = results.stale_cells(profile, out)
    if left or process.returncode:
        if not failures:  # something else than a cell: Snakemake says what
            sys.stderr.writelines(tail[-20:])
        print(f"{profile}: {len(left)} of {len(planned)} cells have no record of the code as it is", file=sys.stderr)
        return 1
    return 0


def check(profile: str, jobs: int) -> int:
    """Runs every cell of a profile anew and compares each number with the committed record. Returns the exit code."""
    planned = results.cells(profile)
    scratch = BUILD / "check" / profile
    shutil.rmtree(scratch, ignore_errors=True)
    failed = experiments(profile, jobs, scratch / "results", scratch / "experiments")
    names = dict.fromkeys(cell.experiment for cell in planned)
    committed = [record for name in names for record in results.load(profile, name)]
    fresh = [record for name in names for record in results.load(profile, name, scratch / "results")]
    comparison = results.compare(committed, fresh)
    for change in comparison.changes:
        print(change)
    print(f"{comparison.compared} numbers compared, {len(comparison.changes)} moved")
    return 1 if failed or comparison.changes else 0


def train(profile: str) -> int:
    """Runs the training notebooks of a profile, with all threads. Returns the exit code."""
    failed = 0
    for cell in [
        cell for name in results.training(profile) or [results.TRAINING] for cell in results.cells(profile, name)
    ]:
        print(f"{profile}/{cell.experiment}/{cell.name}", flush=True)
        log = BUILD / "experiments" / profile / cell.experiment / f"{cell.name}.{cell.key()[:12]}.ipynb"
        failed |= not run_cell.run(cell, log, results.RESULTS, echo=True)
    return int(failed)


def main(arguments: list[str] | None = None) -> int:
    """The command line above."""
    parser = argparse.ArgumentParser(description="Run the experiments of a profile.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("experiments", "run the cells whose record is missing or stale"),
        ("check", "run every cell into a scratch folder and compare with the records"),
        ("train", "run the notebook that trains the profile's networks"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("profile", help="a profile of workflow/experiments.yml")
        if name != "train":
            command.add_argument("--jobs", type=int, default=2, help="cells at a time (default 2)")
    options = parser.parse_args(arguments)
    run_cell.die_with_parent()
    warnings.filterwarnings("ignore", category=UserWarning, module="papermill")
    try:
        if options.command == "train":
            return train(options.profile)
        return {"experiments": experiments, "check": check}[options.command](options.profile, options.jobs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
