"""Where the memory of a GPU does not suffice, an experiment halves its batch, says so, and measures the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from test_experiments import toy
from test_papers import KINDS, SHAPE, exact
from torch import nn

from fewstep import inception, metrics, models, papers, provenance, results
from fewstep.errors import UserError
from fewstep.models import zoo
from fewstep.noise import normal
from fewstep.tasks.likelihood import bits_of_images

__all__ = ["toy"]  # the fixture

LIMIT = 2
"""As many images fit."""


def tight(function):
    """The function of a network, on a GPU with little memory."""

    def call(self, x, *rest, **options):
        if len(x) > LIMIT:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return function(self, x, *rest, **options)

    return call


def halvings(batch):
    while batch > LIMIT:
        yield f"out of memory with {batch} images at a time: going on with {batch // 2}"
        batch //= 2


class Grey(nn.Module):
    """Stands for Inception: means over parts of an image."""

    sha256, published = "0" * 64, False

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, images):
        return nn.functional.avg_pool2d(images.double(), 4).flatten(1)


NOTEBOOKS = {
    "encoding": [
        {"solvers": {"ddim": ["uniform"], "deis-tab3": ["quadratic"]}, "budgets": [5], "ideals": []},
        {"other": "digits-unet", "ideals": [], "rho_levels": [0.1, 1.0], "budgets": [4]},
    ],
    "trajectories": [
        {"times": [999, 10], "steps": [1, 10], "grids": ["uniform"], "nodes": 5, "reference_steps": 10}
        | {"solver": "ddpm", "budget": 4}
    ],
    "ode_error": [{"budgets": [3], "reference_calls": 80, "features": "digits-features"}],
    "samples": [{"budgets": [3]}],
    "fd_cifar": [{"budgets": [3], "features": "digits-features", "keep": 6}],
    "fid_cifar": [{"budgets": [3]}],
    "speed": [{"calls": 2, "repeats": 1, "ways": ["eager"], "precisions": ["float32"]}],
}


@pytest.mark.parametrize(
    ("notebook", "parameters"), [(name, one) for name, cells in NOTEBOOKS.items() for one in cells]
)
def test_a_notebook_measures_the_same(toy, tmp_path, monkeypatch, capsys, notebook, parameters):
    monkeypatch.setattr(papers, "extractor", lambda device: Grey())
    monkeypatch.setattr(inception, "CACHE", None)
    given = {"model": "digits-unet", **parameters}
    given |= {"samples": 7} if notebook != "speed" else {"batch": 7}
    given |= {"batch": 7} if notebook in ("encoding", "ode_error", "fd_cifar", "fid_cifar") else {}
    given |= {"dataset": "digits"} if notebook in ("encoding", "trajectories", "fd_cifar", "fid_cifar") else {}

    def measured(folder):
        monkeypatch.setattr(provenance, "ROOT", tmp_path / folder)  # with its own cache of solutions
        pictures = {"folder": str(tmp_path / folder)} if notebook == "samples" else {}
        _, record = toy(notebook, **given, **pictures)
        return record, capsys.readouterr().out.splitlines()

    wide, _ = measured("wide")
    monkeypatch.setattr(models.UNet, "forward", tight(models.UNet.forward))
    if notebook == "ode_error":
        monkeypatch.setattr(metrics.Features, "forward", tight(metrics.Features.forward))
    narrow, said = measured("narrow")
    assert {line for line in said if line.startswith("out of memory")} == set(halvings(7))
    rates = {metric for metric, tolerance in results.TOLERANCE.items() if tolerance is None} | {"seconds"}
    for a, b in zip(wide.measurements, narrow.measurements, strict=True):
        assert a.coordinates == b.coordinates
        if a.metric not in rates:
            assert b.value == pytest.approx(a.value, rel=1e-3, abs=1e-6), a.coordinates
    for picture in (tmp_path / "wide").glob("*.png"):
        a, b = (np.asarray(Image.open(tmp_path / folder / picture.name)).astype(int) for folder in ("wide", "narrow"))
        assert abs(a - b).max() <= 1


def whole_and_tight(monkeypatch, capsys, owner, name, measure, batch):
    """What is measured with and without memory."""
    wide = measure()
    assert not capsys.readouterr().out
    monkeypatch.setattr(owner, name, tight(getattr(owner, name)))
    narrow = measure()
    assert set(capsys.readouterr().out.splitlines()) == set(halvings(batch))
    return wide, narrow


@pytest.mark.parametrize("kind", ["a plan", "predictor and corrector"])
def test_a_papers_samples_are_the_same(monkeypatch, capsys, kind):
    model = exact()

    def moments():
        one = papers.sampler(model, **KINDS[kind])
        return papers.draw(one, SHAPE, Grey(), range(7), seed=2, batch=7).moments

    wide, narrow = whole_and_tight(monkeypatch, capsys, type(model), "forward", moments, 7)
    assert wide.n == narrow.n == 7
    torch.testing.assert_close(narrow.outer, wide.outer, rtol=1e-9, atol=0)


def test_the_mean_square_of_epsilon_is_the_same(monkeypatch, capsys):
    model, known, times = exact(), normal(9, 0, range(7), SHAPE), np.array([900.0, 300.0])
    measure = lambda: papers.mean_square(model, known, times, batch=7)  # noqa: E731
    wide, narrow = whole_and_tight(monkeypatch, capsys, type(model), "forward", measure, 7)
    np.testing.assert_allclose(narrow, wide, rtol=1e-6)


@pytest.mark.parametrize("how", [{"solver": "deis-tab1", "nfe": 4}, {"solver": "rk45", "tolerance": 1e-5}], ids=str)
def test_the_bits_of_images_are_the_same(monkeypatch, capsys, how):
    model, images = exact(), torch.randint(0, 256, (7, *SHAPE), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    measure = lambda: bits_of_images(model.process, model, images, batch_size=7, **how)[0]  # noqa: E731
    wide, narrow = whole_and_tight(monkeypatch, capsys, type(model), "forward", measure, 7)
    torch.testing.assert_close(narrow, wide, rtol=1e-4, atol=0)  # images that share their steps share RK45's error


def test_a_network_is_found_sane_by_the_same_errors(monkeypatch, capsys):
    model, images = exact(), 0.4 * normal(9, 0, range(16), SHAPE)
    measure = lambda: [one.error for one in zoo.sanity(model, images)]  # noqa: E731
    wide, narrow = whole_and_tight(monkeypatch, capsys, type(model), "forward", measure, 16)
    np.testing.assert_allclose(narrow, wide, rtol=1e-6)


def test_one_image_that_does_not_fit_is_said_in_one_line(toy, monkeypatch):
    monkeypatch.setattr("test_memory.LIMIT", 0)
    monkeypatch.setattr(models.UNet, "forward", tight(models.UNet.forward))
    with pytest.raises(UserError, match="the memory does not suffice for a single image"):
        toy("encoding", model="digits-unet", ideals=[], budgets=[3], samples=3)
