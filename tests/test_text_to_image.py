"""A text-to-image network: all its parts are loaded, texts and guidance are those of diffusers' pipeline."""

from __future__ import annotations

import hashlib

import pytest
import smoke
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load
from test_zoo import COMMIT, of_hub, serving, write

from fewstep import papers, solvers
from fewstep.errors import UserError
from fewstep.models import declared, pins, text_to_image, zoo
from fewstep.models.diffusers_scheduler import scheduler
from fewstep.noise import normal

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

CONFIG = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": smoke.TEXT_WIDTH,
    "attention_head_dim": 4,
}
SHAPE = (4, 8, 8)
UNET = "unet/diffusion_pytorch_model.safetensors"
TEXTS, VAE = "text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"
CAPTIONS = ["a cat", "two dogs on a hill", "a cat", "rain"]


def record(**given):
    latent = {"architecture": "text-unet2d", "shape": list(SHAPE), "schedule": {"name": "scaled-linear"}}
    return of_hub(**{**latent, "config": CONFIG, "preprocessing": {"dataset": "COCO", "resize": 64}, **given})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    smoke.text_to_image(folder, CONFIG)
    return folder


@pytest.fixture
def hub(saved, tmp_path, monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr("fewstep.models.hub.CACHE", tmp_path / "hub")
    files = {str(path.relative_to(saved).as_posix()): path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    with serving(files) as server:
        yield server


@pytest.fixture(scope="module")
def pipeline(saved):
    pipe = StableDiffusionPipeline.from_pretrained(
        saved, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def model(pipeline):
    made = text_to_image.TextToImage(pipeline, declared.Record.model_validate(record()))
    return made.eval().requires_grad_(False)


def test_latents_are_the_same_where_the_memory_suffices_for_fewer_images(model, monkeypatch, capsys):
    images, encode = normal(0, 0, range(5), (3, 64, 64)).clamp(-1, 1), model.autoencoder.encode
    latents = model.encode(images)

    def tight(part):
        if len(part) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(part)

    monkeypatch.setattr(model.autoencoder, "encode", tight)
    torch.testing.assert_close(model.encode(images), latents, rtol=1e-4, atol=1e-5)
    assert capsys.readouterr().out == "out of memory with 4 images at a time: going on with 2\n"


def test_all_parts_come_from_the_hub(hub, tmp_path, pipeline):
    write(tmp_path, tiny=record())
    model = zoo.load("tiny", root=tmp_path, endpoint=hub.url)
    x, t = normal(0, 0, range(2), SHAPE), torch.tensor([3.0, 612.5])
    empty, _ = pipeline.encode_prompt("", "cpu", 1, False)
    expected = pipeline.unet(x, t, empty.expand(2, -1, -1), return_dict=False)[0]
    torch.testing.assert_close(model(x, t), expected, rtol=1e-5, atol=1e-6)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in hub.files.items()}
    assert model.provenance == {
        "hub": "google/tiny",
        "revision": COMMIT,
        "sha256": digests["unet/diffusion_pytorch_model.safetensors"],
        "text_encoder": digests["text_encoder/model.safetensors"],
        "autoencoder": digests["vae/diffusion_pytorch_model.safetensors"],
    }
    assert pins.read(tmp_path)["tiny"].sha256 == {file: digests[file] for file in (UNET, TEXTS, VAE)}
    fetched = {path.rpartition(f"/{COMMIT}/")[2] for method, path, _ in hub.asked if method == "GET"}
    assert fetched == {*declared.FOLDERS["text-unet2d"].others, UNET, TEXTS, VAE}


@pytest.mark.parametrize("name", ["ddim", "ge", "dpmpp-2m", "unipc-2", "plms"])
def test_a_sampler_is_diffusers_pipeline_with_the_same_plan(model, pipeline, name):
    """Each sample with its own text, under guidance; they add float32 numbers in another order, over eleven calls."""
    one = papers.sampler(model, 11, solver=name, grid="uniform", captions=CAPTIONS, guidance=7.5)
    x = normal(3, 0, range(1, 4), SHAPE)
    found = one.draw(one.prior_std * x, torch.arange(1, 4), 3)
    plan = solvers.build(name, model.process, 11, "uniform")
    pipeline.scheduler = scheduler(plan)
    expected = pipeline(CAPTIONS[1:], num_inference_steps=plan.nfe, guidance_scale=7.5, latents=x, output_type="pt")
    assert one.nfe == plan.nfe == 11 and found.shape == (3, 3, 64, 64)
    torch.testing.assert_close((found / 2 + 0.5).clamp(0, 1), expected.images, rtol=0, atol=1e-4)
    assert expected.images.std() > 0.01


def test_a_sample_depends_on_its_own_text_only(model):
    one = papers.sampler(model, 5, solver="ddim", grid="uniform", captions=CAPTIONS, guidance=7.5)
    x = one.prior_std * normal(0, 0, range(4), SHAPE)
    together = one.draw(x, torch.arange(4), 0)
    for i in range(4):
        torch.testing.assert_close(one.draw(x[i : i + 1], torch.tensor([i]), 0), together[i : i + 1], rtol=0, atol=1e-5)
    same = one.draw(x[:1].expand(2, -1, -1, -1), torch.tensor([0, 2]), 0)
    torch.testing.assert_close(same[0], same[1], rtol=0, atol=1e-5)
    other = one.draw(x[:1], torch.tensor([1]), 0)
    assert (other - same[:1]).abs().max() > 1e-3


def test_without_guidance_it_is_the_text_alone_or_none(model):
    x, t = normal(0, 0, range(2), SHAPE), torch.tensor([500.0, 20.0])
    texts = model.texts(["rain", "a cat"])
    assert texts.classes == 2
    torch.testing.assert_close(texts(x, t, torch.tensor([2, 2])), model(x, t), rtol=1e-5, atol=1e-6)
    assert (texts(x, t, torch.tensor([0, 1])) - model(x, t)).abs().max() > 1e-3


def test_images_and_latents(model, pipeline):
    images = 2 * torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 1
    latents = model.encode(images)
    assert latents.shape == (6, *SHAPE)
    scale = pipeline.vae.config.scaling_factor
    expected = pipeline.vae.encode(images).latent_dist.mean * scale
    torch.testing.assert_close(latents, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        model.decode(latents), pipeline.vae.decode(expected / scale).sample, rtol=1e-4, atol=1e-5
    )


def test_the_check_works_on_latents(model):
    images = 2 * torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0)) - 1
    assert [one.rho for one in zoo.sanity(model, images)] == list(zoo.LEVELS)
    with pytest.raises(UserError, match="do not fit the network or these images"):  # its weights are random
        zoo.check(model, images)
    with pytest.raises(UserError, match=r"of shape \(4, 8, 8\) are needed, got \(16, 4, 4, 4\)"):
        zoo.check(model, images[..., :32, :32])


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"schedule": {"name": "linear"}}, "tiny: its scheduler has another schedule than linear"),
        ({"config": CONFIG | {"layers_per_block": 2}}, "layers_per_block is 1, the record of tiny declares 2"),
    ],
)
def test_a_hub_that_is_not_the_record(hub, tmp_path, given, message):
    write(tmp_path, tiny=record(**given))
    with pytest.raises(UserError, match=message) as caught:
        zoo.load("tiny", root=tmp_path, endpoint=hub.url)
    assert "\n" not in str(caught.value) and not pins.read(tmp_path)


@pytest.mark.parametrize("file", [UNET, TEXTS, VAE])
def test_a_part_that_is_not_the_pinned_one(hub, tmp_path, file):
    write(tmp_path, tiny=record(revision=COMMIT))
    digests = {name: hashlib.sha256(hub.files[name]).hexdigest() for name in (UNET, TEXTS, VAE)} | {file: "0" * 64}
    pins.write({"tiny": pins.Pin(hub="google/tiny", revision=COMMIT, sha256=digests)}, tmp_path)
    with pytest.raises(UserError, match=rf"{file} of tiny has SHA-256 .*, {pins.FILE} pins 0000") as caught:
        zoo.load("tiny", root=tmp_path, endpoint=hub.url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_part_in_pytorchs_own_format(hub, tmp_path, part, model):
    write(tmp_path, tiny=record())
    weights = load(hub.files.pop(f"{part}/diffusion_pytorch_model.safetensors"))
    torch.save(weights, tmp_path / "weights.bin")
    hub.files[f"{part}/diffusion_pytorch_model.bin"] = (tmp_path / "weights.bin").read_bytes()
    again = zoo.load("tiny", root=tmp_path, endpoint=hub.url)
    expected = {"unet": model.network, "vae": model.autoencoder}[part].state_dict()
    found = {"unet": again.network, "vae": again.autoencoder}[part].state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("missing", ["vae/config.json", "tokenizer/vocab.json", "text_encoder/model.safetensors", UNET])
def test_a_part_that_is_not_there(hub, tmp_path, missing):
    write(tmp_path, tiny=record())
    del hub.files[missing]
    at = "main" if missing == UNET else COMMIT  # whose commit is what main says of the first file
    with pytest.raises(UserError, match=f"has no file {missing} at revision {at}"):
        zoo.load("tiny", root=tmp_path, endpoint=hub.url)


def test_a_part_that_is_broken(hub, tmp_path):
    write(tmp_path, tiny=record())
    hub.files["vae/config.json"] = b"{"
    with pytest.raises(UserError, match=r"is no pipeline of diffusers: .*; delete the folder") as caught:
        zoo.load("tiny", root=tmp_path, endpoint=hub.url)
    assert "\n" not in str(caught.value)


def test_it_comes_from_a_hub():
    source = {"file": "tiny.safetensors", "layout": "ddim", "original": "x"}
    with pytest.raises(ValueError, match="comes from a hub, with all its parts"):
        declared.Record.model_validate({**record(), "source": source})


def test_captions_and_networks_belong_together(model):
    needed = "a text-to-image network takes captions and a solver without clipping"
    for given in ({}, {"clip": True, "captions": CAPTIONS}):
        with pytest.raises(UserError, match=needed):
            papers.sampler(model, 5, solver="ddim", **given)
    with pytest.raises(UserError, match=needed):
        papers.sampler(model, tolerance=1e-3, captions=CAPTIONS)
    one = papers.sampler(model, 5, solver="ddim", captions=CAPTIONS, guidance=2.0)
    with pytest.raises(UserError, match="sample 4 has no caption, there are 4"):
        one.draw(normal(0, 0, [4], SHAPE), torch.tensor([4]), 0)
