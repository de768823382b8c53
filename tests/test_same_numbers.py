"""The same seeds give the same numbers: in any batch, from one process or two, on one thread or two (CPU, float32)."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from fewstep import models, run, schedules, shards, solvers
from fewstep.noise import normal

LAW = schedules.linear_vp()
SHAPE = (1, 8, 8)
N = 65
SEED = 11
SOLVERS = {"ddim": 10, "ddpm": 10, "deis-tab3": 10, "unipc-3": 10}
NEAR, FAR = 1e-5, 1e-3
"""How far samples in [-1, 1] may be apart: the root mean square over all pixels, and the worst single one.

A network's sums are grouped by batch and thread, which moves its output by some 1e-6; the steps amplify that, in some
samples more than in others. 1e-3 is an eighth of an 8-bit level.
"""

SCRIPT = """
import sys, torch
from safetensors.torch import save_file
from fewstep import models, run, schedules, solvers
from fewstep.noise import normal
out, threads, batch, start, stop, seed = sys.argv[1], *map(int, sys.argv[2:7])
torch.set_num_threads(threads)
ids, network, found = range(start, stop), models.load("digits-unet"), {}
for draw in range(3):
    found[f"noise-{draw}"] = normal(seed, draw, ids, (1, 8, 8))
for name, calls in (word.split("=") for word in sys.argv[7:]):
    plan = solvers.build(name, schedules.linear_vp(), int(calls))
    found[name] = run.generate(plan, network, (1, 8, 8), ids, seed=seed, batch_size=batch)
save_file(found, out)
"""


@pytest.fixture(scope="module")
def network():
    return models.load("digits-unet")


@pytest.fixture(scope="module")
def whole(network):
    """All samples in one batch, in this process."""
    return {name: draw(name, network, N) for name in SOLVERS}


def draw(name, network, batch, numbers=range(N)):
    plan = solvers.build(name, LAW, SOLVERS[name])
    return run.generate(plan, network, SHAPE, numbers, seed=SEED, batch_size=batch)


def check_alike(found, expected):
    assert found.dtype == torch.float32 and found.shape == expected.shape
    apart = (found - expected).double()
    assert apart.square().mean().sqrt() < NEAR and apart.abs().max() < FAR


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_noise_is_the_same_to_the_bit_in_any_batch(batch, dtype):
    for number in range(4):
        expected = normal(SEED, number, range(N), SHAPE, dtype)
        parts = [normal(SEED, number, part, SHAPE, dtype) for part in torch.arange(N).split(batch)]
        assert torch.equal(torch.cat(parts), expected)


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("name", SOLVERS)
def test_samples_are_the_same_in_any_batch(network, whole, name, batch):
    check_alike(draw(name, network, batch), whole[name])


@pytest.mark.parametrize("name", SOLVERS)
def test_samples_are_the_same_in_any_order(network, whole, name):
    numbers = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    check_alike(draw(name, network, 16, numbers.tolist()), whole[name][numbers])


@pytest.mark.parametrize("name", ["ddim", "ddpm", "pndm-f"])
def test_what_differs_is_rounding(name):
    """With the same network in float64 nothing is left of it, not even where the rule amplifies it, as F-PNDM does."""
    network = models.load("digits-unet").double()
    plan = solvers.build(name, LAW, 13)
    one, all_ = (
        run.generate(plan, network, SHAPE, range(8), seed=SEED, batch_size=batch, dtype=torch.float64)
        for batch in (1, 8)
    )
    assert 0 < one.abs().max() and (one - all_).abs().max() < 1e-11


def environment(threads):
    named = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    return {**os.environ, **named, "CUDA_VISIBLE_DEVICES": ""}


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_two_processes_draw_what_one_does(tmp_path, whole, threads):
    """Each draws half of the samples, both at the same time, in batches of 7 and 64."""
    middle = N // 2
    jobs = []
    for part, (start, stop, batch) in enumerate([(0, middle, 7), (middle, N, 64)]):
        arguments = [tmp_path / f"{part}.safetensors", threads, batch, start, stop, SEED]
        arguments += [f"{name}={calls}" for name, calls in SOLVERS.items()]
        command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
        jobs.append(subprocess.Popen(command, env=environment(threads)))
    assert [job.wait() for job in jobs] == [0, 0]
    one, other = (load_file(tmp_path / f"{part}.safetensors") for part in range(2))
    for number in range(3):
        found = torch.cat([one[f"noise-{number}"], other[f"noise-{number}"]])
        assert torch.equal(found, normal(SEED, number, range(N), SHAPE))
    for name, expected in whole.items():
        check_alike(torch.cat([one[name], other[name]]), expected)


class Pixels:
    """In the place of a feature network: the 8-bit levels themselves."""

    shape = SHAPE

    def __call__(self, images):
        assert images.dtype == torch.uint8
        return images.flatten(1).float()


@pytest.mark.parametrize("batch", [1, 7, 64])
@pytest.mark.parametrize("name", ["ddim", "ddpm"])
def test_shards_hold_the_same_images(network, whole, name, batch):
    """Up to a level where rounding decides between two of them, in one pixel of a thousand at most."""
    plan = solvers.build(name, LAW, SOLVERS[name])
    parts = [
        shards.draw(plan, network, Pixels(), range(*ends), seed=SEED, batch=batch, keep=N) for ends in ((0, 9), (9, N))
    ]
    found = shards.merge(parts).rows
    expected = shards.of_images(whole[name], Pixels(), keep=N).rows
    apart = (found - expected).abs()
    assert apart.max() <= 1 and (apart > 0).double().mean() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(("threads", "batch"), [(1, 7), (2, 64)])
def test_the_command_line_draws_the_same(tmp_path, whole, threads, batch):
    out = tmp_path / "samples.safetensors"
    command = ["sample", "--solver", "ddpm", "--nfe", SOLVERS["ddpm"], "--samples", N, "--seed", SEED]
    command = [sys.executable, "-m", "fewstep", *command, "--batch-size", batch, "--out", out]
    done = subprocess.run([*map(str, command)], env=environment(threads), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    check_alike(load_file(out)["samples"], whole["ddpm"])
