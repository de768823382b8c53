"""The authors' own programs, replayed. ``FEWSTEP_GOLDEN=DIR`` replays another folder of the same layout."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from replay import BUILDERS, EXPLAINED, Case, Problem, cases

OWN = Path(__file__).parent / "golden"
FOLDER = Path(os.environ.get("FEWSTEP_GOLDEN") or OWN)

MATCHED = {
    "analytic-dpm": 28,
    "ddim": 24,
    "deis": 212,
    "derived_not_upstream": 74,
    "diff-sampler": 327,
    "diffusers": 345,
    "dpm-solver": 253,
    "edm": 33,
    "fastdpm": 13,
    "gradient-estimation-sampler": 44,
    "k-diffusion": 122,
    "pndm": 21,
    "score_sde_pytorch": 72,
    "smalldiffusion": 30,
    "unipc": 336,
}
"""How many vectors of the project's own folder match. A smaller number is a failure."""

COUNTS: dict[str, list[int]] = {}
"""Per program: matched, explained, total. Printed at the end of the run (conftest.py)."""


@pytest.fixture(scope="module")
def by_program() -> dict[str, list[Case]]:
    found: dict[str, list[Case]] = defaultdict(list)
    for case in cases(FOLDER, BUILDERS):
        found[case.program].append(case)
    return found


@pytest.mark.parametrize("program", sorted(p.stem for p in FOLDER.glob("*.npz") if p.stem != "problem"))
def test_program(program: str, by_program: dict[str, list[Case]]) -> None:
    mine, problem = by_program[program], Problem.load(FOLDER)
    matched, explained, wrong = 0, 0, []
    for case in mine:
        if case.replay is None:
            continue
        try:
            x, calls = case.replay()
        except Exception as error:
            wrong.append(f"{case.name}: {error}")
            continue
        error = np.abs(x.numpy() - case.expected).max() / np.abs(case.expected).max()
        if error < case.tolerance and calls == case.calls:
            matched += 1
        elif program in EXPLAINED and EXPLAINED[program](problem, case, x):
            explained += 1
        else:
            wrong.append(f"{case.name}: relative error {error:.2g}, {calls} calls instead of {case.calls}")
    COUNTS[program] = [matched, explained, len(mine)]
    assert not wrong, "\n".join(wrong)
    if FOLDER == OWN:
        assert matched >= MATCHED.get(program, 0)
