"""Inpainting, recovery and guidance on the command line: files, numbers, and one line for each mistake."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fewstep import cli, data


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of one command."""
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    return end.value.code, out, err


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file({"mask": (torch.arange(64).reshape(1, 8, 8) % 2).float()}, "mask.safetensors")
    save_file({"mask": torch.full((1, 8, 8), 0.5)}, "half.safetensors")
    save_file({"mask": torch.ones(1, 4, 8)}, "shape.safetensors")
    save_file({"samples": torch.full((2, 1, 8, 8), 3.0)}, "bright.safetensors")
    save_file({"samples": torch.zeros(2, 1, 4, 4)}, "small.safetensors")
    return tmp_path


@pytest.mark.parametrize("mask", ["upper", "lower", "left", "right", "mask.safetensors"])
def test_the_known_part_is_in_every_completion(capsys, folder, mask):
    common = ["inpaint", "--nfe", "3", "--samples", "3", "--completions", "2", "--mask", mask]
    code, out, _ = call(capsys, *common, "--out", "a.safetensors")
    assert code == 0 and "2 completions of 3 images, ddim, 3 network calls" in out
    found = load_file("a.safetensors")["samples"].unflatten(0, (2, 3))
    images = data.digits().images[:3]
    known = {
        "upper": (slice(4), slice(None)),
        "lower": (slice(4, None), slice(None)),
        "left": (slice(None), slice(4)),
        "right": (slice(None), slice(4, None)),
    }
    where = torch.zeros(8, 8, dtype=torch.bool)
    if mask in known:
        where[known[mask]] = True
    else:
        where = torch.arange(64).reshape(8, 8) % 2 == 1
    assert torch.equal(found[..., where], images[:, :, where].expand(2, -1, -1, -1))
    assert found[..., ~where].std(0).mean() > 0.01  # the completions differ


def test_a_picture_of_completions_has_the_known_part_on_top(capsys, folder):
    code, out, _ = call(capsys, "inpaint", "--nfe", "6", "--repeats", "3", "--samples", "4", "--completions", "2")
    assert code == 0 and "6 network calls" in out
    assert Image.open("completions.png").size == (4 * 66 + 2, 3 * 66 + 2)


def test_recovery_from_all_measurements_is_exact(capsys, folder):
    code, out, _ = call(
        capsys, "recover", "--measurements", "64", "--samples", "3", "--nfe", "3", "--out", "r.safetensors"
    )
    assert code == 0 and "64 measurements of 64 elements" in out
    assert (load_file("r.safetensors")["samples"] - data.digits().images[:3]).abs().max() < 1e-4


def test_recovery_from_noise_lowers_it(capsys, folder):
    code, out, _ = call(capsys, "recover", "--sigma", "0.5", "--samples", "20", "--nfe", "1", "--out", "r.png")
    assert code == 0 and float(out.split("pixel ")[1].split()[0]) < 0.25  # of 0.5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["inpaint", "--mask", "uper"], "unknown mask 'uper'; did you mean upper"),
        (["inpaint", "--mask", "none.safetensors"], "cannot read none.safetensors"),
        (["inpaint", "--mask", "bright.safetensors"], "has no tensor 'mask', only samples"),
        (["inpaint", "--mask", "half.safetensors"], "must be 0 (unknown) or 1 (known)"),
        (["inpaint", "--mask", "shape.safetensors"], "a mask of shape (1, 8, 8) is needed"),
        (["inpaint", "--images", "bright.safetensors"], "must lie in [-1, 1]"),
        (["inpaint", "--images", "small.safetensors"], "images of shape (1, 8, 8) are needed"),
        (["inpaint", "--colorize"], "colours need three"),
        (["inpaint", "--repeats", "5", "--solver", "ddpm"], "not those of ddpm"),
        (["inpaint", "--repeats", "5", "--nfe", "4"], "at least 5 network calls"),
        (["inpaint", "--out", "a.txt"], "must end in .png or .safetensors"),
        (["recover"], "one of the two"),
        (["recover", "--sigma", "1", "--measurements", "8"], "one of the two"),
        (["recover", "--measurements", "65"], "must not be more, got 65"),
        (["recover", "--sigma", "-1"], "sigma must lie in"),
        (["recover", "--sigma", "0.5", "--images", "bright.safetensors"], "must lie in [-1, 1]"),
        (["sample", "--label", "3"], "the network has no classes"),
        (["sample", "--label", "3", "--weight", "-1"], "must not be negative"),
    ],
)
def test_a_mistake_gets_one_line_and_leaves_no_file(capsys, folder, arguments, says):
    before = sorted(folder.iterdir())
    code, out, err = call(capsys, *arguments, *([] if "--nfe" in arguments else ["--nfe", "5"]))
    assert code == 2 and not out and says in err and len(err.splitlines()) == 1
    assert sorted(folder.iterdir()) == before
