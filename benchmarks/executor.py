"""The executor's own time per row beside the schedulers of diffusers, on the same tensors in the same run.

The model costs nothing here (it hands back a stored tensor): what is timed is all that a sampler adds to its network.
Run with ``make bench``.
"""

from __future__ import annotations

import statistics
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
REPEATS = 7

PAIRS = {
    "ddim": DDIMScheduler(),
    "ddpm": DDPMScheduler(clip_sample=False),
    "pndm-f": PNDMScheduler(),
    "ipndm-4": IPNDMScheduler(),
    "deis-tab3": DEISMultistepScheduler(solver_order=3),
}
"""Our solver and diffusers' scheduler of the same method."""


def per_row(run: Callable[[], int]) -> float:
    """Microseconds per row: the median over repeats, after one run to warm up."""
    run()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        rows = run()
        times.append((time.perf_counter() - start) / rows)
    return 1e6 * statistics.median(times)


def main() -> None:
    x, eps = torch.randn(SHAPE), torch.randn(SHAPE)
    process = linear_vp()
    print(f"{'x'.join(map(str, SHAPE))} float32, {STEPS} calls, {torch.get_num_threads()} threads")
    print(f"µs per row, median of {REPEATS} runs")
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

        a, f, b = per_row(ours), per_row(lambda ours=ours: ours(fused=True)), per_row(theirs)
        print(f"{name:12s} {a:9.0f} {f:7.0f} {b:10.0f} {a / b:7.3f} {f / b:7.3f}   {type(scheduler).__name__}")
    own = per_row(lambda: len([normal(0, draw, range(SHAPE[0]), SHAPE[1:]) for draw in range(5)]))
    plain = per_row(lambda: len([torch.randn(SHAPE) for _ in range(5)]))
    print(f"one draw of noise (inside the step in diffusers' DDPM): ours {own:.0f} µs, torch.randn {plain:.0f} µs")


if __name__ == "__main__":
    main()
