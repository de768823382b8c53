"""Training: what a step draws, that it learns, and that an interrupted run ends where an uninterrupted one ends."""

import numpy as np
import pytest
import torch

from fewstep import data, models, schedules, train
from fewstep.errors import UserError

PROCESS = schedules.linear_vp()
SETTINGS = train.Settings(steps=110, batch=8, lr=2e-3, warmup=10, save_every=50, seed=5)


def build():
    return models.UNet((1, 8, 8), (8, 8), attention_head_dim=0)


@pytest.fixture(scope="module")
def images():
    return data.digits().images[:64]


@pytest.fixture(scope="module")
def uninterrupted(images):
    return train.train_denoiser(build, images, PROCESS, SETTINGS, progress=False)


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop", [50, 77, 109])
def test_an_interrupted_run_ends_where_an_uninterrupted_one_ends(tmp_path, images, uninterrupted, stop):
    state = tmp_path / "state.safetensors"

    def interrupt(done):
        if done == stop:
            raise Interrupted

    with pytest.raises(Interrupted):
        train.train_denoiser(build, images, PROCESS, SETTINGS, state, False, interrupt)
    seen = []
    resumed = train.train_denoiser(build, images, PROCESS, SETTINGS, state, False, seen.append)
    assert seen == list(range(stop // 50 * 50 + 1, 111))  # it went on from the last state, not from the start
    for key, value in uninterrupted.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value), key
    assert resumed.losses == uninterrupted.losses and len(resumed.losses) == 3
    assert [p.name for p in tmp_path.iterdir()] == [state.name]


def test_seed_decides(images, uninterrupted):
    short = {"steps": 3, "batch": 4, "warmup": 0}
    first, same, other = (
        train.train_denoiser(build, images, PROCESS, train.Settings(**short, seed=seed), progress=False).losses
        for seed in (1, 1, 2)
    )
    assert first == same and first != other


def test_the_surrounding_random_state_is_neither_read_nor_changed(images):
    settings = train.Settings(steps=2, batch=4)
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        losses.append(train.train_denoiser(build, images, PROCESS, settings, progress=False).losses)
        assert torch.equal(torch.get_rng_state(), before)
    assert losses[0] == losses[1]


def test_training_learns(images, uninterrupted):
    """The noise of a state that is nearly all noise is easy: the mean squared error of the zero predictor is 1."""
    assert uninterrupted.losses[-1] < uninterrupted.losses[0] < 1.2
    error = train.denoising_error(uninterrupted.model, images, PROCESS, np.array([100.0, 900.0]))
    assert error[1] < 0.5 < 1.5 * error[0]
    assert not uninterrupted.model.training and not any(p.requires_grad for p in uninterrupted.model.parameters())


def test_denoising_error_of_known_models(images):
    times = np.array([0.0, 300.0, 999.0])
    z = torch.randn(images.shape, generator=train.generator(3))

    def perfect(x, t):
        alpha, sigma = models.coefficients(PROCESS, t.double(), x.double())
        return ((x.double() - alpha * images.double()) / sigma).float()

    # (x − αx0)/σ undoes x = αx0 + σz up to float32 rounding of x, which 1/σ amplifies (σ = 0.01 at t = 0).
    np.testing.assert_allclose(train.denoising_error(perfect, images, PROCESS, times, 3, batch=64), 0, atol=1e-9)
    zero = train.denoising_error(lambda x, t: torch.zeros_like(x), images, PROCESS, times, 3, batch=10)
    np.testing.assert_allclose(zero, z.double().square().mean().item(), rtol=1e-12)


@pytest.mark.parametrize("process", [PROCESS, schedules.ContinuousVP(), schedules.VE()], ids=lambda p: type(p).__name__)
def test_batches_are_functions_of_their_key(images, process):
    first, again, other = (train.draw_batch(images, process, 4096, *key) for key in ((1, 7, 0), (1, 7, 0), (1, 8, 0)))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)
    x0, t, z = first
    assert t.dtype == torch.float64 and process.t_min < t.min() and t.max() <= process.t_max
    # Uniform times and standard normal noise, to five standard errors.
    u = (t - process.t_min) / (process.t_max - process.t_min)
    assert abs(u.mean() - 0.5) < 5 / np.sqrt(12 * len(u))
    assert abs(z.double().square().mean() - 1) < 5 * np.sqrt(2 / z.numel())
    assert {tuple(row.tolist()) for row in x0.flatten(1)} <= {tuple(row.tolist()) for row in images.flatten(1)}


def test_learning_rate_warms_up_and_ends_near_zero():
    settings = train.Settings(steps=1000, lr=1.0, warmup=99)
    rates = [settings.lr_at(k) for k in range(1000)]
    assert rates[0] == pytest.approx(0.01) and max(rates) == pytest.approx(1, abs=0.03)
    assert 90 <= int(np.argmax(rates)) <= 100 and rates[-1] < 1e-5


def test_states_of_other_settings_or_networks_and_damaged_ones_are_refused(tmp_path, images):
    state = tmp_path / "state.safetensors"
    settings = train.Settings(steps=2, batch=4)
    train.train_denoiser(build, images, PROCESS, settings, state, False)
    with pytest.raises(UserError, match="belongs to other settings; delete it"):
        train.train_denoiser(build, images, PROCESS, train.Settings(steps=3, batch=4), state, False)
    with pytest.raises(UserError, match="belongs to another network; delete it"):
        wider = models.UNet((1, 8, 8), (16, 16), attention_head_dim=0)
        train.train_denoiser(lambda: wider, images, PROCESS, settings, state, False)
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(UserError, match="is not a training state; delete it"):
        train.train_denoiser(build, images, PROCESS, settings, state, False)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch": 0}, {"lr": 0.0}, {"ema": 1.0}, {"warmup": -1}])
def test_impossible_settings(wrong):
    with pytest.raises(UserError):
        train.Settings(**{"steps": 1, **wrong})


def test_the_classifier_learns_digits():
    part, held_out = data.split(data.digits(), 0.2)
    result = train.train_classifier(
        lambda: models.FeatureNet((1, 8, 8), 10, width=16),
        part,
        train.Settings(steps=100, batch=64, lr=1e-2, warmup=10),
        progress=False,
    )
    assert train.accuracy(result.model, held_out) > 0.5  # ten classes: guessing gives 0.1
    assert result.losses[-1] < result.losses[0]
