"""The check of the book's exercises accepts the solver that is meant and says what is wrong with another one."""

import pytest

from fewstep import exercises, solvers
from fewstep.errors import UserError
from fewstep.plan import Tape


def euler(process, times, *, skip=0, late=0.0, scale=1.0, noise=False):
    rho = process.rho(times)
    tape = Tape(process, times[0])
    x = tape.x
    for i in range(len(times) - 1 - skip):
        x = x + scale**i * (rho[i + 1] - rho[i]) * tape.eval(x, times[i] - late * i)
        x = x + 0.1 * tape.noise() if noise else x
    return tape.plan(x, times[-1])


def test_a_solver_that_is_right(capsys):
    exercises.check(euler, "ddim")
    out = capsys.readouterr().out
    assert (
        out.startswith("the same table as that of ddim: the largest relative difference is ") and out.count("\n") == 1
    )


@pytest.mark.parametrize("name", ["pndm-f", "ipndm-4", "deis-tab3", "deis-rhork-heun", "ge", "dpmpp-2m", "ddpm"])
def test_each_solver_is_itself(name):
    meant = solvers.get(name)
    exercises.check(lambda process, times: meant.load()(process, times, **meant.options), name)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("ddim", {"skip": 1}, r"ddim makes 7 calls, yours 6 \(DiscreteVP, grid uniform, 7 steps\)"),
        ("ddim", {"late": 0.5}, "ddim makes call 1 at t = .*, yours at"),
        ("ddim", {"scale": 1.001}, "state 2 is not that of ddim"),
        ("ddim", {"noise": True}, "ddim forms 7 states with 0 noises, yours 7 with 7"),
        ("ddpm", {}, "ddpm forms 7 states with [67] noises, yours 7 with 0"),
        ("ipndm-4", {}, "state 2 is not that of ipndm-4"),
        ("ipnmd-4", {}, "unknown solver 'ipnmd-4'; did you mean ipndm-4"),
    ],
)
def test_a_solver_that_is_wrong(name, wrong, message):
    with pytest.raises(UserError, match=message) as caught:
        exercises.check(lambda process, times: euler(process, times, **wrong), name)
    assert "\n" not in str(caught.value)


def test_what_is_no_plan():
    with pytest.raises(UserError, match=r"tape\.plan\(x, times\[-1\]\)`; yours gives None"):
        exercises.check(lambda process, times: None, "ddim")
