"""The executor: what a sample may and may not depend on, and what it says of a broken model."""

from __future__ import annotations

import pytest
import torch

from fewstep.errors import UserError
from fewstep.exact import GaussianMixture
from fewstep.noise import normal
from fewstep.run import generate, sample
from fewstep.schedules import VE, linear_vp
from fewstep.solvers import build

PROCESS = linear_vp()
MEANS = 2 * torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
MODEL = GaussianMixture(MEANS, 0.3, PROCESS)
NAMES = ["ddpm", "ddim", "pndm-f", "deis-tab3", "deis-rhork-heun", "ge"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_a_sample_does_not_depend_on_its_batch(name, batch_size):
    plan = build(name, PROCESS, 14)
    whole = generate(plan, MODEL, (3,), range(20), seed=4, batch_size=256, dtype=torch.float64)
    parts = generate(plan, MODEL, (3,), range(20), seed=4, batch_size=batch_size, dtype=torch.float64)
    some = generate(plan, MODEL, (3,), [17, 2], seed=4, dtype=torch.float64)
    # The noise is the same to the bit; matrix products of other shapes round differently.
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(some, whole[[17, 2]], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_float32_is_float64_to_single_precision(name):
    plan = build(name, PROCESS, 20)
    x = normal(0, 0, range(16), (3,), torch.float64)
    double = sample(plan, MODEL, x, dtype=torch.float64)
    single = sample(plan, MODEL, x)
    assert single.dtype == torch.float32
    # ρRK's large weights at few steps (Σ|C| ≈ 10³ for x̄ of size 10²) amplify the 6e-8 of a rounding.
    assert float((single - double).abs().max()) < 2e-3


def test_seeds_and_ids_decide_the_noise():
    plan = build("ddpm", PROCESS, 10)
    x = normal(0, 0, range(4), (3,))
    one = sample(plan, MODEL, x, seed=1)
    assert torch.equal(one, sample(plan, MODEL, x, seed=1, ids=range(4)))
    assert not torch.equal(one, sample(plan, MODEL, x, seed=2))
    assert not torch.equal(one, sample(plan, MODEL, x, seed=1, ids=range(4, 8)))


def test_the_start_state_is_left_alone():
    x = normal(0, 0, range(4), (3,))
    before = x.clone()
    sample(build("deis-tab3", PROCESS, 10), MODEL, x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ["ddim", "deis-tab3", "pndm-f", "edm-heun"])
def test_a_model_may_return_its_input_or_a_view_of_it(name):
    plan = build(name, PROCESS, 14, "uniform")
    x = normal(0, 0, range(4), (3,), torch.float64)
    honest = sample(plan, lambda x, t: x.clone(), x, dtype=torch.float64)
    for model in (lambda x, t: x, lambda x, t: x.view(2, 6).view(4, 3)):
        assert torch.equal(sample(plan, model, x, dtype=torch.float64), honest)


def test_hook_sees_and_replaces_states():
    plan = build("ddim", PROCESS, 5)
    x = normal(0, 0, range(2), (3,), torch.float64)
    seen = []
    result = sample(plan, MODEL, x, dtype=torch.float64, hook=lambda k, x, t: seen.append((k, t, x.clone())))
    assert [k for k, _, _ in seen] == [0, 1, 2, 3, 4, 5]
    assert [t for _, t, _ in seen] == plan.times.tolist()
    assert torch.equal(seen[0][2], x) and torch.equal(seen[-1][2], result)
    zero = sample(plan, MODEL, x, dtype=torch.float64, hook=lambda k, x, t: torch.zeros_like(x) if k == 5 else None)
    assert torch.equal(zero, torch.zeros_like(x))


def test_the_network_may_run_in_another_precision():
    plan = build("ddim", PROCESS, 5)
    seen = []

    def model(x, t):
        out = torch.nn.functional.linear(x, torch.eye(3))
        seen.append(out.dtype)
        return 0.1 * out

    result = sample(plan, model, normal(0, 0, range(2), (3,)), autocast=torch.bfloat16)
    assert set(seen) == {torch.bfloat16} and result.dtype == torch.float32


def test_generate_starts_at_the_prior():
    process = VE(0.01, 50)
    plan = build("ddim", process, 1)
    got = generate(plan, lambda x, t: torch.zeros_like(x), (3,), range(5), seed=9)
    torch.testing.assert_close(got, 50 * normal(9, 0, range(5), (3,)))


@pytest.mark.parametrize(("value", "says"), [(float("nan"), "NaN at call 3"), (float("inf"), "an infinity at call 3")])
def test_not_finite(value, says):
    calls = []

    def model(x, t):
        calls.append(0)
        out = 0.1 * x
        return torch.full_like(x, value) if float(t[0]) < plan.times[2] else out

    plan = build("ddim", PROCESS, 6, "uniform")
    with pytest.raises(UserError, match=rf"{says} \(t = {plan.times[3]:g}\)"):
        sample(plan, model, torch.ones(2, 3))


def test_another_shape():
    plan = build("ddim", PROCESS, 6)
    with pytest.raises(UserError, match=r"shape \(2, 2\) at call 0 .* \(2, 3\), is needed"):
        sample(plan, lambda x, t: x[:, :2], torch.ones(2, 3))


def test_weights_that_overflow():
    plan = build("ddim", PROCESS, 6)
    with pytest.raises(UserError, match="weights overflow"):
        sample(plan, lambda x, t: torch.full_like(x, 3e38), torch.ones(2, 3))


@pytest.mark.parametrize("name", ["ipndm-2", "deis-rhork-heun", "ddpm", "pndm-f", "dpmpp-2m-sde"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_fused_rows_are_the_rows(name, layout):
    """One kernel forms the same sums, injected noise included; what the network hands back stays its own."""
    plan = build(name, PROCESS, 14, "uniform")
    x = normal(0, 0, range(4), (3, 2, 2), torch.float64)
    before = x.clone()
    mixture = GaussianMixture(MEANS[:, :, None, None].expand(-1, -1, 2, 2), 0.3, PROCESS)

    def model(x, t):
        return mixture(x, t).contiguous(memory_format=layout)

    expected = sample(plan, model, x, dtype=torch.float64)
    for size in (4, 1):  # another batch has kernels of its own
        found = sample(plan, model, x[:size], dtype=torch.float64, fused=True)
        # Σ|C| ≈ 10² terms of rounding 1e-16, grown by the steps.
        torch.testing.assert_close(found, expected[:size], rtol=1e-11, atol=1e-11)
    assert torch.equal(x, before)
    single = sample(plan, model, x, fused=True)
    torch.testing.assert_close(single.double(), expected, rtol=1e-3, atol=1e-3)
