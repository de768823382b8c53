"""A real SLURM of one node on this machine, on loopback, with a configuration of its own (Debian, as root).

It believes that it has two GPUs.

    python tests/slurm/one_node.py start FOLDER    install what is missing, start it; FOLDER takes logs and state
    python tests/slurm/one_node.py stop            stop it, remove its configuration

No systemd, no cgroups and no accounting are needed. The configuration lies where SLURM looks by itself, since Snakemake
hands no ``SLURM_CONF`` on to its jobs; one that somebody else has written is left alone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

CONFIGURATION = Path("/etc/slurm/slurm.conf")
MARK = "# Written by tests/slurm/one_node.py of fewstep.\n"
DEVICES = CONFIGURATION.with_name("gres.conf")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
SETTINGS = """\
ClusterName=fewstep
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=200000
GresTypes=gpu
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
{node} NodeAddr=127.0.0.1 Gres=gpu:2
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


TWO_GPUS = """\
# SLURM only counts them and says which; no job of the tests computes on one.
AutoDetect=off
Name=gpu File=/dev/null
Name=gpu File=/dev/zero
"""


def start(folder: Path) -> None:
    """Starts munged, slurmctld and slurmd, and waits until the node takes jobs.

    Raises:
        SystemExit: if that cannot be on this machine; says in one line what is missing.
    """
    if os.geteuid() != 0:
        sys.exit("a SLURM of one's own is started as root: slurmd starts jobs for other users")
    if any(path.exists() and not path.read_text().startswith(MARK) for path in (CONFIGURATION, DEVICES)):
        sys.exit(f"{CONFIGURATION.parent} belongs to another SLURM; it is left alone, and none is started here")
    if missing := [name for name in PROGRAMS if not shutil.which(name)]:
        if not shutil.which("apt-get"):
            sys.exit(f"{', '.join(missing)} not found: install SLURM and munge (Debian: slurm-wlm munge)")
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        for command in (["update"], ["install", "--yes", "--no-install-recommends", "slurm-wlm", "munge"]):
            subprocess.run(["apt-get", "--quiet", *command], check=True, env=environment)
    stop()  # one that a killed test has left
    folder = folder.resolve()
    for name in ("munge", "state", "spool"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name).chmod(0o755)
    key = folder / "munge" / "key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    files = {"key-file": key, **{f"{name}-file": folder / "munge" / name for name in ("log", "pid", "seed")}}
    arguments = [f"--{name}={path}" for name, path in {**files, "socket": folder / "munge" / "socket"}.items()]
    subprocess.run(["munged", "--force", *arguments], check=True, capture_output=True)
    node = subprocess.run(["slurmd", "-C"], check=True, capture_output=True, text=True).stdout.splitlines()[0]
    host = node.split()[0].removeprefix("NodeName=")
    CONFIGURATION.write_text(MARK + SETTINGS.format(host=host, folder=folder, node=node))
    DEVICES.write_text(MARK + TWO_GPUS)
    subprocess.run(["slurmctld", "-c"], check=True)
    start_slurmd()
    wait_until_idle()


def start_slurmd() -> None:
    """Starts the daemon of the node; jobs that outlived an earlier one are taken up."""
    subprocess.run(["slurmd"], check=True)


def kill_slurmd(folder: Path) -> None:
    """``kill -9`` of the daemon of the node."""
    process = int((folder / "slurmd.pid").read_text())
    os.kill(process, signal.SIGKILL)
    _wait_for_end(process)


def wait_until_idle(seconds: float = 60.0) -> None:
    """Waits until the node is there and has no job."""
    end = time.monotonic() + seconds
    while (state := _states()) != "idle":
        if time.monotonic() > end:
            sys.exit(f"the node is not idle after {seconds:.0f} s but {state or 'unknown'}; see the logs")
        time.sleep(0.5)


def _states() -> str:
    return subprocess.run(["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True).stdout.strip()


def stop() -> None:
    """Cancels all jobs, stops the daemons and removes the configuration; does nothing where none was started."""
    if not CONFIGURATION.exists() or not (text := CONFIGURATION.read_text()).startswith(MARK):
        return
    folder = Path(text.partition("SlurmdSpoolDir=")[2].splitlines()[0]).parent
    subprocess.run(["scancel", "--me"], capture_output=True)
    with contextlib.suppress(SystemExit):
        wait_until_idle()
    for name in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
        with contextlib.suppress(OSError, ValueError):
            process = int((folder / name).read_text())
            os.kill(process, signal.SIGTERM)
            _wait_for_end(process)
    CONFIGURATION.unlink()
    DEVICES.unlink(missing_ok=True)


def _wait_for_end(process: int) -> None:
    status = Path(f"/proc/{process}/status")
    with contextlib.suppress(OSError):  # it is gone
        while "\nState:\tZ" not in status.read_text():
            time.sleep(0.1)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["start", folder]:
            start(Path(folder))
        case ["stop"]:
            stop()
        case _:
            sys.exit(__doc__)
