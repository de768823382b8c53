"""The command that a user types, killed at random moments and typed again, until all is done.

Four kinds of process make a run: the *driver* (``workflow/run.py``), *Snakemake*, the *papermill* child of each cell
(``workflow/run_cell.py``) and its notebook's *kernel*. :func:`kill_and_repeat` sends ``kill -9`` to one of them at each
of the moments asked for. Where the driver ends, the same command is started again at once, with no manual step and
without waiting for what the dead left behind. All the while :class:`Watch` notes which processes there are and when
records change, so that what was computed can be counted from outside.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

KINDS = ("driver", "snakemake", "papermill", "kernel")
ENDING = 120.0
"""Seconds after which a process that has lost its run is an orphan."""


def kind_of(command: Sequence[str]) -> str | None:
    """Which of :data:`KINDS` a command line is; None for others, such as a shell."""
    scripts = [os.path.basename(argument) for argument in command[:4]]
    if "run.py" in scripts:
        return "driver"
    if "run_cell.py" in scripts:
        return "papermill"
    modules = [word for flag, word in itertools.pairwise(command) if flag == "-m"]
    return {"snakemake": "snakemake", "ipykernel_launcher": "kernel"}.get(modules[0]) if modules else None


@dataclass
class Start:
    """A papermill child: which cell it runs, and whether it does so without need.

    Attributes:
        cell: ``experiment/cell``.
        part: the range of samples that it draws, where the cell is cut into jobs.
        at: when it was seen first, in seconds since the campaign began.
        needless: whether the cell had its record already.
    """

    cell: str
    part: str
    at: float
    needless: bool


@dataclass
class Kill:
    """One kill, and what came after.

    Attributes:
        kind: of the process.
        at: when, in seconds since the campaign began.
        running: the cells that were running.
        ended: whether the driver ended (then the command was typed again).
        recovered: seconds until the next papermill child started; None if none was needed any more.
    """

    kind: str
    at: float
    running: list[str]
    ended: bool = False
    recovered: float | None = None


@dataclass
class Report:
    """What happened: the kills, and how often each cell was started and each record written."""

    kills: list[Kill] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    writes: dict[str, int] = field(default_factory=dict)
    commands: int = 0
    longest_orphan: float = 0.0
    seconds: float = 0.0
    complaints: list[str] = field(default_factory=list)


class Watch:
    """The processes of a run and its records, as seen from outside; :meth:`look` is to be called often.

    Args:
        records: the record of each cell (``experiment/cell``).
    """

    def __init__(self, records: Mapping[str, Path]) -> None:
        self.records = records
        self.began = time.monotonic()
        self.known: dict[psutil.Process, str | None] = {}
        self.cells: dict[psutil.Process, Start] = {}
        self.seen: dict[psutil.Process, float] = {}
        self.stamps = {cell: _stamp(path) for cell, path in records.items()}
        self.written: dict[str, float] = {}
        self.report = Report(writes=dict.fromkeys(records, 0))
        self.driver: psutil.Process | None = None
        self.orphaned: dict[psutil.Process, float] = {}

    @property
    def now(self) -> float:
        """Seconds since the campaign began."""
        return time.monotonic() - self.began

    def look(self) -> None:
        """Takes in what is new."""
        mine: list[psutil.Process] = []
        if self.driver is not None:
            with contextlib.suppress(psutil.Error):
                mine = [self.driver, *self.driver.children(recursive=True)]
        for process in mine:
            self.orphaned.pop(process, None)
            if process not in self.known:  # perhaps a fork that is still to become a program: the next look will tell
                self.known[process], self.seen[process] = None, self.now
            elif self.known[process] is None:
                self.known[process] = self._kind(process)
        self.known = {process: kind for process, kind in self.known.items() if _lives(process)}
        for process in self.known:
            if process not in mine:
                since = self.orphaned.setdefault(process, self.now)
                self.report.longest_orphan = max(self.report.longest_orphan, self.now - since)
        for cell, path in self.records.items():
            stamp = _stamp(path)
            if stamp != self.stamps[cell]:
                self.stamps[cell] = stamp
                self.report.writes[cell] += stamp is not None
                self.written.setdefault(cell, self.now)

    def _kind(self, process: psutil.Process) -> str | None:
        try:
            command = process.cmdline()
        except psutil.Error:
            return None
        kind = kind_of(command)
        if kind == "papermill" and process not in self.cells:
            script = next(i for i, word in enumerate(command) if os.path.basename(word) == "run_cell.py")
            cell = "/".join(command[script + 2 : script + 4])
            part = command[command.index("--part") + 1] if "--part" in command else ""
            born = self.seen[process]
            start = Start(cell, part, born, needless=self.written.get(cell, born) < born)
            self.cells[process] = start
            self.report.starts.append(start)
            for kill in self.report.kills:
                if kill.recovered is None:
                    kill.recovered = start.at - kill.at
        return kind

    def alive(self, kind: str) -> list[psutil.Process]:
        """The processes of a kind that belong to the present run."""
        return sorted(
            (process for process, what in self.known.items() if what == kind and process not in self.orphaned),
            key=lambda process: process.pid,
        )

    def running(self) -> dict[str, float]:
        """The cells that are running, and since when."""
        return {self.cells[process].cell: self.cells[process].at for process in self.alive("papermill")}


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def uniform_moments(estimate: Mapping[str, float], jobs: int, chance: random.Random) -> Callable[[Watch, int], float]:
    """When to kill next: the first of the kills that are left, all uniform over the work that is left.

    Args:
        estimate: seconds that each cell takes.
        jobs: cells at a time.
        chance: random numbers.
    """

    def wait(watch: Watch, left: int) -> float:
        spent = {cell: watch.now - since for cell, since in watch.running().items()}
        missing = [cell for cell, stamp in watch.stamps.items() if stamp is None]
        work = sum(max(0.0, estimate[cell] - spent.get(cell, 0.0)) for cell in missing) / jobs
        return work * (1 - chance.random() ** (1 / left))  # the least of `left` uniform numbers

    return wait


def kill_and_repeat(
    command: Sequence[str],
    environment: Mapping[str, str],
    root: Path,
    records: Mapping[str, Path],
    victims: Sequence[str],
    wait: Callable[[Watch, int], float],
    chance: random.Random,
    *,
    limit: float = 3600.0,
    tick: float = 0.1,
    say: Callable[[str], object] = print,
) -> Report:
    """Runs a command until it has succeeded, and kills one of its processes for each of ``victims`` on the way.

    Args:
        command: what the user types.
        environment: of the command.
        root: the clone that it works in; its output goes to ``_build/kill.log`` there.
        records: the record that each cell (``experiment/cell``) shall leave.
        victims: the kind (:data:`KINDS`) of each process to kill, in this order.
        wait: seconds to the next kill, given how many are left; counted while there is a process of its kind.
        chance: random numbers, to choose among processes of the kind.
        limit: seconds after which a command that has not ended has failed.
        tick: seconds between two looks at the processes.
        say: called with a line for each event.

    Returns:
        The report; what went wrong stands in its ``complaints``.
    """
    watch = Watch(records)
    report = watch.report
    log = root / "_build" / "kill.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    kills = len(victims)
    due = wait(watch, kills) if kills else 0.0
    while True:
        report.commands += 1
        disturbed = False
        started, last = watch.now, watch.now
        with open(log, "ab") as output:
            where = output.tell()
            driver = subprocess.Popen(command, cwd=root, env=dict(environment), stdout=output, stderr=output)
        watch.driver = psutil.Process(driver.pid)
        while driver.poll() is None:
            watch.look()
            left = kills - len(report.kills)
            there = watch.alive(victims[-left]) if left else []
            due -= watch.now - last if there else 0
            last = watch.now
            if there and due <= 0:
                victim = chance.choice(there)
                kill = Kill(victims[-left], watch.now, sorted(watch.running()))
                with contextlib.suppress(psutil.Error):  # it may end just now; then the next look finds another
                    victim.kill()
                    report.kills.append(kill)
                    disturbed = True
                    done = sum(stamp is not None for stamp in watch.stamps.values())
                    say(
                        f"{_clock(watch.now)} kill {len(report.kills)} of {kills}: {kill.kind}; "
                        f"{done} of {len(records)} records; running: {', '.join(kill.running) or '-'}"
                    )
                    if left > 1:
                        due = wait(watch, left - 1)
            if last - started > limit:
                report.complaints.append(f"the command did not end within {limit:.0f} s")
                driver.kill()
            time.sleep(tick)
        watch.look()
        if disturbed:
            report.kills[-1].ended = True
        if report.complaints:
            break
        missing = [cell for cell, path in records.items() if not path.exists()]
        if driver.returncode == 0 and missing:
            report.complaints.append(f"the command ended well without the records of {', '.join(missing)}")
        if driver.returncode != 0 and not disturbed:
            said = log.read_bytes()[where:].decode(errors="replace").replace("\r", "\n").splitlines()
            report.complaints.append("\n  ".join(["undisturbed, the command failed:", *said[-12:]]))
        if driver.returncode == 0 or report.complaints:
            break
    watch.driver = None
    end = watch.now + ENDING
    while watch.known and watch.now < end:
        time.sleep(tick)
        watch.look()
    report.seconds = watch.now
    report.complaints += _complaints(watch, kills)
    return report


def _complaints(watch: Watch, kills: int) -> Iterator[str]:
    """What a campaign must not do, apart from the values."""
    report = watch.report
    if len(report.kills) < kills:
        yield f"only {len(report.kills)} of {kills} kills came before all was done"
    for process, kind in watch.known.items():
        yield f"an orphan is left: {kind or 'a process'} {process.pid}"
    if report.longest_orphan > ENDING:
        yield f"an orphan lived {report.longest_orphan:.0f} s"
    for start in report.starts:
        if start.needless:
            yield f"{start.cell} was started again at {_clock(start.at)} although it had its record"
    for cell, count in report.writes.items():
        if count != 1:
            yield f"the record of {cell} was written {count} times"


def leftovers(root: Path) -> list[str]:
    """Files that only a run in progress has in a clone: temporary ones, notebooks not yet done or failed, shards."""
    temporary = [path for path in root.rglob("*") if re.fullmatch(r"\..+\.tmp", path.name)]
    notebooks = (root / "_build").rglob("*.failed.ipynb")
    shards = (path for path in (root / "_build" / "shards").rglob("*") if path.is_file())
    return sorted(str(path.relative_to(root)) for path in [*temporary, *notebooks, *shards])


def values(paths: Iterable[Path]) -> dict[str, str]:
    """The measurements of each record (``experiment/cell``) as text, bit for bit, but for those that are times."""
    found = {}
    for path in paths:
        record = json.loads(path.read_text("utf-8"))
        kept = [m for m in record["measurements"] if m["metric"] not in ("seconds", "images_per_second", "matrix_rate")]
        found[f"{path.parent.name}/{path.stem}"] = json.dumps(kept)
    return found


def table(report: Report) -> str:
    """The kills, one line each."""
    lines = [f"{'':>4}{'moment':>9}  {'victim':10}{'driver':14}{'next cell after':>16}  running"]
    for number, kill in enumerate(report.kills, 1):
        after = "-" if kill.recovered is None else f"{kill.recovered:.1f} s"
        went = "ended, again" if kill.ended else "went on"
        lines.append(
            f"{number:4d}{_clock(kill.at):>9}  {kill.kind:10}{went:14}{after:>16}  {', '.join(kill.running) or '-'}"
        )
    return "\n".join(lines)


def _clock(seconds: float) -> str:
    return f"{seconds // 60:.0f}:{seconds % 60:04.1f}"
