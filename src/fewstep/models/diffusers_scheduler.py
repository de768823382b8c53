r"""Plans as schedulers of diffusers' pipelines.

A pipeline of diffusers makes the network calls itself and hands each output to a scheduler. Since a
:class:`~fewstep.plan.Plan` says what is combined between two calls, one scheduler serves every deterministic solver::

    pipeline.scheduler = scheduler(plan)
    pipeline("a cat", num_inference_steps=plan.nfe)

    pipeline.scheduler = PlanScheduler("ge", grid="uniform")
    pipeline("a cat", num_inference_steps=10)

A pipeline's ``num_inference_steps`` is then the number of network calls, whatever the solver spends on a step. This
module is imported by name, since diffusers takes seconds to import.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from torch import Tensor

from .. import solvers
from ..errors import UserError, unknown
from ..plan import Plan
from ..schedules import PROCESSES, Process

__all__ = ["PlanScheduler", "scheduler"]

PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a network may predict, in diffusers' words; see :mod:`fewstep.models.protocol` for the conversions."""


class PlanScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # diffusers types config_name twice
    """A scheduler that applies a plan, row by row.

    Args:
        solver: a key of :data:`fewstep.solvers.SOLVERS`; the plan is built when the pipeline says how many calls.
        process: a key of :data:`fewstep.schedules.PROCESSES`, with the defaults of the constructor there:
            ``scaled-linear`` is the process of the latent text-to-image networks.
        grid: a key of :data:`fewstep.grids.GRIDS`; the solver's own by default.
        grid_options: keywords of the grid, such as the noise level ``rho_start`` from which ``log-linear`` starts.
        options: keywords of the solver.
        prediction_type: what the network predicts: ``epsilon``, ``v_prediction`` or ``sample``.
        table: a plan as :func:`scheduler` writes it into the configuration; then the arguments above are not used,
            but ``prediction_type`` is.

    Raises:
        UserError: for an unknown name, and when steps are set, for a budget that the solver cannot spend, a plan with
            noise, or another number of steps than the calls of a given ``table``.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        solver: str = "ddim",
        process: str = "scaled-linear",
        grid: str | None = None,
        grid_options: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        prediction_type: str = "epsilon",
        table: dict[str, Any] | None = None,
    ) -> None:
        if prediction_type not in PREDICTIONS:
            raise unknown("prediction_type", prediction_type, PREDICTIONS)
        solvers.get(solver)
        self.num_inference_steps: int | None = None
        self._fixed = None if table is None else _deterministic(_read(table))
        self.init_noise_sigma = (_process(process) if self._fixed is None else self._fixed).prior_std
        self._plan = self._fixed
        self._calls = 0
        self._slots: list[Tensor | None] = []
        self.timesteps = torch.empty(0) if self._plan is None else _timesteps(self._plan)

    @property
    def plan(self) -> Plan:
        """The plan that is applied.

        Raises:
            UserError: before the number of calls is known.
        """
        if self._plan is None:
            raise UserError("the scheduler has no plan yet: call set_timesteps(num_inference_steps) first")
        return self._plan

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Fix the plan, and start at its first call.

        ``timesteps`` becomes the times of the network calls, in order; a Runge–Kutta solver's inner calls are among
        them.

        Args:
            num_inference_steps: the budget of network calls.
            device: of ``timesteps``.

        Raises:
            UserError: see the class.
        """
        if self._fixed is None:
            config: Any = self.config
            process, options = _process(config.process), config.options or {}
            plan = solvers.build(
                config.solver, process, num_inference_steps, config.grid, config.grid_options, **options
            )
            self._plan = _deterministic(plan)
        elif num_inference_steps != self._fixed.nfe:
            raise UserError(
                f"this scheduler's plan makes {self._fixed.nfe} network calls, not {num_inference_steps}:"
                f" set num_inference_steps={self._fixed.nfe}, or name the solver instead of giving a plan"
            )
        self.num_inference_steps = num_inference_steps
        self.timesteps = _timesteps(self.plan).to(device)
        self._calls = 0
        self._slots = [None] * self.plan.slots

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample itself: a plan's states are what the network takes."""
        return sample

    def step(
        self, model_output: Tensor, timestep: float | Tensor, sample: Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[Tensor]:
        """From the network's output at one call to the state of the next one, or to the result.

        Combinations are formed in float32 at least.

        Args:
            model_output: what the network predicted at ``sample``.
            timestep: the time of the call, the next of ``timesteps``.
            sample: the state at which the network was called.
            return_dict: a ``SchedulerOutput``; otherwise a tuple of one tensor.

        Raises:
            UserError: if the call is not the plan's next one.
        """
        plan, call = self.plan, self._calls
        if self.num_inference_steps is None or call == plan.nfe:
            raise UserError(f"the plan has {plan.nfe} calls: set_timesteps starts it, and starts it again")
        if abs(float(timestep) - plan.times[call]) > 1e-6 * max(1.0, abs(plan.times[call])):
            raise UserError(f"call {call} is at time {plan.times[call]:g}, not {float(timestep):g}: steps go in order")
        dtype = torch.promote_types(sample.dtype, torch.float32)
        state, eps = sample.to(dtype), self._eps(model_output.to(dtype), sample.to(dtype))
        number = plan.inputs[call]
        self._slots[plan.rows[number].out] = state
        self._slots[dict(plan.rows[number].calls)[call]] = eps
        self._calls += 1
        end = plan.inputs[call + 1] if call + 1 < plan.nfe else len(plan.states)
        for row in plan.rows[number + 1 : end + 1]:
            # Not in place: the pipeline, or a callback of the user's, may hold the tensor.
            (slot, weight), *rest = row.terms
            state = weight * self._value(slot)
            for slot, weight in rest:
                state = state.add_(self._value(slot), alpha=weight)
            self._slots[row.out] = state
        result = state.to(sample.dtype)
        return SchedulerOutput(prev_sample=result) if return_dict else (result,)

    def _value(self, slot: int) -> Tensor:
        value = self._slots[slot]
        assert value is not None  # calls are made in order, and a row reads what earlier ones wrote
        return value

    def _eps(self, output: Tensor, state: Tensor) -> Tensor:
        alpha, sigma = float(self.plan.alpha[self._calls]), float(self.plan.sigma[self._calls])
        prediction = self.config.prediction_type  # type: ignore[attr-defined]
        if prediction == "v_prediction":
            return (alpha * output + sigma * state) / (alpha**2 + sigma**2)
        return output if prediction == "epsilon" else (state - alpha * output) / sigma


def scheduler(plan: Plan, prediction_type: str = "epsilon") -> PlanScheduler:
    """A scheduler that applies this plan; its configuration holds the whole table, so that a saved one keeps it.

    Args:
        plan: a deterministic sampler, for the process that the pipeline's network was trained on.
        prediction_type: what the network predicts: ``epsilon``, ``v_prediction`` or ``sample``.

    Raises:
        UserError: for a plan with noise, or another ``prediction_type``.
    """
    table: dict[str, Any] = {
        "times": plan.times.tolist(),
        "alpha": plan.alpha.tolist(),
        "sigma": plan.sigma.tolist(),
        "inputs": list(plan.inputs),
        "states": [[[*term, weight] for term, weight in terms.items()] for terms in plan.states],
        "draws": plan.draws,
        "prior_std": plan.prior_std,
    }
    return PlanScheduler(prediction_type=prediction_type, table=table)


def _process(name: str) -> Process:
    if name not in PROCESSES:
        raise unknown("process", name, PROCESSES)
    make: Any = PROCESSES[name]
    return make()


def _read(table: Mapping[str, Any]) -> Plan:
    """The plan that :func:`scheduler` wrote down."""
    if set(table) != {field.name for field in dataclasses.fields(Plan)}:
        raise UserError("table is not a plan as fewstep.models.diffusers_scheduler.scheduler writes it")
    return Plan(
        times=np.array(table["times"], dtype=np.float64),
        alpha=np.array(table["alpha"], dtype=np.float64),
        sigma=np.array(table["sigma"], dtype=np.float64),
        inputs=tuple(table["inputs"]),
        states=tuple({(kind, index): weight for kind, index, weight in terms} for terms in table["states"]),
        draws=table["draws"],
        prior_std=table["prior_std"],
    )


def _deterministic(plan: Plan) -> Plan:
    if plan.stochastic:
        raise UserError("the plan injects noise; a pipeline's scheduler needs a deterministic one, such as ddim or ge")
    return plan


def _timesteps(plan: Plan) -> Tensor:
    return torch.as_tensor(plan.times[:-1], dtype=torch.float32)
