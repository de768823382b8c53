"""The dry run of profile `paper`: every number of every table through the real code, on tiny networks.

    python workflow/smoke.py [--cell EXPERIMENT/NAME ...] [--first]

`make experiments PROFILE=paper-smoke` calls it. Below `_build/smoke` it makes a clone with what the profile needs: a
network with random weights for each record of `data/models.yml`, as the hub has it, or as the paper's program writes it
and then converted; 64 or more random images for each data set in its own format; Inception with random weights in
torch-fidelity's format. Then all cells run there in one process, with these changes: 2 samples of 1 seed, a 25th of a
budget of 1,000 calls or more, RK45 at a tolerance of 0.05, 64 × 64 pixels in the place of 256 × 256, and no comparison
of a network with its record, which random weights cannot pass. The records are written there too, as profile
`paper-smoke`. With `--first` every cell measures its first budget only.

Exit code 0: every number was made; 1: a cell failed; 2: a mistake in the request.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from run_cell import BUILD, die_with_parent

from fewstep import results
from fewstep.errors import UserError
from fewstep.models import zoo
from fewstep.provenance import ROOT

PROFILE = "paper-smoke"
PLACE = BUILD / "smoke"
SIDE = 64
"""The largest images."""
IMAGES = 64
LONG = 1000
REDUCED: dict[str, Any] = {"samples": 2, "seeds": [0], "batch": 2, "sanity": 0, "estimate": 16, "tolerance": 0.05}


# --- what the cells need -------------------------------------------------------------------------------------------


def _original(layout: str, record: zoo.Record) -> dict[str, Any]:
    """Random weights under the names of the paper's program, from the tests' references of these programs."""
    import torch

    sys.path.insert(0, str(ROOT / "tests"))
    import test_convert as originals  # type: ignore[import-not-found, unused-ignore]

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
    """A tiny network for each record, in the hub's cache or converted, and the records that declare them."""
    import torch
    from diffusers import UNet2DModel

    from fewstep.models import convert

    declared: dict[str, Any] = yaml.safe_load((ROOT / "data" / "models.yml").read_text("utf-8"))["models"]
    folder = place / "data" / "cache" / "models"
    folder.mkdir(parents=True)
    for name, record in zoo.records().items():
        own = declared[name]
        if max(record.shape) > SIDE:
            own["shape"] = [record.shape[0], SIDE, SIDE]
            own["preprocessing"] = own["preprocessing"] | {"resize": SIDE}
        small = zoo.Record.model_validate(own)
        torch.manual_seed(0)
        if isinstance(small.source, zoo.Hub):
            widths = [32] * len(small.config["block_out_channels"])
            own["config"] = small.config | {"block_out_channels": widths, "layers_per_block": 1}
            own["config"]["sample_size"] = small.shape[1]
            repository = place / "data" / "cache" / "hub" / f"models--{small.source.hub.replace('/', '--')}"
            commit = small.source.revision or f"{len(name):040x}"
            made: Any = UNet2DModel(**own["config"])
            made.save_pretrained(repository / "snapshots" / commit)
            (repository / "refs").mkdir()
            (repository / "refs" / "main").write_text(commit)
        else:
            original = folder / "original.pt"
            torch.save(_original(small.source.layout, small), original)
            converted = convert.convert(original, small.source.layout, folder / small.source.file)
            original.unlink()
            own["config"] = converted.config
        own |= {"sha256": None, "unpinned": "random weights"}
    (place / "data" / "models.yml").write_text(yaml.safe_dump({"models": declared}), "utf-8")


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
    for folder in ("src", "book/experiments", "workflow", "data/checkpoints", "tests"):
        there = place / folder
        there.parent.mkdir(parents=True, exist_ok=True)
        there.symlink_to(ROOT / folder)
    networks(place)
    images(place, count)
    inception(place)
    (place / "cells.json").write_text(json.dumps([[c.experiment, c.name, c.parameters] for c in cells]), "utf-8")


def run(only: Iterable[str] = (), first: bool = False, place: Path = PLACE, count: int = IMAGES) -> int:
    """Prepares the clone and runs the cells there. Returns the exit code."""
    cells = [reduced(cell, first) for cell in results.cells("paper", only=tuple(only))]
    print(f"{PROFILE}: {len(cells)} cells; preparing networks and images below {os.path.relpath(place)}", flush=True)
    prepare(place, cells, count)
    own = {"FEWSTEP_ROOT": place, "FEWSTEP_IMAGES": place / "images", "FEWSTEP_DATA": place / "cifar10"}
    own |= {"FEWSTEP_INCEPTION": place / "inception.pth", "FEWSTEP_MODELS": place / "data" / "cache" / "models"}
    environment = {**os.environ, **{name: str(path) for name, path in own.items()}, "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    return subprocess.run([sys.executable, __file__, "--inside", str(place)], env=environment, check=False).returncode


def inside(place: Path) -> int:
    """Runs the cells of a prepared clone, one after the other; then loads the networks that no cell has."""
    from gpu import execute
    from tqdm import tqdm

    cells = [results.Cell(PROFILE, *one) for one in json.loads((place / "cells.json").read_text("utf-8"))]
    started = time.perf_counter()
    failed = numbers = 0
    for cell in tqdm(cells, unit="cell", desc=PROFILE, disable=None):
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                execute(cell)
            made = results.read(cell.path())
            expected = len(cell.parameters.get("budgets", [0]))
            found = sum(m.metric in ("fid", "bits_per_dimension") for m in made.measurements)
            if found != expected:
                raise UserError(f"{found} numbers were recorded, {expected} were asked for")
            numbers += found
        except Exception as error:  # whatever it is: it is printed and counted, and the cells after it go on
            failed += 1
            text = str(error) if isinstance(error, UserError) else traceback.format_exc(limit=-3)
            print(f"failed {cell.experiment}/{cell.name}: {text}", flush=True)
    used = {cell.parameters["network"] for cell in cells}
    for name in zoo.records().keys() - used:
        failed += not _answers(name)
    seconds = time.perf_counter() - started
    print(f"{PROFILE}: {numbers} numbers in {len(cells) - failed} cells done, {failed} failed in {seconds:.0f} s")
    return 1 if failed else 0


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
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    die_with_parent()
    try:
        return inside(options.inside) if options.inside else run(options.cell, options.first)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
