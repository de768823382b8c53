"""Runs one cell of an experiment: papermill executes the notebook, the notebook writes the record.

    python workflow/run_cell.py PROFILE EXPERIMENT CELL --log NOTEBOOK [--out FOLDER] [--work FOLDER] [--threads N]
                                [--devices LIST] [--part K/N]

The executed notebook is the log. While it runs and after a failure it lies beside ``--log`` as ``CELL.failed.ipynb``;
on success it is renamed to ``--log``. With ``--part`` the notebook draws the K-th of N parts of the samples (K from 1),
keeps them for the run without ``--part``, and writes no record. Exit code 0: record written, or part drawn; 1: the
notebook failed; 2: a mistake in the request.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import functools
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import schema
from schema import HANDED_IN

from fewstep import results
from fewstep.errors import UserError, unknown
from fewstep.provenance import ROOT

BUILD = ROOT / "_build"
"""The executed notebooks and the shards."""

KERNEL_DIES = """
import ctypes, os, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(os.environ["JPY_PARENT_PID"]):
    os._exit(1)
"""
"""What a kernel executes when it starts: it ends with the process that started it, at once if that has ended already.

ipykernel itself looks at its parent once a second, which leaves time to finish a record that the next run has begun to
compute again; and a parent that ends while the kernel starts it misses where orphans do not go to process 1 (systemd).
"""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


USERS = ("UserError", "NotAtHandError", "NoSuchFileError", "UnfinishedError")
"""Errors of the package that say in one line what is wrong and what would be right."""


def die_with_parent() -> None:
    """Ends this process when the one that started it ends, however that ends (``kill -9`` too).

    Linux sends the signal itself; elsewhere a thread looks once a second. A notebook's kernel does the same
    (:data:`KERNEL_DIES`). In a job of SLURM the chain of parents ends at the shell of the job's script or step, below
    slurmstepd and not slurmd: a job outlives the death of the node's daemon, but not its own.
    """
    parent = os.getppid()
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
    else:

        def watch() -> None:
            while os.getppid() == parent:
                time.sleep(1)
            os._exit(1)

        threading.Thread(target=watch, daemon=True).start()
    if os.getppid() != parent:  # it ended before the signal was asked for
        os._exit(1)


def take_device(devices: Sequence[str]) -> None:
    """Makes this process and its kernel see one of these GPUs, which no other process has taken; none if there is none.

    Snakemake counts GPUs and does not say which; a lock on a file does, for all runs of this user on this machine. The
    kernel of the operating system frees it when this process ends, however that ends.
    """
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    folder = Path(tempfile.gettempdir()) / f"fewstep-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    while devices and not os.environ["CUDA_VISIBLE_DEVICES"]:
        for device in devices:
            lock = os.open(folder / f"gpu-{device.replace('/', '_')}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
            else:  # the lock stays open as long as this process lives
                os.environ["CUDA_VISIBLE_DEVICES"] = device
                break
        else:
            time.sleep(1)  # another run has them all


def parts(cell: results.Cell, scratch: Path | str, shards: int | None = None) -> list[Path]:
    """The executed notebooks of the jobs that share a cell's samples; none if one job draws them all.

    Args:
        cell: the cell.
        scratch: the folder of its shards.
        shards: how many jobs, if not as many as ``workflow/experiments.yml`` says.
    """
    many = (shards or cell.shards) if cell.shards else 1
    return [Path(scratch) / f"part-{k}-of-{many}.ipynb" for k in range(1, many + 1)] if many > 1 else []


def run(
    cell: results.Cell,
    log: Path,
    out: Path,
    *,
    work: Path = BUILD,
    part: tuple[int, int] | None = None,
    threads: int | None = None,
    echo: bool = False,
) -> bool:
    """Executes a cell's notebook. False if it failed; its last lines are printed and the notebook is kept.

    Args:
        cell: what to run.
        log: where the executed notebook goes.
        out: folder of records.
        work: folder that the cell's shards are kept in.
        part: (k, n): draw the k-th of n parts of the samples only, 1 ≤ k ≤ n.
        threads: threads of the numerical libraries; by default as many as they take. Sums are grouped by thread, so a
            number is the same on machines of different size only if this is fixed.
        echo: whether what the notebook prints is shown while it runs.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    for wrong in schema.mistakes([cell]):  # papermill only warns of a parameter that the notebook does not have
        raise UserError(wrong)
    # By the code as it is now: shards of other code are never merged with these.
    scratch = work.resolve() / cell.scratch().relative_to(BUILD)
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = log.with_name(f"{log.stem if part else cell.name}.failed.ipynb")
    if threads is not None:
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    os.environ.update(
        FEWSTEP_ROOT=str(ROOT),
        # The code that runs is the code that the key was made from, whatever else is installed.
        PYTHONPATH=os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")])),
        # No start-up files of the user, and no history file that parallel kernels would wait for.
        IPYTHONDIR=str(log.parent / ".ipython"),
        PYDEVD_DISABLE_FILE_VALIDATION="1",
    )
    record_as = {
        "profile": cell.profile,
        "experiment": cell.experiment,
        "cell": cell.name,
        "parameters": cell.parameters,
        "out": str(out.resolve()),
        "scratch": str(scratch),
        "part": [part[0] - 1, part[1]] if part else None,
    }
    failure = mistake = None
    before = _stamp(cell.path(out))
    execute = functools.partial(
        papermill.execute_notebook,
        str(schema.notebook(cell.experiment)),
        str(kept),
        {**cell.parameters, HANDED_IN: record_as},
        cwd=str(ROOT),
        progress_bar=False,
        stdout_file=sys.stdout if echo else None,
        stderr_file=sys.stderr if echo else None,
        extra_arguments=[f"--IPKernelApp.exec_lines=exec({KERNEL_DIES!r}, {{}})"],
    )
    try:
        try:
            execute()
        except RuntimeError as error:
            # Two kernels that start at once may have chosen the same ports: the second one dies, and begins anew.
            if "died before replying" not in str(error):
                raise
            execute()
    except PapermillExecutionError as error:
        mistake = error.evalue if error.ename in USERS else None
        lines = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback)).strip().splitlines()
        failure = "\n".join(lines[-8:])
    except Exception as error:  # the kernel died, the disk is full: whatever it is, the other cells go on
        failure = f"{type(error).__name__}: {error}"
    if failure is None and part is None and _stamp(cell.path(out)) == before:
        failure = f"the notebook wrote no record; it must use results.recording(**{HANDED_IN})"
    if mistake:  # the notebook has nothing to add
        kept.unlink(missing_ok=True)
        print_failure(name_of(cell, part), mistake)
        return False
    if failure is not None:
        where = os.path.relpath(kept, ROOT)
        print_failure(name_of(cell, part), f"{failure}\nthe notebook, with its outputs: {where}")
        return False
    if part is None:  # what other code has left
        for old in log.parent.glob(f"{cell.name}.*.ipynb"):
            if old != kept and re.fullmatch(r"[0-9a-f]+", old.name[len(cell.name) + 1 : -len(".ipynb")]):
                old.unlink()
        for folder in scratch.parent.glob(f"{cell.name}.*"):
            if re.fullmatch(r"[0-9a-f]+", folder.name[len(cell.name) + 1 :]):
                shutil.rmtree(folder, ignore_errors=True)
    kept.replace(log)
    return True


def name_of(cell: results.Cell, part: tuple[int, int] | None = None) -> str:
    """A job in words."""
    name = f"{cell.profile}/{cell.experiment}/{cell.name}"
    return f"{name} part {part[0]} of {part[1]}" if part else name


def print_failure(name: str, text: str) -> None:
    """Prints why a cell failed, in lines that workflow/run.py tells from Snakemake's."""
    print("\n".join([f"failed {name}", *(f"| {line}" for line in text.splitlines())]), flush=True)


def _stamp(path: Path) -> tuple[int, int] | None:
    # A record is replaced by a new file, so a new one shows even where the clock is coarse.
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def main(arguments: list[str] | None = None) -> int:
    """The command line above."""
    parser = argparse.ArgumentParser(description="Run one cell of an experiment.")
    for name in ("profile", "experiment", "cell"):
        parser.add_argument(name)
    parser.add_argument("--log", type=Path, required=True, help="where the executed notebook goes")
    parser.add_argument("--out", type=Path, default=results.RESULTS, help="folder of records")
    parser.add_argument("--work", type=Path, default=BUILD, help="folder of shards")
    parser.add_argument("--threads", type=int, help="threads of the numerical libraries")
    parser.add_argument("--devices", help="GPUs, with commas between them: take one that is free, and see no other")
    parser.add_argument("--part", type=part_of, metavar="K/N", help="draw this part of the samples only")
    options: Any = parser.parse_args(arguments)
    die_with_parent()
    warnings.filterwarnings("ignore", category=UserWarning, module="papermill")
    started = time.perf_counter()
    name = f"{options.profile}/{options.experiment}/{options.cell}"
    try:
        cells = {cell.name: cell for cell in results.cells(options.profile, options.experiment)}
        if options.cell not in cells:
            raise unknown(f"cell of {options.profile}/{options.experiment}", options.cell, cells)
        cell = cells[options.cell]
        name = name_of(cell, options.part)
        if options.devices is not None:
            take_device([device for device in options.devices.split(",") if device])
        how = {"work": options.work, "part": options.part, "threads": options.threads}
        if not run(cell, options.log, options.out, **how):
            return 1
    except UserError as error:
        print_failure(name, str(error))
        return 2
    print(f"done {name} {time.perf_counter() - started:.1f} s", flush=True)
    return 0


def part_of(text: str) -> tuple[int, int]:
    """Reads ``K/N`` on a command line: the K-th of N parts, K from 1."""
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    if not found or int(found[1]) > int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not K/N with 1 ≤ K ≤ N")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    sys.exit(main())
