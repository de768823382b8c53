"""The executor's own time per row beside the schedulers of diffusers, on the same tensors in the same run.

The model costs nothing here (it hands back a stored tensor): what is timed is all that a sampler adds to its network.
Run with ``make bench``.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    IPNDMScheduler,
    PNDMScheduler,
)

from fewstep.noise import normal
from fewstep.run import sample
from fewstep.schedules import linear_vp
from fewstep.solvers import build

SHAPE = (64, 3, 32, 32)
STEPS = 50
REPEATS = 15

PAIRS = {
    "ddim": DDIMScheduler(),
    "ddpm": DDPMScheduler(clip_sample=False),
    "pndm-f": PNDMScheduler(),
    "ipndm-4": IPNDMScheduler(),
    "deis-tab3": DEISMultistepScheduler(solver_order=3),
}
"""Our solver and diffusers' scheduler of the same method."""


def per_row(*runs: Callable[[], int]) -> list[float]:
    """Microseconds per row of each: the fastest of the repeats, which are taken in turn, after one run to warm up.

    What disturbs a run on a busy machine only adds to its time.
    """
    for run in runs:
        run()
    best = [float("inf")] * len(runs)
    for _ in range(REPEATS):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            rows = run()
            best[i] = min(best[i], (time.perf_counter() - start) / rows)
    return [1e6 * seconds for seconds in best]


def bare(state: torch.Tensor, eps: torch.Tensor, operands: int, count: int = STEPS) -> int:
    """What no executor of torch operations can go below: the sums themselves, one operation for each operand."""
    for _ in range(count):
        state.mul_(0.9)
        for _ in range(operands - 1):
            state.add_(eps, alpha=0.1)
    return count


def main() -> None:
    x, eps = torch.randn(SHAPE), torch.randn(SHAPE)
    process = linear_vp()
    print(f"{'x'.join(map(str, SHAPE))} float32, {STEPS} calls, {torch.get_num_threads()} threads")
    print(f"µs per row, fastest of {REPEATS} runs; fused: one compiled kernel a row")
    print(f"{'':12s} {'fewstep':>9s} {'fused':>7s} {'diffusers':>10s} {'ratio':>7s} {'fused':>7s}   scheduler")
    for name, scheduler in PAIRS.items():
        plan = build(name, process, STEPS, "uniform")
        noise = torch.randn(SHAPE)

        def ours(fused: bool = False, plan=plan, noise=noise) -> int:
            # A stored noise: what drawing it costs is timed apart, below.
            sample(plan, lambda x, t: eps, x, noise=lambda draw: noise, fused=fused)
            return plan.nfe

        def theirs(scheduler=scheduler) -> int:
            scheduler.set_timesteps(STEPS)
            state = x
            for t in scheduler.timesteps:
                state = scheduler.step(eps, t, state).prev_sample
            return len(scheduler.timesteps)

        a, f, b = per_row(ours, lambda ours=ours: ours(fused=True), theirs)
        print(f"{name:12s} {a:9.0f} {f:7.0f} {b:10.0f} {a / b:7.3f} {f / b:7.3f}   {type(scheduler).__name__}")
    state = x.clone()
    two, five = per_row(lambda: bare(state, eps, 2), lambda: bare(state, eps, 5))
    print(f"the bare sum of 2 operands, in place: {two:.0f} µs; of 5 (F-PNDM, iPNDM-4, tAB3): {five:.0f} µs")
    own, plain = per_row(
        lambda: len([normal(0, draw, range(SHAPE[0]), SHAPE[1:]) for draw in range(5)]),
        lambda: len([torch.randn(SHAPE) for _ in range(5)]),
    )
    print(f"one draw of noise (inside the step in diffusers' DDPM): ours {own:.0f} µs, torch.randn {plain:.0f} µs")


if __name__ == "__main__":
    main()
