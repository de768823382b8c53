"""The problem of the golden vectors, and how one vector is replayed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fewstep import schedules
from fewstep.exact import GaussianMixture
from fewstep.plan import Plan
from fewstep.run import sample

DISCRETE = schedules.linear_vp()
VP = schedules.ContinuousVP()
EDM = schedules.EDM(sigma_max=1e6)  # any noise level: the programs choose their own


class Table(schedules._VP):
    """A VP process by a table of ᾱ at labels −1, 0, 1, …, looked up by ``rule``."""

    t_min, t_end = -1.0, -1.0

    def __init__(self, alpha_bar: np.ndarray, rule: str) -> None:
        self.alpha_bar, self.rule, self.t_max = alpha_bar, rule, float(len(alpha_bar) - 2)

    def log_alpha(self, t):
        t = np.asarray(t, dtype=np.float64)
        if self.rule == "floor":
            return 0.5 * np.log(self.alpha_bar[np.floor(t).astype(int) + 1])
        return 0.5 * np.log(np.interp(t, np.arange(-1.0, self.t_max + 1), self.alpha_bar))

    def dlog_alpha(self, t):
        piece = np.clip(np.ceil(np.asarray(t, dtype=np.float64)).astype(int), 0, len(self.alpha_bar) - 2)
        return 0.5 * np.diff(self.alpha_bar)[piece] / np.exp(2 * self.log_alpha(t))

    def _t_of_log_alpha(self, log_alpha):
        return np.interp(np.exp(2 * log_alpha), self.alpha_bar[::-1], np.arange(-1.0, self.t_max + 1)[::-1])


@dataclass
class Problem:
    """The mixture of problem.json, its start states and its bank of noise."""

    x_T: Tensor
    noise: Tensor
    means: Tensor
    weights: Tensor
    alpha_bar: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> Problem:
        z = np.load(folder / "problem.npz")
        return cls(*(torch.tensor(z[k]) for k in ("x_T", "noise_bank", "means", "weights")), z["alphabar"])

    def model(self, process: schedules.Process, shift: float = 0.0) -> Callable[[Tensor, Tensor], Tensor]:
        """ε* at label t + shift of ``process``."""
        mixture = GaussianMixture(self.means, 0.3, process, self.weights)
        return lambda x, t: mixture(x, t + shift)


Model = Callable[[Tensor, Tensor], Tensor]
Run = Callable[[], tuple[Tensor, int]]
"""Computes a vector: the result and the number of model calls."""


def replay_labels(
    problem: Problem, solver: Callable[[np.ndarray], Plan], labels: np.ndarray, model: Model, scale: float = 1.0
) -> Run:
    """As :func:`replay`, along a list that may repeat a label: many steps rounded to few labels do.

    From a label to itself a program of one-step methods calls the network and draws a noise, and moves by nothing. So
    the sampler's grid has each label once, and the calls and draws of the repeats are counted.
    """
    moves = np.append(np.diff(labels) < 0, True)
    plan, draws = solver(labels[moves]), np.flatnonzero(moves)

    def run() -> tuple[Tensor, int]:
        x = sample(plan, model, scale * problem.x_T, noise=lambda d: problem.noise[int(draws[d])], dtype=torch.float64)
        return x, len(labels) - 1

    return run


@dataclass
class Case:
    """One vector: where it stands, what it should be, and how to compute it (None: not replayed)."""

    program: str
    run: str
    steps: int
    expected: np.ndarray
    calls: int
    tolerance: float
    replay: Run | None
    info: dict[str, Any] = field(repr=False)
    data: dict[str, np.ndarray] = field(repr=False)

    @property
    def name(self) -> str:
        return f"{self.program}/{self.run}/{self.steps}"


Builder = Callable[[Problem, str, int, dict[str, Any], dict[str, np.ndarray]], Run | None]
"""``builder(problem, run, steps, info, data)`` replays one run: ``info`` is what settings.json says of it, ``data`` are
the other arrays of the vector (``timesteps``, ``sigmas``, ...)."""


def replay(problem: Problem, plan: Plan, model: Model, scale: float = 1.0, bar: bool = False) -> Run:
    """Runs a plan on the recorded noise from ``scale`` · x_T; ``bar``: the program returns x̄ = x/α."""

    def run() -> tuple[Tensor, int]:
        noise = problem.noise.__getitem__
        x = sample(plan, model, scale * problem.x_T, noise=noise, dtype=torch.float64)
        return (x / float(plan.alpha[-1]) if bar else x), plan.nfe

    return run


def _built(builder: Builder, problem: Problem, run: str, steps: int, *about: Any) -> Run | None:
    """The replay; where it cannot be built, one that says why: a vector that is missed must not hide the others."""
    try:
        return builder(problem, run, steps, *about)
    except Exception as error:
        reason = error

        def refused() -> tuple[Tensor, int]:
            raise AssertionError(f"no replay of {run} with {steps} steps: {reason}")

        return refused


def cases(folder: Path, builders: dict[str, Builder]) -> Iterator[Case]:
    """Every finite vector of a folder laid out like tests/golden."""
    settings = json.loads((folder / "settings.json").read_text())
    problem = Problem.load(folder)
    for file in sorted(folder.glob("*.npz")):
        if file.stem == "problem":
            continue
        data = np.load(file)
        runs = settings["repos"].get(file.stem, {}).get("runs", {})
        for key in data.files:
            found = re.fullmatch(r"(.+)__nfe(\d+)__x0", key)
            if not found or not np.isfinite(data[key]).all():
                continue
            run, steps = found[1], int(found[2])
            about = runs.get(run, {})
            fields = {f: data[k] for k in data.files if k.startswith(key[:-2]) and (f := k[len(key) - 2 :])}
            info = {**about.get("settings", {}), **about.get("n", {}).get(str(steps), {})}
            builder = builders.get(file.stem)
            single = "f32" in run or info.get("dtype") == "float32" or info.get("precision") == "f32"
            yield Case(
                file.stem,
                run,
                steps,
                data[key],
                int(fields.get("ncalls", steps)),
                1e-4 if single else 1e-9,
                _built(builder, problem, run, steps, info, fields) if builder else None,
                info,
                fields,
            )
