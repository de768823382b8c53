"""The executor: one loop that runs any plan on any ε-model."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from .errors import UserError
from .noise import normal
from .plan import Plan

__all__ = ["Hook", "Model", "generate", "sample"]

Model = Callable[[Tensor, Tensor], Tensor]
"""An ε-model: ``model(x, t)`` with x of shape ``(B, *shape)`` and t of shape (B,), returns ε of the shape of x."""

Hook = Callable[[int, Tensor, float], Tensor | None]
"""``hook(k, x, t)`` sees the state before call k (and the result, k = NFE); a tensor that it returns replaces it."""


@torch.no_grad()
def sample(
    plan: Plan,
    model: Model,
    x: Tensor,
    *,
    seed: int = 0,
    ids: Iterable[int] | Tensor | None = None,
    noise: Callable[[int], Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    autocast: torch.dtype | None = None,
    hook: Hook | None = None,
    fused: bool = False,
) -> Tensor:
    """Run ``plan`` from the start states ``x``.

    One model call and one fused combination per row, no host synchronisation in the loop. ``x`` is left as it is.

    Args:
        plan: the sampler.
        model: an ε-model.
        x: start states, shape ``(B, *shape)``, at ``plan.times[0]`` (standard deviation ``plan.prior_std``).
        seed: of the injected noise (:func:`fewstep.noise.normal`); not used by a deterministic plan.
        ids: the sample numbers of the batch, 0 … B − 1 unless given; sample i gets the same noise in any batch.
        noise: replaces the counter-based noise: a function from the draw's number (0, 1, …) to a tensor like ``x``.
        dtype: of states and combinations (float64 to verify).
        autocast: run the network under autocast in this dtype.
        hook: see :data:`Hook`.
        fused: form each row by one compiled kernel instead of one in-place operation for each operand. A C++ compiler
            or a GPU is needed, and a second or so for each new number and shape of operands.

    Returns:
        The state at ``plan.times[-1]``, shape of ``x``, dtype ``dtype``.

    Raises:
        UserError: if the model returns another shape, or anything that is not finite (said with call and time).
    """
    result = _execute(plan, model, x, seed, ids, noise, dtype, autocast, hook, fused, check=False)
    if not torch.isfinite(result).all():
        # The loop does not look at values, since that would stall a GPU at every call. Run it again and look.
        _execute(plan, model, x, seed, ids, noise, dtype, autocast, hook, fused, check=True)
        raise UserError("the result is not finite although every network output is: the plan's weights overflow")
    return result


def _execute(
    plan: Plan,
    model: Model,
    x: Tensor,
    seed: int,
    ids: Iterable[int] | Tensor | None,
    noise: Callable[[int], Tensor] | None,
    dtype: torch.dtype,
    autocast: torch.dtype | None,
    hook: Hook | None,
    fused: bool,
    check: bool,
) -> Tensor:
    if noise is None:
        numbers = torch.arange(len(x)) if ids is None else torch.as_tensor(ids)

        def noise(draw: int) -> Tensor:  # draw 0 is the start state
            return normal(seed, draw + 1, numbers, x.shape[1:], dtype, x.device)

    times = torch.as_tensor(plan.times, dtype=dtype).to(x.device)[:, None].expand(-1, len(x)).unbind()
    weights = _weights(plan, dtype, x.device) if fused else None
    slots: list[Tensor | None] = [None] * plan.slots
    state = x.to(dtype, copy=True)
    last = len(plan.rows) - 1
    with contextlib.ExitStack() as stack:
        if autocast is not None:  # reaches the network only: sums and multiples are not on autocast's lists
            stack.enter_context(torch.autocast(x.device.type, dtype=autocast))
        for number, row in enumerate(plan.rows):
            if number:
                if weights is None:
                    state = _combine(row.terms, row.in_place, slots)
                    for draw, weight in row.noises:
                        state.add_(noise(draw).to(state), alpha=weight)
                else:
                    operands: list[Any] = [slots[slot] for slot, _ in row.terms]
                    operands += [noise(draw).to(operands[0]) for draw, _ in row.noises]
                    state = _fused(weights[number], operands, row.in_place)
            if hook is not None:
                for call in [call for call, _ in row.calls] or [plan.nfe] * (number == last):
                    replaced = hook(call, state, float(plan.times[call]))
                    state = state if replaced is None else replaced.to(state)
            slots[row.out] = state
            for call, slot in row.calls:
                eps = model(state, times[call])
                if eps.shape != x.shape:
                    raise UserError(
                        f"the model returned shape {tuple(eps.shape)} at call {call} (t = {plan.times[call]:g});"
                        f" the shape of its input, {tuple(x.shape)}, is needed"
                    )
                if check and not torch.isfinite(eps).all():
                    kind = "NaN" if torch.isnan(eps).any() else "an infinity"
                    raise UserError(f"the model returned {kind} at call {call} (t = {plan.times[call]:g})")
                slots[slot] = _own(eps if eps.dtype == dtype else eps.to(dtype), state)
    return state


def _combine(terms: Sequence[tuple[int, float]], in_place: bool, slots: list[Tensor | None]) -> Tensor:
    """Σ c · slot, in the first operand's memory where that is allowed."""
    slot, weight = terms[0]
    first = slots[slot]
    assert first is not None
    state = first.mul_(weight) if in_place else first.mul(weight)
    for slot, weight in terms[1:]:
        operand = slots[slot]
        assert operand is not None
        state.add_(operand, alpha=weight)
    return state


def _weights(plan: Plan, dtype: torch.dtype, device: torch.device) -> Sequence[Tensor]:
    """The weights of every row as tensors: as numbers, each would be compiled into a kernel of its own."""
    rows = [[weight for _, weight in (*row.terms, *row.noises)] for row in plan.rows]
    width = 4 * math.ceil(max(map(len, rows)) / 4)  # 16 bytes: kernels on a GPU read only from aligned addresses
    table = torch.tensor([row + [0.0] * (width - len(row)) for row in rows], dtype=dtype).to(device)
    return [weights[: len(row)] for weights, row in zip(table.unbind(), rows, strict=True)]


_kernels: dict[tuple[object, ...], Callable[..., Any]] = {}


def _fused(weights: Tensor, operands: list[Tensor], in_place: bool) -> Tensor:
    """Σ c · operand by one kernel, made at the first row of this number, dtype and layout of operands.

    The compiler is called without the front end of ``torch.compile``, whose checks at every call would take as long as
    the kernel: that a kernel fits its operands is known from their layout, the key.
    """
    first = operands[0]
    key = (in_place, first.dtype, first.device, first.shape, *[operand.stride() for operand in operands])
    kernel = _kernels.get(key)
    if kernel is None:
        kernel = _kernels[key] = _compile([weights, *operands], in_place)
    state: Tensor = kernel(weights, *operands)[0]
    return state


def _compile(arguments: list[Any], in_place: bool) -> Callable[..., Any]:
    from torch._inductor import compile
    from torch.fx.experimental.proxy_tensor import make_fx

    def weighted_sum(weights: Tensor, *operands: Tensor) -> list[Tensor]:
        total = weights[0] * operands[0]
        for k in range(1, len(operands)):
            total = total + weights[k] * operands[k]
        return [operands[0].copy_(total) if in_place else total]

    return compile(make_fx(weighted_sum, tracing_mode="fake")(*arguments), arguments)


def _own(eps: Tensor, state: Tensor) -> Tensor:
    """A copy if the network's output lies in the state's memory, which the next row overwrites."""
    if torch.compiler.is_compiling() or eps.untyped_storage().data_ptr() != state.untyped_storage().data_ptr():
        return eps
    return eps.clone()


def generate(
    plan: Plan,
    model: Model,
    shape: Sequence[int],
    ids: Iterable[int],
    *,
    seed: int = 0,
    batch_size: int = 512,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    autocast: torch.dtype | None = None,
    progress: bool = False,
) -> Tensor:
    """Draw the samples with the numbers ``ids``, in batches.

    Sample i of a seed is the same image whatever ``ids`` and ``batch_size`` are.

    Returns:
        A tensor of shape ``(len(ids), *shape)`` on the CPU.
    """
    numbers = torch.as_tensor(list(ids), dtype=torch.int64)
    batches = []
    with tqdm(total=len(numbers), unit="image", disable=not progress, leave=False) as bar:
        for part in numbers.split(batch_size):
            x = plan.prior_std * normal(seed, 0, part, shape, dtype, device)
            batches.append(sample(plan, model, x, seed=seed, ids=part, dtype=dtype, autocast=autocast).cpu())
            bar.update(len(part))
    return torch.cat(batches)
