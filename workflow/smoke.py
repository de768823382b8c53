"""The dry run of profile `paper`: every number of every table through the real code, on tiny networks.

    python workflow/smoke.py [--cell EXPERIMENT/NAME ...] [--first] [--jobs N]

`make experiments PROFILE=paper-smoke` calls it. Below `_build/smoke` it makes a clone with what the profile needs: a
network with random weights for each record of `data/models.yml`, as the hub has it, or as the paper's program writes it
and then converted; 64 or more random images for each data set in its own format; Inception with random weights in
torch-fidelity's format. Then all cells run there, a process for each core, with these changes: 2 samples of 1 seed, a
25th of a budget of 1,000 calls or more, RK45 at a tolerance of 0.05, 64 × 64 pixels in the place of more, and no
comparison of a network with its record, which random weights cannot pass. The records are written there too, as profile
`paper-smoke`. With `--first` every cell measures its first budget only.

Exit code 0: every number was made; 1: a cell failed; 2: a mistake in the request.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import yaml
from run_cell import BUILD, die_with_parent

from fewstep import results
from fewstep.errors import UserError
from fewstep.models import declared, pins, zoo
from fewstep.provenance import ROOT

PROFILE = "paper-smoke"
PLACE = BUILD / "smoke"
SIDE = 64
"""The largest images."""
IMAGES = 64
LONG = 1000
TEXT_LENGTH, TEXT_WIDTH = 16, 16
"""Of the tiny text encoder: tokens of a text, and numbers of a token."""
REDUCED: dict[str, Any] = {"samples": 2, "seeds": [0], "batch": 2, "sanity": 0, "estimate": 2, "tolerance": 0.05}


# --- what the cells need -------------------------------------------------------------------------------------------


def _original(layout: str, record: declared.Record) -> dict[str, Any]:
    """Random weights under the names of the paper's program."""
    import originals
    import torch

    x, t = torch.zeros(1, *record.shape), torch.ones(1)
    weights = originals.Weights()
    if layout == "ddim":
        originals.ddim(weights, x, t, multiples=(1, 1), blocks=1)
    elif layout == "score-sde":
        deep = record.config["layers"] > 4
        originals.score_sde(weights, x, t, blocks=1 + deep, ncsnpp=record.config["fourier"])
    elif layout == "guided-diffusion":
        originals.guided(weights, x, t, torch.zeros(1, dtype=torch.long), blocks=1, classes=record.classes)
    else:
        originals.edm(weights, x, t)
    return dict(weights)


def networks(place: Path) -> None:
    """A tiny network for each record, in the hub's cache or converted; the records of them, and their pins."""
    import torch
    from diffusers import UNet2DModel

    from fewstep.models import convert

    entries: dict[str, Any] = yaml.safe_load((ROOT / "data" / "models.yml").read_text("utf-8"))["models"]
    folder = place / "data" / "cache" / "models"
    folder.mkdir(parents=True)
    made: dict[str, pins.Pin] = {}
    for name, record in declared.records().items():
        own = entries[name]
        if record.preprocessing.resize and record.preprocessing.resize > SIDE:
            less = record.preprocessing.resize // SIDE
            own["shape"] = [record.shape[0], *(side // less for side in record.shape[1:])]
            own["preprocessing"] = own["preprocessing"] | {"resize": SIDE}
        small = declared.Record.model_validate(own)
        torch.manual_seed(0)
        if isinstance(small.source, declared.Hub):
            widths = [32] * len(small.config["block_out_channels"])
            own["config"] = small.config | {"block_out_channels": widths, "layers_per_block": 1}
            own["config"]["sample_size"] = small.shape[1]
            commit = small.source.revision or f"{len(name):040x}"
            there = place / "data" / "cache" / "hub" / f"models--{small.source.hub.replace('/', '--')}"
            there = there / "snapshots" / commit
            if small.architecture == declared.TEXT_TO_IMAGE:
                own["config"] |= {"cross_attention_dim": TEXT_WIDTH, "attention_head_dim": 4, "norm_num_groups": 8}
                text_to_image(there, own["config"])
            else:
                network: Any = UNet2DModel(**own["config"])
                network.save_pretrained(there)
            files = {names[0]: zoo.sha256(there / names[0]) for names in small.weights.values()}
            made[name] = pins.Pin(hub=small.source.hub, revision=commit, sha256=files)
        else:
            original = folder / "original.pt"
            torch.save(_original(small.source.layout, small), original)
            converted = convert.convert(original, small.source.layout, folder / small.source.file)
            original.unlink()
            own["config"] = converted.config
            made[name] = pins.Pin(sha256={small.source.file: converted.sha256})
    (place / "data" / "models.yml").write_text(yaml.safe_dump({"models": entries}), "utf-8")
    pins.write(made, place)


def text_to_image(place: Path, unet: dict[str, Any]) -> None:
    """The parts of a latent text-to-image network, as diffusers writes them; the vocabulary is the letters.

    The autoencoder's latents have an eighth of the image's side, as Stable Diffusion's.
    """
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    words = place / "tokenizer"
    words.mkdir(parents=True)
    (words / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (words / "merges.txt").write_text("#version: 0.2\n")
    torch.manual_seed(0)
    text = CLIPTextConfig(
        vocab_size=len(tokens),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    autoencoder = AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        latent_channels=unet["in_channels"],
    )
    tokenizer = CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=TEXT_LENGTH)
    made: Any = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(**unet),
        scheduler=DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    made.save_pretrained(place)
    # Present versions write the tokenizer into one file; the repository of the paper's network has several.
    (words / "tokenizer.json").unlink(missing_ok=True)
    special = {"bos_token": tokens[0], "eos_token": tokens[1], "unk_token": tokens[1], "pad_token": tokens[1]}
    (words / "special_tokens_map.json").write_text(json.dumps(special))
    (words / "tokenizer_config.json").write_text(
        json.dumps({**special, "model_max_length": TEXT_LENGTH, "tokenizer_class": "CLIPTokenizer"})
    )


def images(place: Path, count: int = IMAGES) -> None:
    """``count`` or more random images for each data set of a cell's network; CIFAR-10 as class folders."""
    import lmdb
    import numpy as np
    from PIL import Image

    from fewstep import cifar

    random = np.random.default_rng(0)

    def write(file: Any, height: int, width: int, kind: str) -> None:
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file, kind)

    for part in cifar.PARTS:
        for label in cifar.CLASSES:
            folder = place / "cifar10" / part / label
            folder.mkdir(parents=True)
            for i in range(-(-count // len(cifar.CLASSES))):
                write(folder / f"{i}.png", 32, 32, "png")
    celeba = place / "images" / "img_align_celeba"
    celeba.mkdir(parents=True)
    for i in range(count):
        write(celeba / f"{i:06d}.jpg", 218, 178, "jpeg")
    coco = place / "images" / "val2014"
    coco.mkdir()
    for i in range(count):
        write(coco / f"COCO_val2014_{i:012d}.jpg", 48, 72, "jpeg")
    captions = place / "images" / "annotations" / "captions_val2014.json"
    captions.parent.mkdir()
    texts = [{"image_id": i, "id": 2 * i + j, "caption": f"Noise {i} again {j}."} for i in range(count) for j in (0, 1)]
    captions.write_text(json.dumps({"images": [{"id": i} for i in range(count)], "annotations": texts}))
    for scene in ("church_outdoor_train", "bedroom_train"):
        with lmdb.open(str(place / "images" / f"{scene}_lmdb"), map_size=2**28) as made, made.begin(write=True) as all_:
            for i in range(count):
                file = io.BytesIO()
                write(file, 64, 80, "webp")
                all_.put(f"{i:040x}".encode(), file.getvalue())


def inception(place: Path) -> None:
    """Inception with random weights, in the format of torch-fidelity's file."""
    import torch
    from torch_fidelity import feature_extractor_inceptionv3 as original

    class Untrained(original.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_: Any, **__: Any) -> None:
            """Keeps the weights that the constructor has drawn."""

    torch.save({}, place / "nothing.pth")
    torch.manual_seed(0)
    name = "inception-v3-compat"
    state = Untrained(name, ["2048"], feature_extractor_weights_path=place / "nothing.pth").state_dict()
    for value in state.values():
        if value.ndim == 4:
            value.copy_(torch.randn(value.shape) * (2 / value[0].numel()) ** 0.5)
    (place / "nothing.pth").unlink()
    torch.save(state, place / "inception.pth")


# --- the cells -----------------------------------------------------------------------------------------------------


def reduced(cell: results.Cell, first: bool = False) -> results.Cell:
    """A cell of profile `paper` with little to do; its sampler, grid and options as they are."""
    given = dict(cell.parameters)
    small = {name: value for name, value in REDUCED.items() if name in given or name not in ("estimate", "tolerance")}
    if cell.experiment == "bits":
        small = {name: value for name, value in small.items() if name in ("samples", "batch", "tolerance")}
    if "budgets" in given:
        calls = [budget if budget < LONG else budget // 25 for budget in given["budgets"]]
        given["budgets"] = calls[:1] if first else calls
    return dataclasses.replace(cell, profile=PROFILE, parameters=given | small)


def prepare(place: Path, cells: Iterable[results.Cell], count: int = IMAGES) -> None:
    """The clone in which the cells run; what was there is removed."""
    shutil.rmtree(place, ignore_errors=True)
    for folder in ("src", "book/experiments", "workflow", "data/checkpoints"):
        there = place / folder
        there.parent.mkdir(parents=True, exist_ok=True)
        there.symlink_to(ROOT / folder)
    networks(place)
    images(place, count)
    inception(place)
    (place / "cells.json").write_text(json.dumps([[c.experiment, c.name, c.parameters] for c in cells]), "utf-8")


def run(
    only: Iterable[str] = (),
    first: bool = False,
    place: Path = PLACE,
    count: int = IMAGES,
    jobs: int | None = None,
    dry_run: bool = False,
) -> int:
    """Prepares the clone and runs the cells there, ``jobs`` at a time. Returns the exit code."""
    cells = [reduced(cell, first) for cell in results.cells("paper", only=tuple(only))]
    if dry_run:
        print(f"{PROFILE}: {len(cells)} cells, {sum(map(_expected, cells))} numbers; nothing is run")
        return 0
    print(f"{PROFILE}: {len(cells)} cells; preparing networks and images below {os.path.relpath(place)}", flush=True)
    prepare(place, cells, count)
    own = {"FEWSTEP_ROOT": place, "FEWSTEP_IMAGES": place / "images", "FEWSTEP_DATA": place / "cifar10"}
    own |= {"FEWSTEP_INCEPTION": place / "inception.pth", "FEWSTEP_MODELS": place / "data" / "cache" / "models"}
    environment = {**os.environ, **{name: str(path) for name, path in own.items()}, "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, __file__, "--inside", str(place), "--jobs", str(jobs or os.cpu_count() or 1)]
    return subprocess.run(command, env=environment, check=False).returncode


def inside(place: Path, jobs: int) -> int:
    """Runs the cells of a prepared clone; then loads the networks that no cell has."""
    from tqdm import tqdm

    cells = [results.Cell(PROFILE, *one) for one in json.loads((place / "cells.json").read_text("utf-8"))]
    started = time.perf_counter()
    failed = numbers = 0
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _alone) as pool:
        running = {pool.submit(_measure, cell): cell for cell in cells}
        for job in tqdm(as_completed(running), total=len(cells), unit="cell", desc=PROFILE, disable=None):
            error, cell = job.result(), running[job]
            if error:
                failed += 1
                print(f"failed {cell.experiment}/{cell.name}: {error}", flush=True)
            else:
                numbers += _expected(cell)
    used = {cell.parameters["network"] for cell in cells}
    for name in declared.records().keys() - used:
        failed += not _answers(name)
    seconds = time.perf_counter() - started
    print(f"{PROFILE}: {numbers} numbers in {len(cells) - failed} cells done, {failed} failed in {seconds:.0f} s")
    return 1 if failed else 0


def _expected(cell: results.Cell) -> int:
    """How many numbers a cell makes."""
    return len(cell.parameters.get("budgets", [0]))


def _alone() -> None:
    """In a worker: it has a core to itself, and ends with the command."""
    import torch

    die_with_parent()
    torch.set_num_threads(1)


def _measure(cell: results.Cell) -> str:
    """Runs a cell. Returns what went wrong, if anything did."""
    from gpu import execute

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            execute(cell)
        found = sum(m.metric in ("fid", "bits_per_dimension") for m in results.read(cell.path()).measurements)
        return "" if found == _expected(cell) else f"{found} numbers were recorded, {_expected(cell)} were asked for"
    except UserError as error:
        return str(error)
    except Exception:  # whatever it is: the caller prints and counts it, and the other cells go on
        return traceback.format_exc(limit=-3)


def _answers(name: str) -> bool:
    """Whether a network is loaded and gives ε of its images."""
    import torch

    try:
        model = zoo.load(name)
        labels = [torch.zeros(1, dtype=torch.long)] if model.record.classes else []
        x = torch.zeros(1, *model.record.shape)
        good = model(x, torch.full((1,), float(model.process.t_max)), *labels).shape == x.shape
    except UserError as error:
        print(f"failed {name}: {error}", flush=True)
        return False
    return good


def main(arguments: list[str] | None = None) -> int:
    """The command line above."""
    parser = argparse.ArgumentParser(description="Run profile paper on tiny networks with random weights.")
    parser.add_argument("--cell", action="append", default=[], help="only this cell, EXPERIMENT/NAME; may be repeated")
    parser.add_argument("--first", action="store_true", help="the first budget of each cell only")
    parser.add_argument("--jobs", type=int, help="cells at a time; default: as many as there are cores")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    die_with_parent()
    try:
        if options.inside:
            return inside(options.inside, options.jobs)
        return run(options.cell, options.first, jobs=options.jobs)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
