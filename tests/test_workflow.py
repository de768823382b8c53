"""The experiment graph on a toy clone: what is run, what is not, and what a failure or a `kill -9` leaves behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("papermill")
pytest.importorskip("snakemake")

import run_cell

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
      deis: {solver: deis-tab1, fail: true}
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
    out, err = process.communicate(timeout=900)
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


def wait_for(condition, seconds=600.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def test_missing_and_stale_cells_are_run_and_a_failed_one_keeps_its_notebook(clone):
    # One cell fails: the other goes on, the notebook with the traceback stays.
    code, out, err = run(clone, "experiments", "digits")
    assert code == 1 and "2 of 2 cells to run" in out, err
    assert "failed digits/toy/deis" in err and "RuntimeError: the network returned NaN at call 3" in err
    log = clone / "_build/experiments/digits/toy/deis.failed.ipynb"
    assert os.path.relpath(log, clone) in err and "1 of 2 cells have no record" in err
    assert "the network returned NaN at call 3" in log.read_text()
    made = records(clone)
    assert set(made) == {"ddim"}
    where = json.loads(made["ddim"])["provenance"]
    assert where["parameters"] == {"nfes": [5, 10], "solver": "ddim"} and where["profile"] == "digits"

    # Both are run: one is stale by its parameters, the other's record is gone although its executed notebook is there.
    edit(clone / "workflow/experiments.yml", ", fail: true", "")
    (clone / "data/results/digits/toy/ddim.json").unlink()
    code, out, err = run(clone, "experiments", "digits")
    assert code == 0 and "2 of 2 cells to run" in out, err
    assert set(records(clone)) == {"ddim", "deis"}
    assert sorted(path.name.split(".")[0] for path in log.parent.glob("*.ipynb")) == ["ddim", "deis"]
    assert not log.exists()

    # Nothing is left to do, until a solver is edited.
    code, out, err = run(clone, "experiments", "digits")
    assert (code, out) == (0, "digits: the records of all 2 cells are up to date\n"), err
    with (clone / "src/fewstep/solvers/deis.py").open("a") as file:
        file.write("\nEXTRA = 1\n")
    made = records(clone)
    code, out, err = run(clone, "experiments", "digits")
    assert code == 0 and "1 of 2 cells to run" in out, err
    again = records(clone)
    assert again["ddim"] == made["ddim"] and again["deis"] != made["deis"]

    # A check runs both, elsewhere, and names the number that moved.
    path = clone / "data/results/digits/toy/deis.json"
    path.write_text(again["deis"].replace("0.2", "0.2001"))
    code, out, err = run(clone, "check", "digits")
    assert code == 1 and out.endswith("4 numbers compared, 1 moved\n"), err
    assert "2 of 2 cells to run" in out
    assert "digits/toy/deis metric=error solver=deis-tab1 nfe=5 value: 0.2001 → 0.2 (tolerance" in out
    assert records(clone, "_build/check/digits/results").keys() == {"ddim", "deis"}
    assert "0.2001" in path.read_text()

    # One of two halves of the cells: each cell is in one of them.
    endings = []
    for part in ("1/2", "2/2"):
        code, out, err = run(clone, "check", "digits", "--part", part)
        assert "1 of 1 cells to run" in out, err
        endings.append((code, out.splitlines()[-1]))
    assert sorted(endings) == [(0, "2 numbers compared, 0 moved"), (1, "2 numbers compared, 1 moved")]
    for part, complaint in [
        ("3/2", "argument --part: '3/2' is not K/N with 1 ≤ K ≤ N"),
        ("3/3", "profile digits has 2 cells to check, which are no 3 parts"),
    ]:
        assert run(clone, "check", "digits", "--part", part)[::2] == (2, f"error: {complaint}\n")


def test_a_users_mistake_in_a_notebook_is_one_line_and_leaves_nothing(clone):
    save_notebook(clone, PARAMETERS, "from fewstep.errors import NotAtHandError\nraise NotAtHandError('put it there')")
    code, out, _ = run(clone, "digits", "toy", "ddim", "--log", "log.ipynb", script="run_cell.py")
    assert code == 1 and out.splitlines()[-1] == "| put it there" and "Traceback" not in out
    assert not list(clone.glob("*.ipynb"))


def test_a_fresh_record_is_made_anew_only_when_that_is_asked_for(clone):
    edit(clone / "workflow/experiments.yml", ", fail: true", "")
    assert run(clone, "experiments", "digits")[0] == 0
    made = records(clone)
    code, out, err = run(clone, "experiments", "digits", "--cell", "toy/ddim", "--force")
    assert code == 0 and "1 of 1 cells to run" in out, err
    again = records(clone)
    assert again["deis"] == made["deis"] and again["ddim"] != made["ddim"]
    numbers = [json.loads(text["ddim"])["measurements"] for text in (made, again)]
    assert numbers[0] == numbers[1] and not (clone / "_build/again").joinpath("digits").exists()

    # The name of an experiment means all its cells; where one fails, the records stay as they were.
    edit(clone / "workflow/experiments.yml", "solver: deis-tab1", "solver: deis-tab1, fail: true")
    code, out, err = run(clone, "experiments", "digits", "--cell", "toy", "--force")
    assert code == 1 and "2 of 2 cells to run" in out and "failed digits/toy/deis" in err, err
    assert records(clone) == again


def test_several_cells_are_named_in_one_text(clone):
    edit(clone / "workflow/experiments.yml", ", fail: true", "")
    code, _, err = run(clone, "experiments", "digits", "--cell", "toy/ddim toy/deis", "--dry-run")
    assert code == 0 and not records(clone), err
    code, _, err = run(clone, "experiments", "digits", "--cell", "tory", "--force")
    assert code == 2 and "unknown cell of profile digits 'tory'" in err and err.count("\n") == 1


def test_every_error_for_users_is_known_to_the_runner():
    """A notebook's kernel tells the name of an error's class, not what it is derived from."""
    sources = [path.read_text("utf-8") for path in (ROOT / "src").rglob("*.py")]
    derived = [name for source in sources for name in re.findall(r"class (\w+)\(UserError\)", source)]
    assert {"UserError", *derived} == set(run_cell.USERS)


def test_a_notebook_that_records_nothing_has_failed(clone):
    save_notebook(clone, PARAMETERS, "pass")
    code, out, _ = run(clone, "digits", "toy", "ddim", "--log", "log.ipynb", script="run_cell.py")
    assert code == 1 and "wrote no record" in out
    assert not (clone / "log.ipynb").exists() and (clone / "ddim.failed.ipynb").exists()


@pytest.mark.parametrize(
    ("command", "old", "new", "complaint"),
    [
        ("experiments", "ddim}", "ddim, nfe: 5}", "digits/toy/ddim: unknown parameter 'nfe'; did you mean nfes"),
        ("experiments", "solver: ddim}", "solver: ddmi}", "unknown solver 'ddmi'; did you mean "),
        ("experiments", "ddim}", "ddim, model: net}", "unknown weights 'net'"),
        ("experiments", "  toy:", "  tory:", "unknown experiment 'tory'; did you mean toy"),
        ("check", "digits:", "digit:", "profile 'digits' has no cells; profiles that have: digit"),
        ("train", "digits:", "digits: # ", "unknown experiment of profile digits 'train'"),
    ],
)
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


def test_training_is_run_by_its_own_command(clone):
    save_notebook(clone, PARAMETERS, BODY + "print('epoch 1 of 1')", name="train")
    with (clone / "workflow/experiments.yml").open("a") as file:
        file.write("  train: {cells: {unet: {nfes: [1]}}}\n")
    code, out, err = run(clone, "train", "digits")
    assert code == 0 and "epoch 1 of 1" in out, err
    assert (clone / "data/results/digits/train/unet.json").exists() and not records(clone)


def test_one_of_the_trainings_by_its_name(clone):
    folder = clone / "data/results/digits"
    with (clone / "workflow/experiments.yml").open("a") as file:
        for name in ("train_a", "train_b"):
            save_notebook(clone, PARAMETERS, BODY, name=name)
            file.write(f"  {name}: {{cells: {{net: {{nfes: [1]}}}}}}\n")
    code, _, err = run(clone, "train", "digits", "--cell", "train_c/net")
    assert code == 2 and "unknown cell 'train_c/net'; did you mean train_" in err and not folder.exists()
    for asked in ("train_b/net", "train_b"):
        code, _, err = run(clone, "train", "digits", "--cell", asked)
        assert code == 0, err
        assert [path.parent.name for path in folder.glob("*/*.json")] == ["train_b"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_run_leaves_no_process_and_the_next_goes_on(clone):
    plan = clone / "workflow/experiments.yml"
    plan.write_text("digits: {toy: {parameters: {wait: 3600.0}, cells: {ddim: {solver: ddim}}}}")
    process = start(clone, "experiments", "digits")
    wait_for(lambda: (clone / "started").exists())
    family = " ".join(descendants_of(clone).values())
    assert all(name in family for name in ("run.py", "snakemake", "run_cell.py", "ipykernel"))
    process.kill()
    process.communicate(timeout=60)
    wait_for(lambda: not descendants_of(clone), seconds=60)
    assert not records(clone)

    edit(plan, "wait: 3600.0", "")
    code, out, err = run(clone, "experiments", "digits")
    assert code == 0 and "1 of 1 cells to run" in out, err
    assert set(records(clone)) == {"ddim"}
