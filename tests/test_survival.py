"""Nothing is lost: a run that is killed, meets a full disk, a damaged file or a clock that jumps is taken up again.

The short form of `make test-kill` (tests/kill), on the toy clone of test_workflow.py.
"""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
import time

import pytest
import torch
from kill import campaign
from test_workflow import ROOT, clone, records, run, save_notebook  # noqa: F401

from fewstep import models, results, schedules, shards, train
from fewstep.errors import UserError

pytest.importorskip("papermill")
pytest.importorskip("snakemake")

pytestmark = pytest.mark.slow
posix = pytest.mark.skipif(os.name != "posix", reason="signals and limits of POSIX")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux: mounts, or the reaper of orphans")

PARAMETERS = """\
record_as = {
    "profile": "digits", "experiment": "toy", "cell": "by-hand", "parameters": {}, "out": "_build/by-hand",
}
count = 10
wait = 0.0
"""

BODY = """\
import time
from pathlib import Path
from fewstep import results

with results.recording(**record_as) as record:
    Path("started").touch()
    time.sleep(wait)
    for nfe in range(1, count + 1):
        record.add("error", 1 / nfe, nfe=nfe)
"""

AT_FIRST = """\
from pathlib import Path
if not Path("started").exists():
    exec({!r})
"""


@pytest.fixture
def toy(clone):  # noqa: F811
    save_notebook(clone, PARAMETERS, BODY)
    plan(clone, one={})
    return clone


def plan(toy, **cells):
    (toy / "workflow/experiments.yml").write_text(json.dumps({"digits": {"toy": {"cells": cells}}}))


def run_cell(toy, cell="one"):
    log = f"_build/experiments/digits/toy/{cell}.{'0' * 12}.ipynb"
    return run(toy, "digits", "toy", cell, "--log", log, script="run_cell.py")


def assert_whole(toy, *cells, folder="data/results"):
    """Each cell has its record, that of an undisturbed run, and nothing else is there."""
    assert set(records(toy, folder)) == set(cells)
    for cell in cells:
        record = results.read(toy / folder / f"digits/toy/{cell}.json")
        numbers = {measurement.nfe: measurement.value for measurement in record.measurements}
        assert numbers == {nfe: 1 / nfe for nfe in range(1, record.provenance.parameters.get("count", 10) + 1)}
    assert campaign.leftovers(toy) == []


# --- kill -9 -------------------------------------------------------------------------------------------------------


@posix
def test_killed_at_random_moments_nothing_is_lost_and_nothing_computed_twice_without_need(toy):
    cells = {f"cell-{i}": {"wait": 1.5, "count": 10 + i} for i in range(5)}
    plan(toy, **cells)
    chance = random.Random(8)
    victims = ["kernel", "papermill", "driver"] * 2
    chance.shuffle(victims)
    paths = {f"toy/{name}": toy / f"data/results/digits/toy/{name}.json" for name in cells}
    report = campaign.kill_and_repeat(
        [sys.executable, str(ROOT / "workflow" / "run.py"), "experiments", "digits", "--jobs", "2"],
        {**os.environ, "FEWSTEP_ROOT": str(toy), "PYTHONPATH": str(toy / "src")},
        toy,
        paths,
        victims,
        lambda watch, left: chance.uniform(0.0, 4.0),
        chance,
        limit=300,
    )
    print(campaign.table(report))
    assert report.complaints == []
    assert [kill.kind for kill in report.kills] == victims and report.commands > victims.count("driver")
    assert len(cells) <= len(report.starts) <= len(cells) + 2 * len(victims)
    assert_whole(toy, *cells)


@posix
def test_killed_between_writing_a_record_and_naming_it_leaves_no_file(toy):
    dies = "import os, signal\nos.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
    save_notebook(toy, PARAMETERS, AT_FIRST.format(dies) + BODY)
    code, out, _ = run_cell(toy)
    assert code == 1 and "DeadKernelError" in out and not records(toy)
    code, out, _ = run_cell(toy)
    assert code == 0, out
    assert_whole(toy, "one")


@posix
def test_killed_between_the_record_and_the_end_the_cell_is_done(toy):
    kill = "\nimport os, signal\nos.kill(os.getppid(), signal.SIGKILL)\ntime.sleep(60)\n"
    save_notebook(toy, PARAMETERS, BODY + kill)
    assert run_cell(toy)[0] == -9
    before = records(toy)
    code, out, err = run(toy, "experiments", "digits")
    assert (code, out) == (0, "digits: the records of all 1 cells are up to date\n"), err
    assert records(toy) == before
    assert_whole(toy, "one")


REAPER = """\
import ctypes, subprocess, sys, time
import psutil

ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans come here, as they come to systemd in a user's session
child = psutil.Process(subprocess.Popen(sys.argv[1:]).pid)
kernel = []
while not kernel:
    kernel = [process for process in child.children(recursive=True) if "ipykernel_launcher" in process.cmdline()]
    time.sleep(0.01)
child.kill()
try:
    kernel[0].wait(150)
except psutil.TimeoutExpired:
    kernel[0].kill()
    sys.exit("the kernel outlived its run by 150 s")
"""


@linux
def test_a_kernel_whose_run_is_killed_while_it_starts_does_not_stay(toy):
    command = [sys.executable, str(ROOT / "workflow/run_cell.py"), "digits", "toy", "one", "--log", "log.ipynb"]
    environment = {**os.environ, "FEWSTEP_ROOT": str(toy), "PYTHONPATH": str(toy / "src")}
    done = subprocess.run(
        [sys.executable, "-c", REAPER, *command], cwd=toy, env=environment, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert not records(toy)


# --- disks ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def mounted(toy):
    """The toy clone with _build and data/results each on a small file system of its own."""
    places = [toy / "_build", toy / "data" / "results"]
    try:
        for place in places:
            place.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", place], check=True, capture_output=True)
        yield toy
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a file system")
    finally:
        for place in places:
            subprocess.run(["umount", "-l", place], capture_output=True)


def fill(folder):
    """A file that takes all the room there is."""
    path = folder / "filler"
    with open(path, "wb", buffering=0) as file:
        for size in (4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC
    return path


@linux
@pytest.mark.parametrize(
    ("full", "command"),
    [
        ("data/results", lambda toy: run_cell(toy)),
        ("_build", lambda toy: run(toy, "experiments", "digits")),
    ],
    ids=["records", "notebooks"],
)
def test_a_full_disk_is_named_and_costs_the_cells_that_met_it_only(mounted, full, command):
    filler = fill(mounted / full)
    code, out, err = command(mounted)
    assert code in (1, 2) and "Traceback" not in out + err
    assert "No space left on device" in out or (err.count("\n") == 1 and "more room is needed" in err)
    assert not records(mounted)
    filler.unlink()
    code, out, err = command(mounted)
    assert code == 0, out + err
    assert_whole(mounted, "one")


@posix
def test_a_record_that_cannot_be_written_whole_is_not_written(toy):
    # A limit on the size of files: a write fails half-way, as on a full disk, where one cannot be had.
    plan(toy, one={"count": 2000})
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))\n"
    save_notebook(toy, PARAMETERS, AT_FIRST.format(limit) + BODY)
    code, out, _ = run_cell(toy)
    assert code == 1 and out.count("\n") < 12
    assert "one.json: File too large; choose a folder with room and rights" in out
    assert not records(toy) and not list((toy / "data").rglob("*.tmp"))
    code, out, _ = run_cell(toy)
    assert code == 0, out
    assert_whole(toy, "one")


@posix
def test_a_folder_of_records_that_is_read_only_is_a_mistake_found_before_the_first_cell(toy):
    folder = toy / "data" / "results"
    folder.mkdir(parents=True)
    if os.geteuid() != 0:
        folder.chmod(0o555)
        release = lambda: folder.chmod(0o755)  # noqa: E731
    else:  # root is bound by no mode, but by how a file system is mounted
        mount = ["mount", "-t", "tmpfs", "-o", "ro", "none", folder]
        if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
            pytest.skip("root without the right to mount a file system")
        release = lambda: subprocess.run(["umount", folder], check=True)  # noqa: E731
    try:
        code, _, err = run(toy, "experiments", "digits")
    finally:
        release()
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1, err
    assert str(folder) in err
    assert not (toy / "started").exists() and not list(folder.rglob("*"))
    code, _, err = run(toy, "experiments", "digits")
    assert code == 0, err
    assert_whole(toy, "one")


# --- damaged files -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def training():
    """A training of 4 steps: given a file for its state, the weights that it ends with."""
    images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def go(state=None):
        settings = train.Settings(steps=4, batch=4)
        build = lambda: models.UNet((1, 8, 8), (8, 8), attention_head_dim=0)  # noqa: E731
        return train.train_denoiser(build, images, schedules.linear_vp(), settings, state, False).model.state_dict()

    return go


@pytest.mark.parametrize("part", [0.0, 1e-4, 0.1, 0.5, 0.999999])
def test_a_training_state_truncated_anywhere_is_named_and_can_be_made_anew(tmp_path, training, part):
    state = tmp_path / "state.safetensors"
    whole = training(state)
    os.truncate(state, int(state.stat().st_size * part))
    with pytest.raises(UserError) as caught:
        training(state)
    assert str(caught.value) == f"{state} is not a training state; delete it to start anew"
    state.unlink()
    again = training(state)
    assert all(torch.equal(again[name], value) for name, value in whole.items())


@pytest.mark.parametrize("part", [0.0, 1e-3, 0.5, 0.9999])
def test_weights_truncated_anywhere_are_named_before_a_cell_computes(toy, part):
    folder = toy / "data" / "checkpoints"
    models.save("net", models.FeatureNet((1, 8, 8), 10, width=4, features=8), "features", "digits", folder)
    path = folder / "net.safetensors"
    blob = path.read_bytes()
    os.truncate(path, int(len(blob) * part))
    with pytest.raises(UserError) as caught:
        models.load("net", folder)
    assert str(caught.value) == (
        f"checkpoint {path} is truncated; restore it with git or train it again with make train"
    )


def test_truncated_weights_end_a_cell_with_one_line_and_restored_ones_complete_it(toy):
    folder = toy / "data" / "checkpoints"
    models.save("net", models.FeatureNet((1, 8, 8), 10, width=4, features=8), "features", "digits", folder)
    save_notebook(toy, PARAMETERS + "features = ''\n", "from fewstep import models\nmodels.load(features)\n" + BODY)
    plan(toy, one={"features": "net"})
    path = folder / "net.safetensors"
    blob = path.read_bytes()
    os.truncate(path, len(blob) // 2)
    code, out, _ = run_cell(toy)
    assert code != 0 and not records(toy) and not (toy / "started").exists()
    assert f"checkpoint {path} is truncated; restore it with git or train it again with make train" in out
    path.write_bytes(blob)
    code, out, _ = run_cell(toy)
    assert code == 0, out
    assert_whole(toy, "one")


def test_a_truncated_shard_is_drawn_anew(tmp_path):
    drawn = []

    def draw(numbers):
        drawn.append(numbers)
        rows = torch.arange(numbers.start, numbers.stop, dtype=torch.float64)[:, None]
        return shards.Shard(numbers.start, numbers.stop, shards.Moments.of(rows), rows)

    recorder = [results.Recorder(scratch=tmp_path, part=(k, 2)) for k in range(2)]
    assert all(part.collect("set", 10, draw) is None for part in recorder)
    first = min((tmp_path / "set").iterdir())
    os.truncate(first, first.stat().st_size // 2)
    drawn.clear()
    whole = results.Recorder(scratch=tmp_path).collect("set", 10, draw)
    assert drawn == [range(0, 5)]
    assert whole.rows.flatten().tolist() == list(range(10)) and whole.moments.n == 10


# --- clocks --------------------------------------------------------------------------------------------------------

CLOCK = """\
# Imported by every Python at its start: the clock goes back by ten years when the file named by JUMP appears.
import os, time

YEARS = 10 * 365 * 86400
now, now_ns = time.time, time.time_ns
back = lambda: YEARS if os.path.exists(os.environ["JUMP"]) else 0
time.time = lambda: now() - back()
time.time_ns = lambda: now_ns() - back() * 10**9
"""


def test_a_clock_that_jumps_back_makes_nothing_stale_and_loses_nothing(toy, monkeypatch):
    save_notebook(toy, PARAMETERS, BODY + "Path('clock').write_text(str(time.time()))\n")
    plan(toy, one={"count": 3}, two={"wait": -1.0})
    code, _, err = run(toy, "experiments", "digits")
    assert code == 1 and "failed digits/toy/two" in err and "ValueError" in err
    before = records(toy)
    assert set(before) == {"one"}

    # Between two runs: all that there is, records, notebooks, code and _build, is of a time to come.
    later = time.time() + 365 * 86400
    for path in [toy, *toy.rglob("*")]:
        os.utime(path, (later, later), follow_symlinks=False)
    # During the second: the clock goes back once more as soon as the notebook computes.
    (toy / "src" / "sitecustomize.py").write_text(CLOCK)
    monkeypatch.setenv("JUMP", str(toy / "started"))
    (toy / "started").unlink()
    plan(toy, one={"count": 3}, two={"wait": 0.5})
    code, out, err = run(toy, "experiments", "digits")
    assert code == 0 and "1 of 2 cells to run" in out, err
    assert float((toy / "clock").read_text()) < time.time() - 9 * 365 * 86400  # it did
    assert records(toy)["one"] == before["one"]
    made = results.read(toy / "data/results/digits/toy/two.json").provenance
    assert made.wall_s >= 0.5
    code, out, err = run(toy, "experiments", "digits")
    assert (code, out) == (0, "digits: the records of all 2 cells are up to date\n"), err
    assert_whole(toy, "one", "two")
