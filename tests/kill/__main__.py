"""`make test-kill`: the digits profile, killed at random moments and started again, in a clone of its own.

    python -m kill [--kills 30] [--seed 0] [--jobs 2] [--only EXPERIMENT ...] [--folder FOLDER]   (tests/ on PYTHONPATH)

The committed state is cloned, its records but those of the training are removed, and ``workflow/run.py experiments
digits`` is typed until it ends well, while :mod:`kill.campaign` kills. In the end every record must be there, readable,
written once and equal to the committed one within the tolerance of ``make check``; how many are equal bit for bit is
reported. The clone stays, with all that was written. Exit code 0: nothing was lost; 1: something was, and it is said
what; 2: a mistake in the request.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import yaml

from fewstep import results
from fewstep.errors import UserError, unknown

from . import campaign

ROOT = Path(__file__).resolve().parents[2]
PROFILE = "digits"
UNKNOWN_S = 60.0
"""Seconds that a cell is taken to need if no committed record tells."""
OVERHEAD_S = 5.0
"""Seconds until a papermill child's notebook begins."""


def prepare(folder: Path, only: list[str]) -> None:
    """A clone of the committed state, without records; of the plan only some experiments if ``only`` names any."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        raise UserError(f"{ROOT} is no git clone; the kill test works in a clone of it")
    if subprocess.run(
        [git, "-C", ROOT, "status", "--porcelain", "--", "src", "book", "workflow"], stdout=subprocess.PIPE
    ).stdout:
        print("changes that are not committed take no part in this", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run([git, "clone", "--quiet", "--local", ROOT, folder], check=True)
    for path in (folder / "data" / "results" / PROFILE).iterdir():
        if not results.is_training(path.name):
            shutil.rmtree(path)
    if only:
        plan = folder / "workflow" / "experiments.yml"
        document = yaml.safe_load(plan.read_text("utf-8"))
        for name in only:
            if name not in document[PROFILE]:
                raise unknown(f"experiment of profile {PROFILE}", name, document[PROFILE])
        document = {PROFILE: {name: document[PROFILE][name] for name in only}}
        plan.write_text(yaml.safe_dump(document, sort_keys=False), "utf-8")


def differences(cells: list[results.Cell], folder: Path) -> tuple[list[str], str]:
    """What is wrong with the records of a clone, and what the comparison with the committed ones says in a line."""
    wrong, fresh, committed = [], [], []
    for cell in cells:
        path = cell.path(folder / "data" / "results")
        try:
            fresh.append(results.read(path))
        except UserError as error:
            wrong.append(str(error))
            continue
        if cell.path().exists():
            committed.append(results.read(cell.path()))
    names = {record.name for record in committed}
    comparison = results.compare(committed, [record for record in fresh if record.name in names])
    wrong += map(str, comparison.changes)
    told = campaign.values([cell.path() for cell in cells if cell.path().exists()])
    found = campaign.values([record_of(cell, folder) for cell in cells if record_of(cell, folder).exists()])
    same = sum(found.get(path) == text for path, text in told.items())
    return wrong, (
        f"{comparison.compared} numbers compared with the committed records, {len(comparison.changes)} moved; "
        f"{same} of {len(told)} records equal bit for bit"
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line above."""
    parser = argparse.ArgumentParser(prog="python -m kill", description="Kill the digits profile at random moments.")
    parser.add_argument("--kills", type=int, default=30, help="how many (default 30)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims (default 0)")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time (default 2)")
    parser.add_argument("--only", nargs="+", default=[], metavar="EXPERIMENT", help="a part of the profile")
    parser.add_argument("--folder", type=Path, default=ROOT / "_build" / "kill", help="where the clone goes")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    try:
        prepare(folder, options.only)
        cells = results.cells(PROFILE, root=folder)
        usual = {name_of(cell): results.read(cell.path()).provenance.wall_s for cell in cells if cell.path().exists()}
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    seconds = {name_of(cell): OVERHEAD_S + usual.get(name_of(cell), UNKNOWN_S) for cell in cells}
    print(
        f"{len(cells)} cells of about {sum(seconds.values()):.0f} s in {folder}, {options.jobs} at a time, "
        f"{options.kills} kills, seed {options.seed}",
        flush=True,
    )
    kinds, moments, victims = (random.Random(f"{options.seed} {what}") for what in ("kinds", "moments", "victims"))
    report = campaign.kill_and_repeat(
        [sys.executable, "workflow/run.py", "experiments", PROFILE, "--jobs", str(options.jobs)],
        {**os.environ, "FEWSTEP_ROOT": str(folder), "PYTHONPATH": str(folder / "src")},
        folder,
        {name_of(cell): record_of(cell, folder) for cell in cells},
        [kinds.choice(campaign.KINDS) for _ in range(options.kills)],
        campaign.uniform_moments(seconds, options.jobs, moments),
        victims,
        limit=600 + 3 * sum(seconds.values()),
        tick=0.2,
        say=lambda line: print(line, flush=True),
    )
    wrong, compared = differences(cells, folder)
    complaints = [*report.complaints, *wrong]
    complaints += [f"left behind: {path}" for path in campaign.leftovers(folder)]
    starts, most = len(report.starts), len(cells) + options.kills * options.jobs
    if starts > most:
        complaints.append(f"{starts} starts of cells; at most {most} have a reason")
    again = Counter(start.cell for start in report.starts)
    print(
        f"\n{campaign.table(report)}\n\n"
        f"commands          {report.commands}\n"
        f"kills             {len(report.kills)} ({', '.join(f'{n} {kind}' for kind, n in counted(report).items())})\n"
        f"records           {sum(report.writes.values())} written for {len(cells)} cells\n"
        f"starts of cells   {starts} (at most {most}); {sum(count > 1 for count in again.values())} cells more than "
        f"once, {sum(start.needless for start in report.starts)} without need\n"
        f"longest orphan    {report.longest_orphan:.1f} s\n"
        f"time              {report.seconds:.0f} s\n"
        f"values            {compared}\n"
        f"the clone         {folder} (output of the commands: _build/kill.log)"
    )
    for complaint in complaints:
        print(f"LOST  {complaint}")
    print("something was lost" if complaints else "nothing was lost")
    return 1 if complaints else 0


def name_of(cell: results.Cell) -> str:
    """``experiment/cell``."""
    return f"{cell.experiment}/{cell.name}"


def record_of(cell: results.Cell, folder: Path) -> Path:
    """The file of its record in a clone."""
    return cell.path(folder / "data" / "results")


def counted(report: campaign.Report) -> dict[str, int]:
    """How many of each kind were killed."""
    return {kind: sum(kill.kind == kind for kill in report.kills) for kind in campaign.KINDS}


if __name__ == "__main__":
    sys.exit(main())
