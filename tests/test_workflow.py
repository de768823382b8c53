"""The experiment graph on a toy clone: what is run, what is not, and what a failure or a `kill -9` leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("papermill")
pytest.importorskip("snakemake")

ROOT = Path(__file__).resolve().parents[1]

PARAMETERS = """\
record_as = {
    "profile": "digits", "experiment": "toy", "cell": "by-hand", "parameters": {}, "out": "_build/by-hand",
}
solver = "ddim"
nfes = [
    5,
    10,
]
wait = 0.0
fail = False
"""

BODY = """\
import time
from pathlib import Path
from fewstep import results, solvers

with results.recording(**record_as) as record:
    Path("started").touch()
    time.sleep(wait)
    if fail:
        raise RuntimeError("the network returned NaN at call 3")
    for nfe in nfes:
        record.add("error", 1 / nfe, solver=solver, nfe=nfe)
"""

PLAN = """\
digits:
  toy:
    parameters: {nfes: [5, 10]}
    cells:
      ddim: {solver: ddim}
      deis: {solver: deis-tab1}
"""


@pytest.fixture
def clone(tmp_path):
    """A clone in small: the package, one notebook, a plan of two cells."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("book/experiments", "workflow", "data/checkpoints"):
        (tmp_path / folder).mkdir(parents=True)
    save_notebook(tmp_path, PARAMETERS, BODY)
    (tmp_path / "workflow/experiments.yml").write_text(PLAN)
    return tmp_path


def save_notebook(clone, parameters, body, name="toy"):
    cell = {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": []}
    cells = [
        {**cell, "id": "a", "metadata": {"tags": ["parameters"]}, "source": parameters},
        {**cell, "id": "b", "source": body},
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    (clone / f"book/experiments/{name}.ipynb").write_text(json.dumps(notebook))


def edit(path, old, new):
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


def start(clone, *arguments, script="run.py"):
    command = [sys.executable, str(ROOT / "workflow" / script), *arguments]
    environment = {**os.environ, "FEWSTEP_ROOT": str(clone), "PYTHONPATH": str(clone / "src")}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=clone, env=environment, stdout=pipe, stderr=pipe, text=True)


def run(clone, *arguments, script="run.py"):
    process = start(clone, *arguments, script=script)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def records(clone, folder="data/results"):
    return {path.stem: path.read_text("utf-8") for path in (clone / folder / "digits/toy").glob("*.json")}


def descendants_of(clone):
    """Processes that know the toy clone, by their environment or command line (Linux)."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            known = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            alive = (process / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            continue
        if alive and str(clone).encode() in known:
            found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def wait_for(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_missing_records_are_made_and_only_stale_ones_again(clone):
    code, out, err = run(clone, "experiments", "digits")
    assert code == 0, err
    assert "2 of 2 cells to run" in out
    made = records(clone)
    assert set(made) == {"ddim", "deis"}
    assert json.loads(made["deis"])["provenance"]["parameters"] == {"nfes": [5, 10], "solver": "deis-tab1"}

    clock = time.monotonic()
    code, out, err = run(clone, "experiments", "digits")
    assert (code, out) == (0, "digits: the records of all 2 cells are up to date\n"), err
    assert time.monotonic() - clock < 5
    assert records(clone) == made

    edit(clone / "src/fewstep/solvers/deis.py", '"""', '"""Prose that was edited. ')
    assert "up to date" in run(clone, "experiments", "digits")[1]

    with (clone / "src/fewstep/solvers/deis.py").open("a") as file:
        file.write("\nEXTRA = 1\n")
    code, out, err = run(clone, "experiments", "digits")
    assert code == 0 and "1 of 2 cells to run" in out, err
    again = records(clone)
    assert again["ddim"] == made["ddim"] and again["deis"] != made["deis"]

    # A deleted record is made again although its executed notebook is there.
    (clone / "data/results/digits/toy/ddim.json").unlink()
    assert "1 of 2 cells to run" in run(clone, "experiments", "digits")[1]
    assert set(records(clone)) == {"ddim", "deis"}
    assert len(list((clone / "_build/experiments/digits/toy").glob("*.ipynb"))) == 2


def test_a_failed_cell_keeps_its_notebook_and_the_others_go_on(clone):
    edit(clone / "workflow/experiments.yml", "solver: ddim", "solver: ddim, fail: true")
    code, _, err = run(clone, "experiments", "digits")
    assert code == 1
    assert "failed digits/toy/ddim" in err and "RuntimeError: the network returned NaN at call 3" in err
    log = clone / "_build/experiments/digits/toy/ddim.failed.ipynb"
    assert os.path.relpath(log, clone) in err
    assert "the network returned NaN at call 3" in log.read_text()
    assert set(records(clone)) == {"deis"}
    assert "1 of 2 cells have no record" in err


def test_a_failure_leaves_the_old_record_alone(clone):
    assert run(clone, "experiments", "digits")[0] == 0
    made = records(clone)
    edit(clone / "workflow/experiments.yml", "solver: ddim", "solver: ddim, fail: true")
    assert run(clone, "experiments", "digits")[0] == 1
    assert records(clone) == made


def test_a_notebook_that_records_nothing_has_failed(clone):
    save_notebook(clone, PARAMETERS, "pass")
    arguments = ("digits", "toy", "ddim", "--log", "log.ipynb")
    code, out, _ = run(clone, *arguments, script="run_cell.py")
    assert code == 1 and "wrote no record" in out


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("solver: ddim}", "solver: ddim, nfe: 5}", "digits/toy/ddim: unknown parameter 'nfe'; did you mean nfes"),
        ("solver: ddim}", "solver: ddmi}", "unknown solver 'ddmi'; did you mean ddim"),
        ("solver: ddim}", "solver: ddim, model: net}", "unknown weights 'net'"),
        ("  toy:", "  tory:", "unknown experiment 'tory'; did you mean toy"),
        ("digits:", "digit:", "profile 'digits' has no cells; profiles that have: digit"),
    ],
)
@pytest.mark.parametrize("command", ["experiments", "check"])
def test_a_mistake_in_the_request_is_one_line(clone, command, old, new, complaint):
    edit(clone / "workflow/experiments.yml", old, new)
    code, _, err = run(clone, command, "digits")
    assert code == 2
    assert complaint in err and err.count("\n") == 1 and err.startswith("error: ")
    assert not (clone / "_build").exists() and not records(clone)


def test_a_record_that_does_not_fit_its_schema_is_named(clone):
    path = clone / "data/results/digits/toy/ddim.json"
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    code, _, err = run(clone, "experiments", "digits")
    assert code == 2 and f"error: {path}: provenance: Field required" in err


def test_a_check_runs_everything_and_names_what_moved(clone):
    assert run(clone, "experiments", "digits")[0] == 0
    made = records(clone)
    code, out, err = run(clone, "check", "digits")
    assert code == 0 and out.endswith("4 numbers compared, 0 moved\n"), err
    assert "2 of 2 cells to run" in out and set(records(clone, "_build/check/digits/results")) == {"ddim", "deis"}

    path = clone / "data/results/digits/toy/deis.json"
    path.write_text(made["deis"].replace("0.2", "0.2001"))
    code, out, _ = run(clone, "check", "digits")
    assert code == 1 and out.endswith("4 numbers compared, 1 moved\n")
    assert "digits/toy/deis metric=error solver=deis-tab1 nfe=5 value: 0.2001 → 0.2 (tolerance" in out


def test_training_is_run_by_its_own_command_only(clone):
    save_notebook(clone, PARAMETERS, BODY, name="train")
    with (clone / "workflow/experiments.yml").open("a") as file:
        file.write("  train: {cells: {unet: {nfes: [1]}}}\n")
    assert "2 of 2 cells" in run(clone, "experiments", "digits")[1]
    assert not (clone / "data/results/digits/train").exists()
    code, _, err = run(clone, "train", "digits")
    assert code == 0, err
    assert (clone / "data/results/digits/train/unet.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("victim", ["run.py", "snakemake", "run_cell.py"])
def test_a_killed_run_leaves_no_process_and_the_next_goes_on(clone, victim):
    edit(clone / "workflow/experiments.yml", "nfes: [5, 10]}", "nfes: [5, 10], wait: 3600.0}")
    process = start(clone, "experiments", "digits")
    wait_for(lambda: (clone / "started").exists())
    assert any("ipykernel" in command for command in descendants_of(clone).values())
    for pid, command in descendants_of(clone).items():
        if victim in command.partition("--config")[0] and "ipykernel" not in command:
            os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)
    wait_for(lambda: not descendants_of(clone), seconds=20)
    assert not records(clone)

    edit(clone / "workflow/experiments.yml", ", wait: 3600.0", "")
    code, out, err = run(clone, "experiments", "digits")
    assert code == 0 and "2 of 2 cells to run" in out, err
    assert set(records(clone)) == {"ddim", "deis"}
