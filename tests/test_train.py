"""Training: what a step draws, that it learns, and that an interrupted run ends where an uninterrupted one ends."""

import os

import numpy as np
import pytest
import torch
from diffusers.training_utils import EMAModel

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


SEED = int(os.environ.get("FEWSTEP_TEST_SEED", np.random.SeedSequence().entropy % 2**32))
"""Where a training is interrupted follows from it; a failing test shows it, and takes the one that is set."""


@pytest.mark.parametrize("draw", range(3))
def test_an_interrupted_run_ends_where_an_uninterrupted_one_ends(tmp_path, images, uninterrupted, draw):
    stop = int(np.random.default_rng([SEED, draw]).integers(50, 110))
    print(f"FEWSTEP_TEST_SEED={SEED}: interrupted at step {stop}")
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
    x0, t, z, rows = first
    assert torch.equal(x0, images[rows])
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


# --- what the larger networks need ---------------------------------------------------------------------------------

FAST = {"batch": 4, "lr": 2e-3, "warmup": 5, "save_every": 50, "ema": 0.9, "ema_warmup": False, "flip": True}


@pytest.fixture(scope="module")
def pixels(images):
    """The images as uint8, not symmetric."""
    return data.to_uint8(images)


def test_bfloat16_flips_and_8_bit_images_resume_too(tmp_path, pixels):
    """Interrupted at a random step, and at another one after that."""
    settings = train.Settings(steps=70, fast=True, **FAST)
    whole = train.train_denoiser(build, pixels, PROCESS, settings, progress=False)
    state = tmp_path / "state.safetensors"
    random = np.random.default_rng([SEED, 3])
    print(f"FEWSTEP_TEST_SEED={SEED}")
    for stop in (int(random.integers(50, 60)), int(random.integers(60, 70))):

        def interrupt(done, stop=stop):
            if done == stop:
                raise Interrupted

        with pytest.raises(Interrupted):
            train.train_denoiser(build, pixels, PROCESS, settings, state, False, interrupt)
    resumed = train.train_denoiser(build, pixels, PROCESS, settings, state, False)
    for key, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value), key
    assert resumed.losses == whole.losses and resumed.steps == 70 and resumed.finished


def test_a_restored_optimiser_has_the_order_of_memory_of_its_weights(tmp_path, pixels):
    """A fused optimiser on a GPU refuses any other."""
    settings, state, built = train.Settings(steps=50, fast=True, **FAST), tmp_path / "state.safetensors", []
    train.train_denoiser(build, pixels[:4], PROCESS, settings, state, False)
    network = build().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters())
    ema = EMAModel(network.parameters())
    train._restore(state, network, ema, optimizer, train.Training(network), settings)
    for p in network.parameters():
        built.append(p.stride())
        assert optimizer.state[p]["exp_avg"].stride() == p.stride()
    assert any(stride[-1] != 1 for stride in built if len(stride) == 4)


def test_two_half_times_are_one(tmp_path, pixels, monkeypatch):
    """A clock that shows one second per step: 100 seconds in one go, and cut by a limit into parts."""
    now = [0.0]
    draw = train.draw_batch

    def tick(*arguments, **options):
        now[0] += 1
        return draw(*arguments, **options)

    monkeypatch.setattr(train, "draw_batch", tick)
    options = {"progress": False, "clock": lambda: now[0]}
    settings = train.Settings(minutes=5 / 3, **FAST)
    whole = train.train_denoiser(build, pixels, PROCESS, settings, **options)
    assert whole.finished and whole.steps == 100 and whole.seconds == 100
    state = tmp_path / "state.safetensors"
    first = train.train_denoiser(build, pixels, PROCESS, settings, state, limit=30, **options)
    assert not first.finished and first.steps == 50
    second = train.train_denoiser(build, pixels, PROCESS, settings, state, **options)
    assert second.finished and second.steps == 100 and second.losses == whole.losses
    for key, value in whole.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[key], value), key
    # Finished is finished; a longer time goes on from there.
    again = train.train_denoiser(build, pixels, PROCESS, settings, state, **options)
    assert again.steps == 100 and torch.equal(*(next(iter(part.model.parameters())) for part in (again, second)))
    longer = train.train_denoiser(build, pixels, PROCESS, train.Settings(minutes=2, **FAST), state, **options)
    assert longer.finished and longer.steps == 150  # a block of 50 is finished


def test_learning_rate_follows_the_time():
    settings = train.Settings(minutes=10, lr=1.0, warmup=0)
    assert settings.lr_at(5, 300) == pytest.approx(0.5) and settings.lr_at(5, 0) == pytest.approx(1)
    assert settings.lr_at(5, 600) == settings.lr_at(5, 700) == 0 and settings.spent(5, 300) == 0.5
    for wrong in ({}, {"steps": 1, "minutes": 1.0}, {"minutes": 0.0}):
        with pytest.raises(UserError):
            train.Settings(**wrong)


def test_an_average_without_warm_up_has_the_decay_that_was_asked_for(images):
    """It starts at the weights of the first step."""
    built, seen = [], []

    def keep():
        built.append(build())
        return built[-1]

    def look(done):
        seen.append([p.detach().clone() for p in built[0].parameters()])

    settings = train.Settings(steps=3, batch=4, warmup=0, lr=1e-2, ema=0.75, ema_warmup=False)
    averaged = train.train_denoiser(keep, images, PROCESS, settings, None, False, look).model
    for a, first, second, third in zip(averaged.parameters(), *seen, strict=True):
        torch.testing.assert_close(a, 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third, rtol=0, atol=1e-6)


def test_flips_mirror_about_half_of_the_images(pixels):
    plain, t, z, _ = train.draw_batch(pixels, PROCESS, 400, 1, 2)
    flipped, t2, z2, _ = train.draw_batch(pixels, PROCESS, 400, 1, 2, flip=True)
    assert torch.equal(t, t2) and torch.equal(z, z2)  # the coin is thrown last
    mirrored = (flipped == plain.flip(-1)).flatten(1).all(1)
    assert (mirrored | (flipped == plain).flatten(1).all(1)).all()
    assert abs(mirrored.double().mean() - 0.5) < 5 * 0.5 / np.sqrt(400)


def test_crops_are_windows_of_the_reflected_image():
    images = torch.randn(12, 3, 8, 8)
    moved = train.crop_and_flip(images, train.generator(4), by=2)
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2), mode="reflect")
    windows = padded.unfold(2, 8, 1).unfold(3, 8, 1).permute(0, 2, 3, 1, 4, 5)  # (N, 5, 5, C, 8, 8)
    places = set()
    for image, found in zip(moved, windows, strict=True):
        hits = [
            (mirrored, *place.tolist())
            for mirrored in (False, True)
            for place in (found == (image.flip(-1) if mirrored else image)).flatten(2).all(2).nonzero()
        ]
        assert len(hits) == 1
        places.add(hits[0])
    assert len(places) > 6 and len({mirrored for mirrored, *_ in places}) == 2  # each image has its own


def test_flops_of_a_convolution():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x, t):
            return self.net(x)

    forward = 2 * 3 * 4 * 9 * 64  # a product and a sum for each weight and pixel
    assert (
        train.training_flops(Model(), (3, 8, 8)) == 2 * forward
    )  # and the gradient of the weights; no one asks for x's
    with torch.device("meta"):
        assert train.training_flops(Model(), (3, 8, 8)) == 2 * forward


def test_a_residual_classifier_learns_from_8_bit_images():
    images, labels = data.digits()
    whole = data.Dataset(data.to_uint8(images.repeat(1, 3, 1, 1)), labels)
    part, held_out = data.split(whole, 0.2)
    result = train.train_classifier(
        lambda: models.ResNet((3, 8, 8), 10, widths=(8, 16, 16, 32)),
        part,
        train.Settings(steps=60, batch=64, lr=0.1, warmup=10, fast=True),
        progress=False,
        augment=lambda images, random: train.crop_and_flip(images, random, by=1),
        optimizer=train.nesterov,
        smoothing=0.1,
    )
    assert train.accuracy(result.model, held_out) > 0.5 and result.losses[-1] < result.losses[0]
    assert train.accuracy(result.model, held_out, batch=7) == train.accuracy(result.model, held_out)


# --- labels, other processes, noisy images -------------------------------------------------------------------------

SIGNS = torch.tensor([-1.0, 1.0]).repeat(32)[:, None, None, None].expand(64, 1, 2, 2).contiguous()
SIGN_LABELS = torch.tensor([0, 1]).repeat(32)
"""Images of four equal pixels, ±1: at most noise levels only the label says which."""


def build_classes():
    return models.UNet((1, 2, 2), (16,), attention_head_dim=0, classes=2)


def test_a_network_with_classes_learns_what_its_labels_say():
    settings = train.Settings(steps=300, batch=64, lr=5e-3, warmup=10, ema=0.9, seed=0)
    trained = train.train_denoiser(build_classes, SIGNS, PROCESS, settings, progress=False, labels=SIGN_LABELS)
    times = np.array([300.0, 400.0, 500.0])
    right, none, wrong = (
        train.denoising_error(lambda x, t, given=given: trained.model(x, t, given), SIGNS, PROCESS, times).mean()
        for given in (SIGN_LABELS, torch.full((64,), 2), 1 - SIGN_LABELS)
    )
    assert right < none < wrong


class Spy(torch.nn.Module):
    """Predicts no noise, and keeps what it is shown."""

    classes = 10

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, x, t, labels=None):
        self.seen.append((x, t, labels))
        return self.weight * x


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_share_of_the_images_comes_without_its_label(share):
    everything = data.digits()
    spy, settings = Spy(), train.Settings(steps=4, batch=1024, seed=7)
    train.train_denoiser(
        lambda: spy, everything.images, PROCESS, settings, progress=False, labels=everything.labels, unlabelled=share
    )
    given = torch.cat([labels for _, _, labels in spy.seen])
    rows = torch.cat([train.draw_batch(everything.images, PROCESS, 1024, 7, step, 0)[3] for step in range(4)])
    without = given == Spy.classes
    assert torch.equal(given[~without], everything.labels[rows][~without])
    # Five standard errors of a share; at 0 and 1 it is exact.
    assert abs(without.double().mean() - share) <= 5 * np.sqrt(share * (1 - share) / len(given))


def test_with_labels_too_an_interrupted_run_ends_where_an_uninterrupted_one_ends(tmp_path):
    settings, state = train.Settings(steps=60, batch=8, warmup=5, save_every=20, seed=3), tmp_path / "state.safetensors"

    def run(state=None, on_step=None):
        return train.train_denoiser(
            build_classes, SIGNS, PROCESS, settings, state, False, on_step, labels=SIGN_LABELS, unlabelled=0.3
        )

    def interrupt(done):
        if done == 57:
            raise Interrupted

    whole = run()
    with pytest.raises(Interrupted):
        run(state, interrupt)
    seen = []
    resumed = run(state, seen.append)
    assert seen[0] == 51  # the last state that was saved
    assert resumed.losses == whole.losses
    for key, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value), key


@pytest.mark.parametrize(
    "process", [schedules.VE(), schedules.SubVP(), schedules.ContinuousVP(), PROCESS], ids=lambda p: type(p).__name__
)
def test_training_shows_states_of_unit_variance(process):
    """The mean square of ±1 images with noise is α² + σ² at every time; the network sees it divided by that."""
    spy, settings = Spy(), train.Settings(steps=4, batch=1024)
    train.train_denoiser(lambda: spy, SIGNS, process, settings, progress=False)
    x, t = (torch.cat(parts) for parts in zip(*((x, t) for x, t, _ in spy.seen), strict=True))
    u = (t - process.t_min) / (process.t_max - process.t_min)
    for low in (0.0, 0.25, 0.5, 0.75):
        square = x[(low < u) & (u <= low + 0.25)].square().double().mean((1, 2, 3))
        assert abs(square.mean() - 1) < 5 * square.std() / np.sqrt(len(square))


@pytest.mark.parametrize("process", [PROCESS, schedules.VE()], ids=lambda p: type(p).__name__)
def test_the_classifier_of_noisy_images_learns_digits(process):
    part, held_out = data.split(data.digits(), 0.2)
    few = data.Dataset(part.images[:300], part.labels[:300])
    result = train.train_classifier(
        lambda: models.NoisyClassifier((1, 8, 8), 10, width=8, time_scale=1.0 if process.t_max > 1 else 999.0),
        few,
        train.Settings(steps=150, batch=64, lr=1e-2, warmup=10),
        progress=False,
        process=process,
    )
    noisy = models.normalised(result.model, process)
    found = []
    for rho in (0.1, 30.0):
        t = float(process.t_of_rho(rho))
        z = torch.randn(held_out.images.shape, generator=train.generator(1))
        x = float(process.alpha(t)) * held_out.images + float(process.sigma(t)) * z
        found.append((noisy(x, torch.full((len(x),), t)).argmax(1) == held_out.labels).double().mean().item())
    # Ten classes: guessing, all that is left under the noise, is right once in ten times.
    assert found[0] > 0.5 and found[1] < 0.3
    assert result.losses[-1] < result.losses[0] and not result.model.training
