"""Plans as schedulers of diffusers' pipelines: on a tiny latent text-to-image model with random weights."""

from __future__ import annotations

import json

import pytest
import smoke
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import nn

from fewstep import grids, solvers
from fewstep.errors import UserError
from fewstep.models.diffusers_scheduler import PlanScheduler, scheduler
from fewstep.run import sample
from fewstep.schedules import EDM, scaled_linear_vp
from fewstep.tasks.guidance import classifier_free

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

PROCESS = scaled_linear_vp()
GRIDS = {"ge": "uniform"}  # its own, log-linear, starts at a noise level that this process does not have
DETERMINISTIC = [name for name in solvers.SOLVERS if not solvers.build(name, PROCESS, 24, GRIDS.get(name)).stochastic]
SHAPE, LENGTH, WIDTH = (4, 8, 8), smoke.TEXT_LENGTH, smoke.TEXT_WIDTH
UNSAFE = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


UNET = {
    "sample_size": SHAPE[1],
    "in_channels": SHAPE[0],
    "out_channels": SHAPE[0],
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 4,
}


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**UNET).eval().requires_grad_(False)


class Conditional(nn.Module):
    """The U-Net behind this package's protocol of a network with classes: label i is the i-th text."""

    def __init__(self, unet: UNet2DConditionModel, texts: torch.Tensor) -> None:
        super().__init__()
        self.unet, self.texts, self.classes = unet, texts, len(texts) - 1

    def forward(self, x, t, labels):
        return self.unet(x, t, encoder_hidden_states=self.texts[labels], return_dict=False)[0]


def run(one, network, x, n):
    """The loop of a pipeline."""
    one.set_timesteps(n)
    x = x * one.init_noise_sigma
    for t in one.timesteps:
        x = one.step(network(one.scale_model_input(x, t), t.expand(len(x))), t, x, return_dict=False)[0]
    return x


@pytest.fixture(scope="module")
def double(unet):
    """An ε-model in float64 with one text, and start latents."""
    g = torch.Generator().manual_seed(1)
    text = torch.randn(2, LENGTH, WIDTH, generator=g, dtype=torch.float64)
    start = torch.randn(2, *SHAPE, generator=g, dtype=torch.float64)
    copy = UNet2DConditionModel.from_config(unet.config)
    copy.load_state_dict(unet.state_dict())
    copy = copy.double().eval().requires_grad_(False)
    return (lambda x, t: copy(x, t, encoder_hidden_states=text, return_dict=False)[0]), start


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_every_deterministic_plan_is_what_the_executor_runs(name, double):
    """The same rows on the same network; what differs is the order of some additions, 1e-16 each."""
    network, start = double
    plan = solvers.build(name, PROCESS, 14, GRIDS.get(name))
    expected = sample(plan, network, plan.prior_std * start, dtype=torch.float64)
    calls = []

    def counted(x, t):
        calls.append(float(t[0]))
        return network(x, t)

    found = run(scheduler(plan), counted, start, plan.nfe)
    assert calls == pytest.approx(plan.times[:-1].tolist(), rel=1e-6, abs=1e-6)
    # A plan's weights reach 1/α(T) ≈ 15 and cancel again.
    assert (found - expected).abs().max() < 1e-11 * expected.abs().max()
    named = PlanScheduler(name, grid=GRIDS.get(name))
    assert (run(named, network, start, 14) - expected).abs().max() < 1e-11 * expected.abs().max()


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("n", [5, 10, 50])
def test_the_ddim_plan_is_diffusers_ddim_scheduler(spacing, n, double):
    network, start = double
    theirs = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        timestep_spacing=spacing,
    )
    ours = PlanScheduler("ddim", grid=spacing)
    expected, found = run(theirs, network, start, n), run(ours, network, start, n)
    assert theirs.timesteps.tolist() == ours.timesteps.tolist()
    # Their table of ᾱ is a float32 product of up to 1000 factors.
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_what_the_network_predicts_makes_no_difference(kind, double):
    network, start = double

    def other(x, t):
        alpha, sigma = float(PROCESS.alpha(float(t[0]))), float(PROCESS.sigma(float(t[0])))
        x0 = (x - sigma * network(x, t)) / alpha
        return x0 if kind == "sample" else alpha * network(x, t) - sigma * x0

    plan = solvers.build("ge", PROCESS, 8, "uniform")
    expected = run(scheduler(plan), network, start, 8)
    assert (run(scheduler(plan, kind), other, start, 8) - expected).abs().max() < 1e-11 * expected.abs().max()


def test_half_precision_states_are_combined_in_single(double):
    network, start = double
    plan = solvers.build("deis-tab3", PROCESS, 8)
    one = scheduler(plan)
    found = run(one, lambda x, t: network(x.double(), t).half(), start.half(), 8)
    expected = run(one, network, start, 8)
    assert found.dtype == torch.float16
    assert (found.double() - expected).abs().max() < 8 * 2**-10 * expected.abs().max()  # a rounding at every call


def test_a_state_that_a_callback_replaced_is_taken(double):
    """A pipeline's callback may change the latents between steps: the hook of the executor, on their side."""
    network, start = double
    plan = solvers.build("deis-rhork-heun", PROCESS, 9)
    expected = sample(plan, network, start, dtype=torch.float64, hook=lambda k, x, t: 0.9 * x if 0 < k < 9 else None)
    one = scheduler(plan)
    one.set_timesteps(9)
    x = start
    for k, t in enumerate(one.timesteps):
        before = x.clone()
        x = one.step(network(x, t.expand(2)), t, x).prev_sample * (0.9 if k < 8 else 1.0)
        assert not torch.equal(before, x)
    assert (x - expected).abs().max() < 1e-11 * expected.abs().max()


def test_a_step_leaves_the_callers_tensors_alone(double):
    network, start = double
    one = scheduler(solvers.build("ddim", PROCESS, 4))
    one.set_timesteps(4)
    x, eps = start.clone(), network(start, one.timesteps[:1].expand(2))
    kept = eps.clone()
    one.step(eps, one.timesteps[0], x)
    assert torch.equal(x, start) and torch.equal(eps, kept)


def test_it_may_run_again_at_another_number_of_calls(double):
    network, start = double
    one = PlanScheduler("ge", grid="log-linear", grid_options={"rho_start": 14.0}, options={"gamma": 1.5})
    first = run(one, network, start, 6)
    run(one, network, start, 9)
    assert torch.equal(run(one, network, start, 6), first)
    assert one.plan.nfe == 6 and len(one.timesteps) == 6


@pytest.mark.parametrize(
    "one", [PlanScheduler("ipndm-4", grid="trailing"), scheduler(solvers.build("ge", PROCESS, 7, "uniform"))]
)
def test_a_saved_scheduler_is_the_same_sampler(one, double, tmp_path):
    network, start = double
    one.save_pretrained(tmp_path)
    json.loads((tmp_path / "scheduler_config.json").read_text())
    again = PlanScheduler.from_pretrained(tmp_path)
    assert torch.equal(run(again, network, start, 7), run(one, network, start, 7))


def test_ve_states_start_at_the_processs_noise(double):
    network, start = double
    process = EDM()
    plan = solvers.build("edm-heun", process, 9)
    one = scheduler(plan)
    assert one.init_noise_sigma == 80.0
    expected = sample(plan, network, 80.0 * start, dtype=torch.float64)
    assert (run(one, network, start, 9) - expected).abs().max() < 1e-11 * expected.abs().max()


def test_mistakes_get_one_line(double):
    _, start = double
    with pytest.raises(UserError, match="injects noise"):
        scheduler(solvers.build("ddpm", PROCESS, 5))
    with pytest.raises(UserError, match="injects noise"):
        PlanScheduler("ddpm").set_timesteps(5)
    with pytest.raises(UserError, match="unknown solver 'dddim'; did you mean ddim"):
        PlanScheduler("dddim")
    with pytest.raises(UserError, match="unknown process"):
        PlanScheduler(process="lineal")
    with pytest.raises(UserError, match="unknown prediction_type"):
        PlanScheduler(prediction_type="score")
    with pytest.raises(UserError, match="makes 5 network calls, not 50"):
        scheduler(solvers.build("ddim", PROCESS, 5)).set_timesteps(50)
    with pytest.raises(UserError, match="no plan yet"):
        PlanScheduler().step(start, 999, start)
    with pytest.raises(UserError, match="not a plan"):
        PlanScheduler(table={"times": []})
    one = PlanScheduler()
    one.set_timesteps(3)
    with pytest.raises(UserError, match="steps go in order"):
        one.step(start, one.timesteps[1], start)
    for t in one.timesteps:
        one.step(start, t, start)
    with pytest.raises(UserError, match="set_timesteps starts it"):
        one.step(start, one.timesteps[0], start)


@pytest.fixture(scope="module")
def pipeline(unet, tmp_path_factory):
    """diffusers' StableDiffusionPipeline, every part tiny and random, the vocabulary the letters."""
    folder = tmp_path_factory.mktemp("pipeline")
    smoke.text_to_image(folder, UNET)
    pipe = StableDiffusionPipeline.from_pretrained(folder, unet=unet, scheduler=PlanScheduler(), **UNSAFE)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw(pipe, one, n, output="latent"):
    pipe.scheduler = one
    g = torch.Generator().manual_seed(3)
    start = torch.randn(1, *SHAPE, generator=g)
    return pipe("a cat", num_inference_steps=n, guidance_scale=7.5, latents=start, output_type=output).images, start


def test_in_the_pipeline_the_ddim_plan_is_diffusers_ddim(pipeline):
    theirs = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
    )
    # Their offset moves the labels up by one and leaves the last target, below label 0, at the clean end.
    times = torch.tensor([901.0, 801, 701, 601, 501, 401, 301, 201, 101, 1, -1])
    ours = scheduler(solvers.build("ddim", PROCESS, 10, times.numpy()))
    expected, found = draw(pipeline, theirs, 10)[0], draw(pipeline, ours, 10)[0]
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    images = draw(pipeline, ours, 10, "pt")[0]
    assert images.shape == (1, 3, 64, 64) and images.std() > 0


@pytest.mark.parametrize("name", ["ge", "deis-tab3", "deis-rhork-rk4", "plms", "unipc-3"])
def test_in_the_pipeline_a_plan_is_what_the_executor_runs(pipeline, name):
    """With the pipeline's guidance, which is this package's wrapper: one call of a batch of two."""
    plan = solvers.build(name, PROCESS, 12, "uniform")
    found, start = draw(pipeline, scheduler(plan), plan.nfe)
    prompt, empty = pipeline.encode_prompt("a cat", "cpu", 1, True)
    model = classifier_free(Conditional(pipeline.unet, torch.cat([prompt, empty])), 0, 7.5)
    expected = sample(plan, model, start)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_grids_of_diffusers_are_among_ours():
    """What the equality above needs: their spacings are grids here, so a pipeline changes its solver alone."""
    for spacing in ("leading", "trailing", "linspace"):
        theirs = DDIMScheduler(num_train_timesteps=1000, timestep_spacing=spacing)
        theirs.set_timesteps(20)
        assert grids.build(spacing, PROCESS, 20)[:-1].tolist() == theirs.timesteps.tolist()
