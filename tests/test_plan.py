"""Plans: the tape, the canonical form, and the storage slots."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fewstep import grids
from fewstep.plan import Tape, difference
from fewstep.run import sample
from fewstep.schedules import VE, ContinuousVP, linear_vp
from fewstep.solvers import SOLVERS, build

DISCRETE, VP = linear_vp(), ContinuousVP()
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BANK = torch.randn(64, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def plans(process):
    for name in SOLVERS:
        grid = "uniform" if name == "ge" and process is VP else None
        yield name, build(name, process, 17, grid)
    yield "ddim eta=0.7", build("ddim", process, 17, "uniform", eta=0.7)
    yield "ge mu=0.5", build("ge", process, 17, "uniform", gamma=1.5, mu=0.5)


@pytest.mark.parametrize("process", [DISCRETE, VP], ids=["discrete", "continuous"])
def test_the_executor_the_table_and_the_canonical_form_agree(process):
    """x_K = a x_0 + Σ C_j ε_j + Σ S_d z_d for whatever the model returns."""
    for name, plan in plans(process):
        outputs = []

        def model(x, t, outputs=outputs):
            outputs.append(torch.sin(3 * x) + t[:, None] / process.t_max)
            return outputs[-1]

        result = sample(plan, model, X, noise=BANK.__getitem__, dtype=torch.float64)
        assert len(outputs) == plan.nfe, name
        form = plan.canonical()
        expected = form.a[-1] * X + sum(c * e for c, e in zip(form.C[-1], outputs, strict=True))
        expected = expected + sum(s * BANK[d] for d, s in enumerate(form.S[-1]))
        # Weights reach 1/α(T) ≈ 150; the sum has at most a few hundred terms.
        scale = abs(form.a[-1]) + np.abs(form.C[-1]).sum() + np.abs(form.S[-1]).sum()
        assert float((result - expected).abs().max()) < 1e-13 * max(scale, 1), name


@pytest.mark.parametrize(
    ("name", "slots"),
    [
        ("ddim", 2), ("ddpm", 2), ("euler", 2), ("ei-score", 2), ("ge", 3), ("ipndm-4", 5), ("deis-tab1", 3),
        ("deis-tab3", 5), ("deis-rhoab3", 5), ("pndm-f", 8), ("deis-rhork-midpoint", 3), ("deis-rhork-heun", 4),
    ],
)  # fmt: skip
@pytest.mark.parametrize("nfe", [16, 50])
def test_slots_are_what_last_use_needs(name, slots, nfe):
    assert build(name, DISCRETE, nfe).slots == slots


def test_no_plan_uses_more_slots_than_live_values():
    """The number of slots equals the largest number of values alive at once, counted independently."""
    for name, plan in plans(DISCRETE):
        uses = {}
        for m, terms in enumerate(plan.states, start=1):
            for key in terms:
                uses[key] = m
        peak = 0
        for m in range(len(plan.states) + 1):
            alive = sum(1 for j in range(m) if uses.get(("x", j), j) > m)
            alive += sum(1 for c, s in enumerate(plan.inputs) if s < m and uses.get(("e", c), s) > m)
            here = sum(1 for s in plan.inputs if s == m)
            peak = max(peak, alive + 1 + here)
        assert plan.slots == peak, name


@pytest.mark.parametrize("name", SOLVERS)
def test_rows_do_not_grow_with_the_steps(name):
    """Memory and time per row are those of the method, however many steps there are."""
    short, long = (build(name, DISCRETE, nfe, "rho7") for nfe in (50, 200))
    assert max(len(row.terms) for row in long.rows) == max(len(row.terms) for row in short.rows)
    assert long.slots == short.slots


def test_a_stored_sum_is_a_state_without_a_call():
    tape = Tape(VP, 0.9)
    x = tape.x
    e = tape.eval(x, 0.9)
    y = x + e
    tape.store(y, 0.5)
    plan = tape.plan(y + e, 0.1)
    assert plan.nfe == 1 and len(plan.states) == 2 and len(plan.states[1]) == 2
    result = sample(plan, lambda x, t: 0.1 * x, X, dtype=torch.float64)
    expected = float(VP.alpha(0.1)) * (X / float(VP.alpha(0.9)) + 0.2 * X)
    torch.testing.assert_close(result, expected)


def test_a_tape_writes_down_the_algorithm():
    times = np.array([0.9, 0.5, 0.1])
    tape = Tape(VP, times[0])
    x = tape.x
    e = tape.eval(x, times[0])
    y = x + 2.0 * e
    f = tape.eval(y, times[1])
    x = sum([x, -e, f / 4]) - 3 * y
    plan = tape.plan(x, times[2])
    a0, a1, a2 = VP.alpha(times)
    X_, E, S = plan.table()
    np.testing.assert_allclose(X_, [[a1 / a0, 0], [a2 / a0, -3 * a2 / a1]], rtol=1e-14)
    np.testing.assert_allclose(E, [[2 * a1, 0], [-a2, a2 / 4]], rtol=1e-14)
    assert plan.nfe == 2 and S.shape == (2, 0) and not plan.stochastic
    form = plan.canonical()
    np.testing.assert_allclose(form.a, [a1 / a0, a2 / a0 - 3 * a2 / a0], rtol=1e-13)
    np.testing.assert_allclose(form.C[-1], [-a2 - 6 * a2, a2 / 4], rtol=1e-13)


def test_two_calls_at_one_state_need_no_second_state():
    tape = Tape(VE(), 0.9)
    x = tape.x
    e = tape.eval(x, 0.9) + tape.eval(x, 0.8)
    plan = tape.plan(x + e, 0.1)
    assert plan.nfe == 2 and len(plan.states) == 1 and plan.inputs == (0, 0)
    result = sample(plan, lambda x, t: x * t[:, None], X, dtype=torch.float64)
    torch.testing.assert_close(result, X + 1.7 * X)


def test_noise_before_the_first_call():
    tape = Tape(VP, 0.9)
    x = tape.x + 0.5 * tape.noise()
    plan = tape.plan(x - tape.eval(x, 0.95), 0.1)
    result = sample(plan, lambda x, t: 0.1 * x, X, noise=BANK.__getitem__, dtype=torch.float64)
    bar = X / float(VP.alpha(0.9)) + 0.5 * BANK[0]
    torch.testing.assert_close(result, float(VP.alpha(0.1)) * (bar - 0.1 * float(VP.alpha(0.95)) * bar))


def test_noise_can_be_used_twice():
    tape = Tape(VE(), 1.0)
    z = tape.noise()
    x = tape.x + z
    x = x + tape.eval(x, 0.9) - z
    plan = tape.plan(x, 0.5)
    result = sample(plan, lambda x, t: torch.zeros_like(x), X, noise=BANK.__getitem__, dtype=torch.float64)
    torch.testing.assert_close(result, X, rtol=0, atol=1e-15)


def test_difference():
    grid = grids.uniform(VP, 6)
    one = build("ddim", VP, 6, grid)
    assert difference(one, one) == 0
    assert difference(one, build("ddim", VP, 7, "uniform")) == math.inf
    assert difference(one, build("ipndm-2", VP, 6, grid)) > 1e-3
    shifted = grid.copy()
    shifted[3] += 1e-6
    assert 1e-7 < difference(one, build("ddim", VP, 6, shifted)) < 1e-2
