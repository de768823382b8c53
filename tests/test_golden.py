"""The authors' own programs, replayed. ``FEWSTEP_GOLDEN=DIR`` replays another folder of the same layout."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch
from replay import DISCRETE, Case, Problem, cases

OWN = Path(__file__).parent / "golden"
FOLDER = Path(os.environ.get("FEWSTEP_GOLDEN") or OWN)

MATCHED = {
    "analytic-dpm": 12,
    "ddim": 24,
    "deis": 212,
    "derived_not_upstream": 74,
    "diff-sampler": 204,
    "diffusers": 167,
    "dpm-solver": 240,
    "edm": 6,
    "fastdpm": 13,
    "gradient-estimation-sampler": 44,
    "k-diffusion": 120,
    "pndm": 20,
    "smalldiffusion": 30,
    "unipc": 336,
}
"""How many vectors of the project's own folder match. A smaller number is a failure."""

COUNTS: dict[str, list[int]] = {}
"""Per program: matched, explained, total. Printed at the end of the run (conftest.py)."""


def _noise_on_the_result(case: Case, x: torch.Tensor) -> bool:
    """diffusers' DDPM adds noise whenever its label is positive, even in the step to ᾱ = 1.

    DDPM's Algorithm 2 has z = 0 there: with trailing labels and the larger variance its result is ours plus √β z.
    """
    if not case.run.startswith("DDPM_trailing_fixed_large"):
        return False
    last = np.round(1000 - (case.steps - 1) * 1000 / case.steps) - 1
    extra = float(DISCRETE.sigma(last)) * Problem.load(FOLDER).noise[case.steps - 1]
    return bool(np.abs((x + extra).numpy() - case.expected).max() < 1e-9 * np.abs(case.expected).max())


EXPLAINED = {"diffusers": _noise_on_the_result}
"""Per program: the vectors that differ, with the reason in the docstring and the difference itself checked."""


@pytest.fixture(scope="module")
def by_program() -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = defaultdict(list)
    for case in cases(FOLDER):
        found[case.program].append(case)
    return found


@pytest.mark.parametrize("program", sorted(p.stem for p in FOLDER.glob("*.npz") if p.stem != "problem"))
def test_program(program: str, by_program: dict[str, list[Case]]) -> None:
    mine = by_program[program]
    matched, explained, wrong = 0, 0, []
    for case in mine:
        if case.replay is None:
            continue
        x, calls = case.replay()
        error = np.abs(x.numpy() - case.expected).max() / np.abs(case.expected).max()
        if error < case.tolerance and calls == case.calls:
            matched += 1
        elif program in EXPLAINED and EXPLAINED[program](case, x):
            explained += 1
        else:
            wrong.append(f"{case.name}: relative error {error:.2g}, {calls} calls instead of {case.calls}")
    COUNTS[program] = [matched, explained, len(mine)]
    assert not wrong, "\n".join(wrong)
    if FOLDER == OWN:
        assert matched >= MATCHED.get(program, 0)
