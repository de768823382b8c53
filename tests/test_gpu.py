"""`make gpu` in small: a tiny network on a few images, on the CPU, cut short once and taken up again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "workflow"))

import smoke  # noqa: E402

PLAN = """\
cifar10:
  train_classifier:
    cells:
      features: {steps: 5, batch: 8, warmup: 0, lr: 0.01, widths: [4, 6, 8, 8]}
  train_unet:
    cells:
      unet:
        minutes: 0.04
        batch: 2
        warmup: 0
        levels: 2
        probe: 4
        unet: {channels: [4, 4], layers: 1, attention_head_dim: 2, norm_num_groups: 2, attention: [1]}
  sanity:
    parameters: {features: cifar10-features}
    cells:
      images: {blurs: [1.0], noises: [0.1], qualities: [20]}
  samples:
    cells:
      grids: {model: cifar10-unet, budgets: [2], samples: 4}
  speed:
    cells:
      ddim: {model: cifar10-unet, calls: 2, batch: 3, repeats: 1, ways: [eager]}
  ode_error:
    parameters: {model: cifar10-unet, features: cifar10-features, budgets: [2], reference_calls: 80, samples: 3}
    cells:
      ddim: {solvers: {ddim: [quadratic]}}
  trajectories:
    cells:
      ddim:
        {model: cifar10-unet, times: [999, 10], steps: [1, 10], nodes: 5, reference_steps: 20, budget: 3, samples: 2}
  fid_cifar:
    cells:
      ddim: {model: cifar10-unet, budgets: [2], samples: 4, batch: 4}
  fd_cifar:
    parameters: {model: cifar10-unet, features: cifar10-features, samples: 12, keep: 12, batch: 5, budgets: [2]}
    cells:
      ddim: {solvers: {ddim: [uniform]}, seeds: [0, 1]}
      sweep: {solvers: {ge: [log-linear]}, gammas: [1.0, 2.0]}
      wrong: {solvers: {ddim: [uniformm]}}
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    root = tmp_path_factory.mktemp("clone")
    for folder in ("src", "workflow", "book/experiments"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "workflow/experiments.yml").write_text(PLAN)
    random = np.random.default_rng(1)
    for part, count in (("train", 3), ("test", 2)):
        for name in "abcdefghij":
            (root / "images" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "images" / part / name / f"{number}.png")
    return root


def gpu(clone, minutes, **more):
    environment = {**os.environ, "FEWSTEP_ROOT": str(clone), "PYTHONPATH": str(clone / "src"), "OMP_NUM_THREADS": "1"}
    environment |= {"FEWSTEP_DATA": str(clone / "images"), "https_proxy": "http://127.0.0.1:9", **more}  # no network
    command = [sys.executable, str(clone / "workflow/gpu.py"), "cifar10", "--minutes", str(minutes)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout + done.stderr


def records(clone):
    return sorted(
        p.relative_to(clone / "data/results/cifar10").as_posix() for p in clone.glob("data/results/*/*/*.json")
    )


def test_a_mistake_costs_nothing(clone):
    code, said = gpu(clone, 1, FEWSTEP_DATA=str(clone / "none"))
    assert code == 2 and said.count("\n") == 1 and "none is not a folder" in said
    plan = clone / "workflow/experiments.yml"
    plan.write_text(PLAN.replace("{ddim: [uniform]}", "{ddimm: [uniform]}"))
    code, said = gpu(clone, 1)
    plan.write_text(PLAN)
    assert code == 2 and "unknown solver 'ddimm'" in said and "start" not in said
    assert not (clone / "data").exists()


def test_cut_short_and_taken_up_again(clone):
    # A deadline that has passed cuts a training after its first block.
    code, said = gpu(clone, 5, FEWSTEP_DEADLINE="0", TRAIN_MINUTES="10")
    assert code == 0, said
    assert "start  cifar10/train_unet/unet" in said and "later  cifar10/train_unet/unet" in said, said
    assert records(clone) == ["train_classifier/features.json"]
    manifest = json.loads((clone / "data/checkpoints/manifest.json").read_text())
    assert list(manifest) == ["cifar10-features.safetensors"]

    code, said = gpu(clone, 5)
    assert code == 1 and "unknown grid 'uniformm'" in said, said  # one bad cell stops no other
    assert "later  cifar10/fid_cifar/ddim: cannot fetch" in said and "1 left, 1 failed" in said
    assert "Traceback" not in said
    assert "train_classifier" not in said  # what is there is left alone
    measured = [
        *("fd_cifar/ddim", "fd_cifar/sweep", "ode_error/ddim", "samples/grids", "sanity/images", "speed/ddim"),
        "trajectories/ddim",
    ]
    assert records(clone) == [
        f"{name}.json" for name in sorted([*measured, "train_classifier/features", "train_unet/unet"])
    ]
    assert (clone / "book/_static/cifar10/ddim-uniform-2.png").exists()
    swept = json.loads((clone / "data/results/cifar10/fd_cifar/sweep.json").read_text())["measurements"]
    assert {m["settings"]["gamma"] for m in swept} == {1.0, 2.0}
    along = json.loads((clone / "data/results/cifar10/trajectories/ddim.json").read_text())["measurements"]
    kinds = {"score_error", "eps_error", "extrapolation_error", "distance", "relative_error"}
    assert {m["metric"] for m in along} == kinds
    record = json.loads((clone / "data/results/cifar10/fd_cifar/ddim.json").read_text())
    metrics = [m["metric"] for m in record["measurements"] if m["seeds"] == [1]]
    assert metrics == ["frechet_distance", "kernel_distance", "precision", "recall", "seconds"]
    assert set(record["provenance"]["weights"]) == {"cifar10-unet", "cifar10-features"}
    sanity = json.loads((clone / "data/results/cifar10/sanity/images.json").read_text())["measurements"]
    distance = {m["settings"]["images"]: m["value"] for m in sanity}
    assert set(distance) == {"train", "test", "blurred", "noised", "JPEG", "half resolution"}
    assert abs(distance["train"]) < 1e-3 * distance["test"]
    smoke.inception(clone)
    code, said = gpu(clone, 5, FEWSTEP_INCEPTION=str(clone / "inception.pth"))
    assert code == 1 and "done   cifar10/fid_cifar/ddim" in said and "0 left, 1 failed" in said, said
    (fid,) = json.loads((clone / "data/results/cifar10/fid_cifar/ddim.json").read_text())["measurements"]
    assert fid["metric"] == "fid" and fid["samples"] == 4 and not fid["settings"]["published_inception"]
    state = clone / "data/cache/train/cifar10-unet.state.safetensors"
    assert state.exists()  # a longer training goes on from there
