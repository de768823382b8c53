"""The verbs ``likelihood`` and ``encode``: what they print and write, and one line for each mistake."""

from __future__ import annotations

import re

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
    return tmp_path


def bits(out: str) -> float:
    return float(re.match(r"(-?[\d.]+) bits per dimension, standard error [\d.]+ ", out).group(1))


def test_likelihood_prefers_digits_to_other_images(capsys, folder):
    code, out, _ = call(capsys, "likelihood", "--samples", "4", "--nfe", "18")
    assert code == 0 and "(4 images, 1 rademacher probe each)" in out and "18 network calls" in out
    noise = (torch.randint(0, 17, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0)) / 8 - 1).float()
    save_file({"samples": noise}, "noise.safetensors")
    _, other, _ = call(capsys, "likelihood", "--samples", "4", "--nfe", "18", "--images", "noise.safetensors")
    # Uniform random levels cost log2 17 = 4.1 bits under the best code for them.
    assert bits(out) < 3.0 < bits(other)


def test_likelihood_does_not_depend_on_the_batch(capsys, folder):
    common = ["likelihood", "--samples", "3", "--nfe", "18", "--divergence", "gaussian", "--probes", "2", "--seed", "4"]
    _, a, _ = call(capsys, *common)
    _, b, _ = call(capsys, *common, "--batch-size", "2")
    assert bits(a) == pytest.approx(bits(b), rel=1e-3)


def test_rk45_is_a_solver_of_likelihood(capsys, folder):
    code, out, _ = call(capsys, "likelihood", "--samples", "2", "--solver", "rk45", "--tolerance", "0.1")
    assert code == 0 and re.search(r"rk45, \d+ network calls", out)


def test_encode_writes_images_above_their_reconstructions(capsys, folder):
    code, out, _ = call(capsys, "encode", "--samples", "3", "--nfe", "6", "--out", "a.png")
    assert code == 0 and "3 images, ddim, 6 + 6 network calls" in out and "per dimension" in out
    assert Image.open("a.png").size == (3 * 66 + 2, 2 * 66 + 2)


def test_encode_writes_codes_and_interpolates(capsys, folder):
    call(capsys, "encode", "--samples", "3", "--nfe", "40", "--out", "a.safetensors")
    found = load_file("a.safetensors")
    assert found["codes"].shape == found["samples"].shape == (3, 1, 8, 8)
    images = data.digits().images[:3]
    assert (found["samples"] - images).square().mean() < 0.1 * images.var()
    code, out, _ = call(capsys, "encode", "--nfe", "4", "--interpolate", "3", "--out", "b.safetensors")
    assert code == 0 and "9 images" in out and "per dimension" not in out
    assert load_file("b.safetensors")["samples"].shape == (9, 1, 8, 8)


MISTAKES = [
    (["encode", "--solver", "ddpm"], "ddpm injects noise and has no way back"),
    (["encode", "--solver", "rk4"], "rk4 runs from noise to data only"),
    (["encode", "--solver", "dimm"], "did you mean ddim"),
    (["encode", "--grid", "leading"], "grid 'leading' ends at clean data"),
    (["encode", "--images", "bright.safetensors"], "must lie in [-1, 1], got a value of magnitude 2"),
    (["encode", "--images", "wide.safetensors"], "images of shape (1, 8, 9) do not fit; this network takes (1, 8, 8)"),
    (["encode", "--images", "nothing.safetensors"], "cannot read nothing.safetensors"),
    (["encode", "--images", "codes.safetensors"], "has no tensor 'samples', only codes"),
    (["encode", "--images", "two.safetensors", "--interpolate", "3"], "four corners"),
    (["encode", "--out", "a.jpg"], "must end in .png or .safetensors"),
    (["likelihood", "--divergence", "hutchinson"], "unknown divergence 'hutchinson'"),
    (["likelihood", "--solver", "ddpm"], "injects noise"),
    (["likelihood", "--images", "bright.safetensors"], "must lie in [-1, 1]"),
    (["likelihood", "--images", "grey.safetensors"], "not quantised to 17 grey levels"),
    (["likelihood", "--solver", "rk45", "--tolerance", "0"], "rtol and atol must be positive"),
    (["likelihood", "--rho-data", "-1"], "rho_data must lie between 0 and"),
    (["likelihood", "--probes", "0"], "0 is not in the range"),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda value: " ".join(value)[:40])
def test_a_mistake_is_one_line_and_leaves_no_file(capsys, folder, arguments, message):
    shapes = {"bright": (4, 1, 8, 8), "wide": (4, 1, 8, 9), "two": (2, 1, 8, 8), "grey": (4, 1, 8, 8)}
    for name, shape in shapes.items():
        save_file({"samples": torch.full(shape, {"bright": 2.0, "grey": 0.03}.get(name, 0.0))}, f"{name}.safetensors")
    save_file({"codes": torch.zeros(4, 1, 8, 8)}, "codes.safetensors")
    before = sorted(folder.iterdir())
    code, out, err = call(capsys, *arguments)
    assert code == 2 and out == "" and message in err
    assert err.count("\n") == 1 and err.startswith("fewstep: ")
    assert sorted(folder.iterdir()) == before
