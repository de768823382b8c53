r"""Predictor–corrector sampling with Langevin steps sized by norms (score SDE, Algorithm 1).

A Langevin step at time t,

.. math:: x \leftarrow x + \delta\,s + \sqrt{2\delta}\,z, \qquad
          \delta = 2\,a^2\left(r\,\frac{\lVert z\rVert}{\lVert s\rVert}\right)^2, \qquad
          s = -\varepsilon(x, t)/\sigma_t ,

has a weight that depends on the network's output, so it is no table. All else is: the predictors are those of
:mod:`fewstep.solvers.score_sde`, and a corrector of fixed size is its
:func:`~fewstep.solvers.score_sde.annealed_langevin`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..errors import UserError
from ..grids import Grid, check
from ..noise import normal
from ..run import Model
from ..schedules import Process
from ..solvers.score_sde import (
    Predictor,
    Transition,
    check_corrector,
    exact_transition,
    find_predictor,
)

__all__ = ["predictor_corrector"]


@torch.no_grad()
def predictor_corrector(
    process: Process,
    times: Grid,
    model: Model,
    x: Tensor,
    *,
    predictor: Predictor | str | None = "reverse-diffusion",
    corrections: int = 1,
    snr: float = 0.16,
    per_sample: bool = True,
    transition: Transition = exact_transition,
    correct_start: bool = False,
    denoise: bool = True,
    seed: int = 0,
    ids: Iterable[int] | Tensor | None = None,
    noise: Callable[[int], Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""Run a predictor along a grid, with Langevin steps before each of its steps but the first.

    By default every sample has its own norms. As published, the norms are means over the batch, and with them what
    sample i becomes depends on which others happen to be beside it; then no sample is reproducible by its seed and
    number alone, and results change with the batch size. The two agree as the dimension grows, since norms then hardly
    vary between samples. In a few dimensions a single score can be very short and its step very long:
    :func:`~fewstep.solvers.score_sde.annealed_langevin` or the batch's norms are the safer choice there.

    Args:
        process: the network's.
        times: the grid; n steps make n calls of a predictor and ``corrections`` calls at each corrected time.
        model: an ε-model.
        x: start states at ``times[0]``, shape ``(B, *shape)``.
        predictor: weights of a step, a function or a name in :data:`fewstep.solvers.score_sde.PREDICTORS`; None:
            corrections only.
        corrections: M, Langevin steps at each time, at least 1.
        snr: r, the ratio of the lengths of the score's and the noise's parts (signal-to-noise ratio).
        per_sample: norms of each sample by itself; False: their means over the batch, as published.
        transition: gives a (score SDE's :math:`\sqrt{1 - \beta_i}` for VP, 1 for VE); the process's own unless given.
        correct_start: correct the start state too, as the authors' program does; always without a predictor.
        denoise: return the mean of the predictor's last step, without its noise.
        seed: of the injected noise (:func:`fewstep.noise.normal`).
        ids: the sample numbers of the batch, 0 … B − 1 unless given.
        noise: replaces the counter-based noise: a function from the draw's number (0, 1, …) to a tensor like ``x``.
        dtype: of states and combinations.

    Returns:
        The state at ``times[-1]``, shape of ``x``.

    Raises:
        UserError: for an unknown predictor, fewer than one correction, an snr that is not positive, or a result that
            is not finite.
    """
    check_corrector(corrections, snr)
    times, predictor = check(process, times), predictor if predictor is None else find_predictor(predictor)
    x = x.to(dtype, copy=True)
    draw = _draws(x, seed, ids, noise)
    for i, (t, u) in enumerate(zip(times[:-1].tolist(), times[1:].tolist(), strict=True)):
        now = torch.full((len(x),), t, dtype=dtype, device=x.device)
        if i > 0 or correct_start or predictor is None:
            a = transition(process, t, u)[0]
            for _ in range(corrections):
                score, z = model(x, now).to(dtype) * (-1.0 / float(process.sigma(t))), draw()
                x = _langevin(x, score, z, 2.0 * (a * snr) ** 2, per_sample)
        if predictor is not None:
            step = predictor(process, t, u)
            x = step.x * x + step.eps * model(x, now).to(dtype)
            if step.noise is not None:
                z = draw()
                x = x if denoise and i == len(times) - 2 else x + step.noise * z
    if not torch.isfinite(x).all():
        raise UserError(
            "the result is not finite: a network output is not, or a Langevin step was too long (lower snr)"
        )
    return x


def _draws(
    x: Tensor, seed: int, ids: Iterable[int] | Tensor | None, noise: Callable[[int], Tensor] | None
) -> Callable[[], Tensor]:
    """The noises 0, 1, … in order, each like x."""
    numbers = torch.arange(len(x)) if ids is None else torch.as_tensor(ids)
    count = -1

    def draw() -> Tensor:
        nonlocal count
        count += 1
        if noise is not None:
            return noise(count).to(x)
        return normal(seed, count + 1, numbers, x.shape[1:], x.dtype, x.device)  # draw 0 is the start state

    return draw


def _langevin(x: Tensor, score: Tensor, z: Tensor, scale: float, per_sample: bool) -> Tensor:
    """One Langevin step of size ``scale`` · (‖z‖/‖s‖)²."""
    length, signal = _norm(z), _norm(score)
    ratio = length / signal if per_sample else length.mean() / signal.mean()
    size = (scale * ratio**2).reshape(-1, *[1] * (x.dim() - 1))
    return x + size * score + torch.sqrt(2.0 * size) * z


def _norm(x: Tensor) -> Tensor:
    """‖x_i‖ of every sample, shape (B,).

    A sum of halves: the order of the additions is that of elementwise operations, the same for every batch size and on
    every device, where a library's reduction may choose another.
    """
    square = x.flatten(1).square()
    while square.shape[1] > 1:
        half = (square.shape[1] + 1) // 2
        head, tail = square[:, :half], square[:, half:]
        square = head + torch.nn.functional.pad(tail, (0, half - tail.shape[1]))
    return square[:, 0].sqrt()
