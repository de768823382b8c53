"""The experiment graph on a real SLURM of one node whose daemon is killed on the way: ``make test-slurm``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import one_node
import pytest
import yaml
from test_workflow import BODY, PARAMETERS, edit, save_notebook, wait_for

from fewstep import results

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).resolve().parents[2]
HOUR = 3600.0


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A SLURM of one node; its folder."""
    folder = tmp_path_factory.mktemp("slurm")
    one_node.start(folder)
    yield folder
    one_node.stop()


@pytest.fixture
def clone(tmp_path):
    """What of a clone makes records and says of which revision they are; there are none yet."""
    folder = tmp_path / "a clone"
    for name in (
        "src",
        "book/experiments",
        "data/checkpoints",
        "workflow",
        *([".git"] if (ROOT / ".git").is_dir() else []),
    ):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return folder


@pytest.fixture
def quick(tmp_path):
    """The profile of workflow/profiles/slurm, but SLURM is asked more often."""
    settings = yaml.safe_load((ROOT / "workflow/profiles/slurm/config.yaml").read_text())
    settings["slurm-init-seconds-before-status-checks"] = 5
    (tmp_path / "quick").mkdir()
    (tmp_path / "quick/config.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "quick"


def start(clone, executor, *arguments):
    command = [sys.executable, clone / "workflow/run.py", "experiments", "digits", "--executor", executor, *arguments]
    environment = {**os.environ, "FEWSTEP_ROOT": str(clone), "PYTHONPATH": str(clone / "src")}
    log = (clone / "run.log").open("a")
    arguments = {"cwd": clone, "env": environment, "stdout": log, "stderr": log, "start_new_session": True}
    return subprocess.Popen([*map(str, command)], **arguments)


def finish(process, clone, hours=0.5):
    code = process.wait(timeout=hours * HOUR)
    return code, (clone / "run.log").read_text().replace("\r", "\n")


def records(clone):
    return sorted(str(path.relative_to(clone / "data/results")) for path in clone.glob("data/results/*/*/*.json"))


def queue(state):
    command = ["squeue", "--me", "--noheader", f"--states={state}", "--format=%i"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_the_digits_profile_outlives_the_daemon_of_its_node(slurm, clone):
    only = os.environ.get("FEWSTEP_ONLY", "").split()
    if only:
        plan = yaml.safe_load((clone / "workflow/experiments.yml").read_text())
        plan = {"digits": {name: plan["digits"][name] for name in only}}
        (clone / "workflow/experiments.yml").write_text(yaml.safe_dump(plan))
    expected = sorted(str(cell.path(Path())) for cell in results.cells("digits") if not only or cell.experiment in only)

    process = start(clone, "slurm")
    wait_for(lambda: len(records(clone)) >= max(1, len(expected) // 3) or process.poll() is not None, seconds=4 * HOUR)
    wait_for(lambda: queue("RUNNING") or process.poll() is not None, seconds=HOUR)
    assert process.poll() is None, finish(process, clone)[1]
    running = queue("RUNNING")
    one_node.kill_slurmd(slurm)
    print(f"{len(records(clone))} of {len(expected)} records; slurmd killed while {len(running)} jobs ran", flush=True)
    time.sleep(15)
    one_node.start_slurmd()
    code, said = finish(process, clone, hours=6)
    assert code == 0, said
    assert records(clone) == expected

    # They are whole, of this code, and the committed ones of this code have the same numbers.
    code, said = finish(start(clone, "slurm"), clone)
    assert code == 0 and f"the records of all {len(expected)} cells are up to date" in said
    fresh = {path: results.read(clone / "data/results" / path) for path in expected}
    known = {path: results.read(results.RESULTS / path) for path in expected if (results.RESULTS / path).exists()}
    same = [path for path, record in known.items() if record.provenance.key == fresh[path].provenance.key]
    comparison = results.compare([known[path] for path in same], [fresh[path] for path in same])
    assert not comparison.changes, "\n".join(map(str, comparison.changes))
    print(f"{len(expected)} records, {comparison.compared} numbers like the committed ones", flush=True)


def test_a_failure_is_shown_and_a_new_run_ends_what_a_killed_one_has_left(slurm, clone, quick):
    (clone / "workflow/experiments.yml").write_text(
        "digits: {toy: {cells: {short: {fail: true}, long: {solver: deis-tab1, wait: 3600.0}}}}"
    )
    save_notebook(clone, PARAMETERS, BODY)
    process = start(clone, quick)
    wait_for(lambda: "failed digits/toy/short" in (clone / "run.log").read_text(), seconds=0.2 * HOUR)
    wait_for(lambda: queue("RUNNING"), seconds=0.2 * HOUR)
    process.kill()
    process.wait()
    assert "| RuntimeError: the network returned NaN at call 3" in (clone / "run.log").read_text()
    orphans = queue("RUNNING")

    edit(clone / "workflow/experiments.yml", "wait: 3600.0", "wait: 0.0")
    edit(clone / "workflow/experiments.yml", "fail: true", "fail: false")
    code, said = finish(start(clone, quick), clone)
    assert code == 0, said
    assert not set(orphans) & set(queue("RUNNING"))
    assert records(clone) == ["digits/toy/long.json", "digits/toy/short.json"]


def test_ctrl_c_cancels_the_jobs(slurm, clone, quick):
    (clone / "workflow/experiments.yml").write_text("digits: {toy: {cells: {long: {solver: ddim, wait: 3600.0}}}}")
    save_notebook(clone, PARAMETERS, BODY)
    process = start(clone, quick)
    wait_for(lambda: queue("RUNNING") or process.poll() is not None, seconds=0.2 * HOUR)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: to run.py and to Snakemake
    code, said = finish(process, clone, hours=0.1)
    assert code == 1 and "1 of 1 cells have no record of the code as it is" in said and "Traceback" not in said, said
    wait_for(lambda: not queue("RUNNING,PENDING,COMPLETING"), seconds=60)
    assert records(clone) == []


def test_parts_are_jobs_too_and_each_gets_one_gpu(slurm, clone, quick):
    (clone / "workflow/experiments.yml").write_text("digits: {toy: {shards: 2, gpu: true, cells: {a: {solver: ddim}}}}")
    seen = "import os; Path(f'saw-{record_as[\"part\"]}').write_text(os.environ.get('CUDA_VISIBLE_DEVICES', 'all'))\n"
    save_notebook(clone, PARAMETERS, "from pathlib import Path\n" + seen + BODY)
    code, said = finish(start(clone, quick), clone)
    assert code == 0 and "1 of 1 cells to run, in 3 jobs" in said, said
    saw = {path.name: path.read_text() for path in clone.glob("saw-*")}
    assert set(saw) == {"saw-None", "saw-[0, 2]", "saw-[1, 2]"}
    assert set(saw.values()) <= {"0", "1"}
    assert json.loads((clone / "data/results/digits/toy/a.json").read_text())["measurements"]
