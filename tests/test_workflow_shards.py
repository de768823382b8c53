"""The experiment graph on a toy clone: cells cut into parts, and GPUs that no two jobs share."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_workflow import BODY, PARAMETERS, ROOT, clone, records, run, save_notebook, start, wait_for  # noqa: F401

pytestmark = pytest.mark.slow

DRAWING = """\
import time
from pathlib import Path
import torch
from fewstep import results, shards

def draw(numbers):
    while Path(f"hold-{numbers.start}").exists():
        time.sleep(0.1)
    with open("drawn", "a") as file:
        file.write(f"{numbers.start}-{numbers.stop} ")
    rows = torch.tensor(numbers, dtype=torch.float64)[:, None]
    return shards.Shard(numbers.start, numbers.stop, shards.Moments.of(rows), rows)

with results.recording(**record_as) as record:
    found = record.collect("numbers", 100, draw)
    if found is not None:
        record.add("error", found.moments.mean, solver=solver)
"""

SEEING = """\
import json, os, time
from pathlib import Path

began = time.monotonic()
time.sleep(0.5)
saw = [os.environ.get("CUDA_VISIBLE_DEVICES"), began, time.monotonic()]
Path(f"saw-{record_as['cell']}").write_text(json.dumps(saw))
"""


def test_a_killed_run_draws_no_part_twice(clone):  # noqa: F811
    save_notebook(clone, PARAMETERS, DRAWING)
    (clone / "workflow/experiments.yml").write_text("digits: {toy: {shards: 3, cells: {ddim: {solver: ddim}}}}")
    (clone / "hold-33").touch()
    process = start(clone, "experiments", "digits", "--jobs", "2")
    wait_for(lambda: len([*clone.glob("_build/shards/digits/toy/ddim.*/part-[13]-of-3.ipynb")]) == 2)
    process.kill()
    out, _ = process.communicate(timeout=60)
    assert "1 of 1 cells to run, in 4 jobs" in out
    assert not records(clone)

    (clone / "hold-33").unlink()
    code, out, err = run(clone, "experiments", "digits", "--jobs", "2")
    assert code == 0 and "1 of 1 cells to run, in 2 jobs" in out, err
    assert sorted((clone / "drawn").read_text().split()) == ["0-33", "33-66", "66-100"]
    assert json.loads(records(clone)["ddim"])["measurements"][0]["value"] == 49.5
    assert not [*clone.glob("_build/shards/digits/toy/*")]


def test_the_number_of_parts_is_for_cells_that_can_be_cut(clone):  # noqa: F811
    save_notebook(clone, PARAMETERS, DRAWING)
    save_notebook(clone, PARAMETERS, BODY, name="whole")
    (clone / "workflow/experiments.yml").write_text(
        "digits: {toy: {shards: 1, cells: {a: {solver: ddim}}}, whole: {cells: {b: {solver: ddim}}}}"
    )
    code, out, err = run(clone, "experiments", "digits", "--shards", "2")
    assert code == 0 and "2 of 2 cells to run, in 4 jobs" in out, err
    assert sorted((clone / "drawn").read_text().split()) == ["0-50", "50-100"]

    # A check draws anew.
    code, out, err = run(clone, "check", "digits")
    assert code == 0 and out.endswith("3 numbers compared, 0 moved\n"), err
    assert (clone / "drawn").read_text().split()[2:] == ["0-100"]


def test_each_job_sees_a_gpu_of_its_own(clone, monkeypatch):  # noqa: F811
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setenv("TMPDIR", str(clone))
    save_notebook(clone, PARAMETERS, SEEING + BODY)
    save_notebook(clone, PARAMETERS, SEEING + BODY, name="processor")
    (clone / "workflow/experiments.yml").write_text(
        "digits: {toy: {gpu: true, cells: {a: {}, b: {}, c: {}}}, processor: {cells: {d: {}}}}"
    )
    code, _, err = run(clone, "experiments", "digits", "--jobs", "4")
    assert code == 0, err
    saw = {path.name[-1]: json.loads(path.read_text()) for path in clone.glob("saw-*")}
    assert set(saw) == set("abcd") and saw.pop("d")[0] == ""
    assert {device for device, _, _ in saw.values()} == {"3", "5"}
    for (device, began, ended), (other, since, until) in itertools.combinations(saw.values(), 2):
        assert device != other or ended <= since or until <= began


def test_a_gpu_is_free_again_when_its_process_is_killed(tmp_path):
    take = "import os, sys, time, run_cell; run_cell.take_device(sys.argv[1:]); "
    tell = "print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); time.sleep(600)"
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": f"{ROOT / 'workflow'}:{ROOT / 'src'}"}

    def taker():
        command = [sys.executable, "-c", take + tell, "3", "5"]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

    processes = [taker()]
    try:
        assert processes[0].stdout.readline() == "3\n"
        processes.append(taker())
        assert processes[1].stdout.readline() == "5\n"
        processes.append(taker())
        os.kill(processes[0].pid, signal.SIGKILL)
        assert processes[2].stdout.readline() == "3\n"
    finally:
        for process in processes:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("named", "devices"),
    [
        ("3,5", ["3", "5"]),
        ("", []),
        ("-1", []),
        ("0,-1,1", ["0"]),
        ("NoDevFiles", []),
        ("GPU-8932f937-d72c, 1", ["GPU-8932f937-d72c", "1"]),
    ],
)
def test_devices_are_named_as_cuda_reads_them(named, devices, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "workflow"))
    import run as driver

    from fewstep.results import Cell

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    cells = [Cell("cifar10", "toy", "a", {}, gpu=True), Cell("digits", "toy", "a", {})]
    assert driver.visible_devices(cells) == devices
    assert driver.visible_devices(cells[1:]) == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--executor", "slrum"], "error: unknown executor 'slrum'; did you mean slurm"),
        (["--shards", "0"], "argument --shards: '0' is not a positive number"),
        (["--jobs", "many"], "argument --jobs: 'many' is not a positive number"),
    ],
)
def test_a_mistake_in_how_to_run_is_named(clone, arguments, complaint):  # noqa: F811
    code, _, err = run(clone, "experiments", "digits", *arguments)
    assert code == 2 and complaint in err
    assert not (clone / "_build").exists()


def test_slurm_that_is_not_there_is_named(clone, monkeypatch):  # noqa: F811
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    code, _, err = run(clone, "experiments", "digits", "--executor", "slurm")
    assert code == 2 and err == "error: there is no SLURM here: squeue is missing; use EXECUTOR=local\n"
