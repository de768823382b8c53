"""The command line: what it prints and writes, and one line for each mistake, with nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from fewstep import cli, models, run
from fewstep.grids import GRIDS
from fewstep.solvers import SOLVERS


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of one command."""
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return end.value.code, out, err


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_list(capsys):
    code, out, _ = call(capsys, "list")
    assert code == 0 and all(name in out for name in [*SOLVERS, *GRIDS, "digits", "sub-vp"])
    code, out, _ = call(capsys, "list", "grids")
    assert code == 0 and len(out.splitlines()) == len(GRIDS)


@pytest.mark.parametrize(
    "command", [[], ["sample"], ["evaluate"], ["train"], ["compare"], ["list"], ["convert"], ["pin"], ["fid"]]
)
def test_help(capsys, command):
    code, out, err = call(capsys, *command, "--help")
    assert code == 0 and "Usage: fewstep" in out and not err


def test_sample_writes_an_image_grid(capsys, folder):
    code, out, _ = call(capsys, "sample", "--solver", "deis-tab3", "--nfe", "5", "--samples", "9", "--out", "a.png")
    assert code == 0 and "9 samples, deis-tab3, 5 network calls" in out
    picture = Image.open("a.png")
    # Three by three digits of 64 pixels (8 pixels, each enlarged eight times), 2 pixels between and around.
    assert picture.size == (3 * 66 + 2, 3 * 66 + 2)
    assert np.asarray(picture).std() > 30


def test_samples_do_not_depend_on_the_batch(capsys, folder):
    common = ["sample", "--solver", "ddpm", "--nfe", "5", "--samples", "10", "--seed", "3"]
    call(capsys, *common, "--out", "a.safetensors")
    call(capsys, *common, "--out", "b.safetensors", "--batch-size", "3")
    a, b = (load_file(f"{name}.safetensors")["samples"] for name in "ab")
    assert a.shape == (10, 1, 8, 8)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)


def test_options_reach_the_solver(capsys, folder):
    for name, options in {"a": [], "b": ["--eta", "1"], "c": ["--grid", "uniform"]}.items():
        call(capsys, "sample", "--nfe", "4", "--samples", "2", "--out", f"{name}.safetensors", *options)
    a, b, c = (load_file(f"{name}.safetensors")["samples"] for name in "abc")
    assert not torch.equal(a, b) and not torch.equal(a, c)


def test_evaluate_prints_and_records(capsys, folder):
    (folder / "records").mkdir()
    code, out, _ = call(
        capsys, "evaluate", "--nfe", "4", "--samples", "50", "--seed", "0", "--seed", "1", "--out", "records"
    )
    assert code == 0 and "Fréchet distance" in out and "95 % interval" in out
    record = json.loads((folder / "records/digits/frechet/ddim.json").read_text())
    rows = {m["metric"]: m for m in record["measurements"]}
    assert set(rows) == {"frechet_distance", "kernel_distance", "precision", "recall"}
    distance = rows["frechet_distance"]
    assert distance["nfe"] == 4 and distance["samples"] == 50 and distance["seeds"] == [0, 1]
    assert distance["low"] <= distance["value"] <= distance["high"] and distance["grid"] == "quadratic"
    assert set(record["provenance"]["weights"]) == {"digits-unet", "digits-features"}


def test_train_goes_on_where_it_was(capsys, folder):
    code, out, _ = call(capsys, "train", "--steps", "3", "--batch-size", "4", "--out", "here")
    assert code == 0 and "SHA-256" in out
    assert models.load("digits-unet", folder / "here").config == models.load("digits-unet").config


def test_compare(capsys):
    code, out, _ = call(capsys, "compare", "ddim", "deis-tab0", "ipndm-2", "pndm-s", "--nfe", "12")
    lines = out.splitlines()
    assert code == 0 and "the same sampler" in lines[2] and "the same" not in lines[3]
    assert lines[4].split()[1:3] == ["12", "4"]


MISTAKES = [
    (["sample", "--solver", "dimm"], "unknown solver 'dimm'; did you mean ddim"),
    (["sample", "--grid", "unifrom"], "unknown grid 'unifrom'; did you mean uniform"),
    (["sample", "--profile", "digit"], "unknown profile 'digit'; did you mean digits?"),
    (["sample", "--solver", "pndm-f", "--nfe", "12"], "cannot spend 12 network calls: it needs at least 13"),
    (["sample", "--nfe", "0"], "cannot spend 0"),
    (["sample", "--nfe", "-3"], "cannot spend -3"),
    (["sample", "--nfe", "ten"], "'ten' is not a valid integer"),
    (["sample", "--eta", "1.5"], "eta must lie in [0, 1], got 1.5"),
    (["sample", "--eta", "nan"], "eta must lie in [0, 1]"),
    (["sample", "--solver", "ge", "--gamma", "-1"], "gamma must lie in (0, 4]"),
    (["sample", "--solver", "euler", "--gamma", "2"], "euler takes no option 'gamma'"),
    (["sample", "--grid", "ddim-quadratic", "--nfe", "500"], "must decrease strictly"),
    (["sample", "--samples", "0"], "0 is not in the range"),
    (["sample", "--out", "nowhere/a.png"], "the folder nowhere does not exist"),
    (["sample", "--out", "a.jpg"], "its name must end in .png or .safetensors"),
    (["evaluate", "--seed", "1"], "at least two seeds"),
    (["evaluate", "--out", "nowhere"], "it is not a folder"),
    (["compare", "ddim"], "at least two solvers"),
    (["compare", "ddim", "rk5"], "unknown solver 'rk5'"),
    (["list", "solver"], "did you mean solvers"),
    (["smaple"], "No such command 'smaple'"),
    (["sample", "--solvr", "ddim"], "No such option"),
]


@pytest.mark.parametrize(("arguments", "says"), MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_gets_one_line(capsys, folder, arguments, says):
    code, out, err = call(capsys, *arguments)
    assert code == 2 and not out
    assert says in err and err.startswith("fewstep: ") and err.count("\n") == 1
    assert not list(folder.iterdir())


@pytest.mark.parametrize("command", ["sample", "evaluate", "train", "encode", "inpaint", "recover --sigma 1"])
def test_a_network_that_is_not_there(capsys, folder, monkeypatch, command):
    monkeypatch.setattr(models.checkpoints, "FOLDER", folder / "nowhere")
    code, out, err = call(capsys, *command.split())
    assert code == 2 and not out and "unknown checkpoint 'digits-unet'" in err and err.count("\n") == 1
    assert not list(folder.iterdir())


def test_a_model_that_breaks_is_said_with_its_call(capsys, folder, monkeypatch):
    class Broken(torch.nn.Module):
        def forward(self, x, t):
            return torch.full_like(x, float("nan")) if t[0] < 500 else 0 * x

    monkeypatch.setattr(models, "load", lambda name: Broken())
    code, _, err = call(capsys, "sample", "--nfe", "4", "--grid", "uniform", "--samples", "2")
    assert code == 2 and "NaN at call 2 (t = 499)" in err and not list(folder.iterdir())


@pytest.mark.parametrize("fault", ["No space left on device", "Permission denied"])
def test_a_place_that_cannot_be_written(capsys, folder, monkeypatch, fault):
    def refuse(*arguments, **keywords):
        raise OSError(28, fault)

    monkeypatch.setattr(Image.Image, "save", refuse)
    code, _, err = call(capsys, "sample", "--nfe", "1", "--samples", "1", "--out", "a.png")
    assert code == 2 and "cannot write a.png" in err and fault in err and not list(folder.iterdir())


def test_a_broken_checkpoint(capsys, folder, monkeypatch):
    for file in models.checkpoints.FOLDER.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "digits-unet.safetensors"
    monkeypatch.setattr(models.checkpoints, "FOLDER", folder)
    before = sorted(folder.iterdir())
    whole = weights.read_bytes()
    for content, says in ((whole[:-7], "is truncated"), (whole[:-1] + b"?", "does not have the SHA-256")):
        weights.write_bytes(content)
        code, _, err = call(capsys, "sample", "--nfe", "1", "--samples", "1")
        assert code == 2 and says in err and err.count("\n") == 1 and sorted(folder.iterdir()) == before
    weights.unlink()
    code, _, err = call(capsys, "sample", "--nfe", "1", "--samples", "1")
    assert code == 2 and "No such file" in err


def test_interruption_leaves_nothing(capsys, folder, monkeypatch):
    def interrupted(*arguments, **keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "sample", interrupted)
    code, _, _ = call(capsys, "sample", "--nfe", "1", "--samples", "1")
    assert code == 130 and not list(folder.iterdir())


def test_help_does_not_wait_for_libraries_that_compute():
    code = "import sys, fewstep.cli; print({'scipy', 'torch', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_installed_command(folder):
    done = subprocess.run(
        [sys.executable, "-m", "fewstep", "sample", "--solver", "?"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr
