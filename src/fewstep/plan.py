r"""A sampler is a table.

Between two calls of the network every sampler of this book only forms linear combinations. With calls numbered
:math:`k = 0 … K-1`,

.. math::

    \varepsilon_k = \mathrm{model}(x_k, t_k), \qquad
    x_{k+1} = \sum_{j\le k} X_{kj}\,x_j + \sum_{j\le k} E_{kj}\,\varepsilon_j + \sum_d S_{kd}\,z_d ,

so the sampler *is* the table (t, X, E, S): a :class:`Plan`. (A sampler that adds noise before its first call, corrects
a state after its call, or calls the network twice at one state has more or fewer states than K + 1; the table is the
same.) A solver writes its paper's algorithm on symbols in :math:`\bar x = x/\alpha`; a :class:`Tape` records what it
does. Example, DDIM on a grid ``times``::

    rho = process.rho(times)
    tape = Tape(process, times[0])
    x = tape.x
    for i in range(len(times) - 1):
        x = x + (rho[i + 1] - rho[i]) * tape.eval(x, times[i])
    plan = tape.plan(x, times[-1])
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Canonical", "Plan", "Row", "Schedule", "Symbol", "Tape", "difference"]

Float = NDArray[np.float64]
Term = tuple[str, int]
"""A basis vector: ("x", m) state m, ("e", k) the output of call k, ("z", d) the d-th noise."""
Terms = Mapping[Term, float]


class Schedule(Protocol):
    """What a tape asks of a process."""

    prior_std: float

    def alpha(self, t: ArrayLike) -> Float: ...
    def sigma(self, t: ArrayLike) -> Float: ...


class Symbol:
    """A linear combination of states, network outputs and noises. Supports +, −, and multiplication by numbers."""

    __slots__ = ("terms",)

    def __init__(self, terms: Terms) -> None:
        self.terms = dict(terms)

    def __add__(self, other: Symbol | int) -> Symbol:
        if not isinstance(other, Symbol):
            if other == 0:  # so that sum() works
                return self
            return NotImplemented
        terms = dict(self.terms)
        for key, c in other.terms.items():
            terms[key] = terms.get(key, 0.0) + c
        return Symbol(terms)

    __radd__ = __add__

    def __mul__(self, c: float) -> Symbol:
        c = float(c)
        return Symbol({key: c * v for key, v in self.terms.items()})

    __rmul__ = __mul__
    # NumPy scalars must defer to the methods above instead of building an array of objects.
    __array_ufunc__ = None

    def __truediv__(self, c: float) -> Symbol:
        return self * (1.0 / float(c))

    def __neg__(self) -> Symbol:
        return self * -1.0

    def __sub__(self, other: Symbol) -> Symbol:
        return self + other * -1.0


class Tape:
    r"""Records a solver's calls and combinations.

    Symbols are in :math:`\bar x = x/\alpha`; the tape multiplies by α(t) where the network wants x.

    Args:
        process: gives α(t) and σ(t).
        t_start: the time of the start state.

    Attributes:
        x: the symbol of the start state :math:`\bar x_0`.
    """

    def __init__(self, process: Schedule, t_start: float) -> None:
        self.process = process
        self.x = Symbol({("x", 0): 1.0 / float(process.alpha(t_start))})
        self._states: list[Terms] = []
        self._inputs: list[int] = []
        self._times: list[float] = []
        self._draws = 0

    def eval(self, x: Symbol, t: float) -> Symbol:
        r"""Call the network at state :math:`\bar x` and time t; returns the symbol of ε.

        The state gets a name of its own, as by :meth:`store`.
        """
        self.store(x, t)
        self._inputs.append(len(self._states))
        self._times.append(float(t))
        return Symbol({("e", len(self._times) - 1): 1.0})

    def store(self, x: Symbol, t: float) -> None:
        r"""Name the sum: from now on ``x`` stands for the stored tensor :math:`\alpha(t)\,\bar x`, not for its terms.

        For a sum at which the network is not called but from which later ones start; unnamed, each of them would carry
        all of its terms along.
        """
        alpha = float(self.process.alpha(t))
        terms = {key: alpha * c for key, c in x.terms.items() if c != 0.0}
        if not _is_state(terms, len(self._states)):
            self._states.append(terms)
            x.terms = {("x", len(self._states)): 1.0 / alpha}

    def noise(self) -> Symbol:
        """A fresh standard normal z. The draw is counted even if its coefficient turns out to be zero."""
        self._draws += 1
        return Symbol({("z", self._draws - 1): 1.0})

    def plan(self, x: Symbol, t_end: float) -> Plan:
        r"""Finish: the result is :math:`x = \alpha(t_{\mathrm{end}})\,\bar x`."""
        alpha = float(self.process.alpha(t_end))
        result = {key: alpha * c for key, c in x.terms.items() if c != 0.0}
        times = np.array([*self._times, float(t_end)])
        return Plan(
            times=times,
            alpha=np.asarray(self.process.alpha(times), dtype=np.float64),
            sigma=np.asarray(self.process.sigma(times), dtype=np.float64),
            inputs=tuple(self._inputs),
            states=(*self._states, result),
            draws=self._draws,
            prior_std=float(self.process.prior_std),
        )


def _is_state(terms: Terms, m: int) -> bool:
    """Whether the combination is the latest state itself (up to the rounding of multiplying by α/α)."""
    return list(terms) == [("x", m)] and abs(terms["x", m] - 1.0) < 8 * sys.float_info.epsilon


@dataclass(frozen=True)
class Canonical:
    r"""The states with all earlier ones eliminated:
    :math:`x_m = a_m x_0 + \sum_j C_{mj}\varepsilon_j + \sum_d S_{md} z_d`.

    Attributes:
        times: times of the K calls and of the end, shape (K + 1,).
        a: weight of the start state in states 1 … M, shape (M,).
        C: weights of the network outputs, shape (M, K). The last row is the sampler as one quadrature rule.
        S: weights of the noises, shape (M, D).
    """

    times: Float
    a: Float
    C: Float
    S: Float


@dataclass(frozen=True)
class Row:
    """One fused combination: slot ``out`` ← Σ c · slot + Σ s · z.

    Attributes:
        out: the slot that receives the state.
        terms: (slot, coefficient); the first is ``out`` itself where the state may be formed in place.
        in_place: whether the first term is a state that dies here, so that its tensor may be overwritten.
        noises: (draw, coefficient).
        calls: (call number, slot of its ε) made at this state.
    """

    out: int
    terms: tuple[tuple[int, float], ...]
    in_place: bool
    noises: tuple[tuple[int, float], ...]
    calls: tuple[tuple[int, int], ...]


@dataclass(frozen=True, eq=False)
class Plan:
    """A sampler: when it calls the network, and what it combines in between.

    Attributes:
        times: times of the K calls, then of the result, shape (K + 1,).
        alpha: α at these times.
        sigma: σ at these times.
        inputs: the state at which each call is made, non-decreasing.
        states: the combination that forms state 1, 2, …, M; the last is the result.
        draws: how many noises the sampler draws (some may have weight zero).
        prior_std: standard deviation of the start state.
    """

    times: Float
    alpha: Float
    sigma: Float
    inputs: tuple[int, ...]
    states: tuple[Terms, ...]
    draws: int
    prior_std: float

    @property
    def nfe(self) -> int:
        """The number of network calls."""
        return len(self.inputs)

    @property
    def stochastic(self) -> bool:
        """Whether any noise enters with a weight other than zero."""
        return any(kind == "z" for terms in self.states for kind, _ in terms)

    def table(self) -> tuple[Float, Float, Float]:
        """The dense table (X, E, S): shapes (M, M), (M, K), (M, D); row m forms state m + 1."""
        m = len(self.states)
        X, E, S = np.zeros((m, m)), np.zeros((m, self.nfe)), np.zeros((m, self.draws))
        for row, terms in enumerate(self.states):
            for (kind, index), c in terms.items():
                {"x": X, "e": E, "z": S}[kind][row, index] = c
        return X, E, S

    def canonical(self) -> Canonical:
        """Eliminate the intermediate states; see :class:`Canonical`."""
        m = len(self.states)
        a, C, S = np.ones(m + 1), np.zeros((m + 1, self.nfe)), np.zeros((m + 1, self.draws))
        for row, terms in enumerate(self.states, start=1):
            a[row] = 0.0
            for (kind, index), c in terms.items():
                if kind == "x":
                    a[row] += c * a[index]
                    C[row] += c * C[index]
                    S[row] += c * S[index]
                else:
                    (C if kind == "e" else S)[row, index] += c
        return Canonical(self.times, a[1:], C[1:], S[1:])

    @property
    def slots(self) -> int:
        """How many tensors of the state's size are alive at once, the current state and ε included."""
        return self._program[0]

    @property
    def rows(self) -> tuple[Row, ...]:
        """The program of the executor: row 0 holds the start state, row m forms state m."""
        return self._program[1]

    @cached_property
    def _program(self) -> tuple[int, tuple[Row, ...]]:
        """Assign slots by last use: a greedy walk, which is optimal since lifetimes are intervals."""
        calls_at: list[list[int]] = [[] for _ in range(len(self.states) + 1)]
        for call, state in enumerate(self.inputs):
            calls_at[state].append(call)
        # Last use of each value, as the number of the state whose combination (or whose call) reads it.
        last: dict[Term, int] = {("x", m): m for m in range(len(self.states) + 1)}
        last |= {("e", call): state for call, state in enumerate(self.inputs)}
        for m, terms in enumerate(self.states, start=1):
            last |= {key: m for key in terms if key[0] != "z"}

        free: list[int] = []
        count = 0
        slot: dict[Term, int] = {}

        def take() -> int:
            nonlocal count
            if free:
                return free.pop()
            count += 1
            return count - 1

        rows = []
        for m in range(len(self.states) + 1):
            terms = self.states[m - 1] if m else {}
            operands = [(key, c) for key, c in terms.items() if key[0] != "z"]
            # A state that dies here is overwritten in place; it goes first.
            operands.sort(key=lambda item: not (item[0][0] == "x" and last[item[0]] == m))
            in_place = bool(operands) and operands[0][0][0] == "x" and last[operands[0][0]] == m
            reads = tuple((slot[key], c) for key, c in operands)
            dying = [slot.pop(key) for key in list(slot) if last[key] <= m]
            if in_place:
                dying.remove(reads[0][0])
            free.extend(dying)
            out = reads[0][0] if in_place else take()
            slot["x", m] = out
            calls = []
            for call in calls_at[m]:
                slot["e", call] = take()
                calls.append((call, slot["e", call]))
            if last["x", m] == m and m < len(self.states):
                free.append(slot.pop(("x", m)))
            noises = tuple((d, c) for (kind, d), c in terms.items() if kind == "z")
            rows.append(Row(out, reads, in_place, noises, tuple(calls)))
        return count, tuple(rows)


def difference(a: Plan, b: Plan) -> float:
    """The largest difference between two samplers' canonical tables and call times; infinite if their shapes differ.

    Two samplers that form the same number of states are the same if and only if this is zero (to rounding). One that
    stores a sum at which it makes no call (:meth:`Tape.store`) has a row more.
    """
    p, q = a.canonical(), b.canonical()
    pairs = [(p.times, q.times), (p.a, q.a), (p.C, q.C), (p.S, q.S)]
    if any(u.shape != v.shape for u, v in pairs):
        return math.inf
    return max(float(np.max(np.abs(u - v), initial=0.0)) for u, v in pairs)
