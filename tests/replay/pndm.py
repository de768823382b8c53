"""The vectors of PNDM's program."""

from __future__ import annotations

import numpy as np

from fewstep.solvers.classical import fon, unit_transfer_slope
from fewstep.solvers.ddim import ddim
from fewstep.solvers.pndm import f_pndm, s_pndm

from .problem import DISCRETE, VP, Problem, Run, Table, replay
from .score_sde import rk45_in_single


def _pndm(p: Problem, run: str, n: int, info, data) -> Run | None:
    method, _, variant = run.partition("_")
    if method == "PF":
        return rk45_in_single(p, VP, info["tol"], 1e-3)
    solver = {
        "DDIM": ddim,
        "S-PNDM": s_pndm,
        "F-PNDM": f_pndm,
        "FON": lambda process, times: fon(process, times, slope=unit_transfer_slope),
    }.get(method)
    if solver is None:
        return None
    # The program looks its table up at floor(label) + 1, so that label −1 stands at ᾱ_0 and 999 is never used.
    process = Table(p.alpha_bar, "floor")
    times = np.append(np.arange(0, 1000, 1000 // n)[::-1].astype(float), -1.0)
    return replay(p, solver(process, times), p.model(DISCRETE, 1.0 if variant.startswith("shift1") else 0.0))


BUILDERS = {"pndm": _pndm}
