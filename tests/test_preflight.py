"""What is looked at before the first cell: each refusal with its line, the estimates on constructed records."""

from __future__ import annotations

import datetime
import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("tabulate")
pytest.importorskip("papermill")
pytest.importorskip("snakemake")

import preflight
import schema
from test_profiles_are_data import listing
from test_workflow import clone, run

from fewstep import data, results
from fewstep.errors import UserError
from fewstep.models import checkpoints

ROOT = Path(__file__).resolve().parents[1]

__all__ = ["clone"]  # the fixture


def cell(experiment="frechet", name="x", profile="digits", shards=None, gpu=False, **parameters):
    return results.Cell(profile, experiment, name, parameters, shards, gpu)


def test_what_is_planned_fits_its_notebooks():
    for profile in results.profiles():
        cells = [
            *results.cells(profile),
            *(c for name in results.training(profile) for c in results.cells(profile, name)),
        ]
        # The weights of a profile are there only when it has been trained.
        assert [line for line in schema.mistakes(cells) if "unknown weights" not in line] == []


def test_data_sets_are_as_large_as_stated():
    assert schema.IMAGES.keys() == data.DATASETS.keys()
    images = data.load("digits").images
    assert schema.IMAGES["digits"] == (len(images), math.prod(images.shape[1:]))


@pytest.mark.parametrize(
    ("experiment", "parameters", "complaint"),
    [
        ("frechet", {"sample": 5}, "unknown parameter 'sample'; did you mean samples"),
        ("frechet", {"record_as": {}}, "unknown parameter 'record_as'; known: "),
        ("frechet", {"samples": 0}, "samples: Input should be greater than 0, like the notebook's 400; got 0"),
        ("frechet", {"samples": 300.5}, "samples: Input should be a valid integer, like the notebook's 400; got 300.5"),
        ("frechet", {"samples": True}, "samples: Input should be a valid integer"),
        ("frechet", {"samples": 10**400}, "samples: Input should be less than or equal to 1000000000000"),
        ("frechet", {"samples": datetime.date(2026, 1, 1)}, "samples: Input should be a valid integer"),
        (
            "frechet",
            {"budgets": 5},
            "budgets: Input should be a valid list, like the notebook's [5, 10, 20, 50]; got 5",
        ),
        ("frechet", {"budgets": []}, "budgets: List should have at least 1 item"),
        ("frechet", {"budgets": [5, -1]}, "budgets[1]: Input should be greater than 0"),
        ("frechet", {"budgets": [5, 10, 5]}, "budgets: 5 stands there 2 times; once is needed"),
        ("frechet", {"seeds": [0, 0]}, "seeds: 0 stands there 2 times; once is needed"),
        ("frechet", {"seeds": [-1]}, "seeds[0]: Input should be greater than or equal to 0"),
        ("frechet", {"solvers": {"ddmi": ["uniform"]}}, "solvers: unknown solver 'ddmi'; did you mean ddpm, ddim"),
        ("frechet", {"solvers": {"ddim": ["unifrom"]}}, "solvers: unknown grid 'unifrom'; did you mean uniform"),
        ("frechet", {"solvers": {"ddim": "uniform"}}, "solvers['ddim']: Input should be a valid list"),
        ("frechet", {"solvers": {"ddim": []}}, "solvers['ddim']: List should have at least 1 item"),
        ("frechet", {"solvers": ["ddim"]}, "solvers: Input should be a valid dictionary"),
        ("frechet", {"process": "linaer"}, "process: unknown process 'linaer'; did you mean linear"),
        ("frechet", {"dataset": "digit"}, "dataset: unknown dataset 'digit'; did you mean digits"),
        ("frechet", {"model": "digits-unit"}, "model: unknown weights 'digits-unit'; did you mean digits-unet"),
        ("frechet", {"model": "digits-features"}, "model: 'digits-features' is of kind features; known of kind unet: "),
        ("frechet", {"features": "digits-unet"}, "features: 'digits-unet' is of kind unet; known of kind features: "),
        ("exact_error", {"solvers": ["ddim", "ddmi"]}, "solvers: unknown solver 'ddmi'"),
        ("exact_error", {"grids": ["unifrom"]}, "grids: unknown grid 'unifrom'"),
        ("exact_error", {"processes": ["vp", "vp"]}, "processes: 'vp' stands there 2 times"),
        (
            "exact_error",
            {"fit_from": 0.5},
            "fit_from: Input should be a valid integer, like the notebook's 100; got 0.5",
        ),
        ("exact_error", {"samples": [5]}, "samples: Input should be a valid integer"),
        ("gamma_sweep", {"gammas": [1.0, math.inf]}, "gammas[1]: Input should be a finite number"),
        (
            "sanity",
            {"noises": ["much"]},
            "noises[0]: Input should be a valid number, like the notebook's [0.02, 0.05, 0.1]",
        ),
        ("guidance", {"weights": [1.0, -0.5]}, "weights[1]: Input should be greater than or equal to 0"),
        (
            "predictor_corrector",
            {"predictors": ["ancestrel"]},
            "predictors: unknown predictor 'ancestrel'; did you mean ancestral",
        ),
        ("predictor_corrector", {"snrs": [0.0]}, "snrs[0]: Input should be greater than 0"),
        ("time_grids", {"grid_options": {"rho7": 3}}, "grid_options['rho7']: Input should be a valid dictionary"),
        ("frecht", {}, "unknown experiment 'frecht'; did you mean frechet"),
    ],
)
def test_a_parameter_that_cannot_be_meant_is_one_line(experiment, parameters, complaint):
    lines = schema.mistakes([cell(experiment, **parameters)])
    assert len(lines) == 1 and "\n" not in lines[0]
    where = "" if experiment == "frecht" else f"digits/{experiment}/x: "
    assert lines[0].startswith(where + complaint), lines


def test_a_value_may_be_of_the_kind_of_the_notebooks():
    options = {"power-t": {"power": 2}, "power-rho": {"power": 5.0}}
    good = [
        cell(solvers={"ddim": ["uniform"], "ge": ["log-linear", "rho7"]}, budgets=[7], seeds=[3, 4], samples=10),
        cell("time_grids", grids=["power-t"], grid_options=options),
        cell("gamma_sweep", gammas=[1, 2.5]),
        cell("fd_cifar", gammas=[]),  # as in the notebook
        cell("train_unet", minutes=0.5, unet={"channels": [4, 4], "layers": 1}),
    ]
    assert schema.mistakes(good) == []


def test_a_mistake_that_cells_share_is_told_once():
    lines = schema.mistakes([cell(name=name, process="linaer") for name in ("a", "b", "c")])
    assert lines == [
        "digits/frechet/a and 2 more: process: unknown process 'linaer'; did you mean linear, scaled-linear, cosine?"
    ]


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ('{"cells": []}', "a cell tagged 'parameters' with 'record_as' in it is needed"),
        ("[]", "not a notebook"),
        ("half a no", "not a notebook"),
        ('{"cells": [{"metadata": {"tags": ["parameters"]}, "source": "%matplotlib inline"}]}', "not a notebook"),
    ],
)
def test_a_notebook_without_parameters_is_named(tmp_path, monkeypatch, source, complaint):
    path = tmp_path / "book/experiments/toy.ipynb"
    path.parent.mkdir(parents=True)
    path.write_text(source)
    monkeypatch.setattr(schema, "ROOT", tmp_path)
    lines = schema.mistakes([cell("toy", name=name) for name in "ab"])
    assert len(lines) == 1 and lines[0].startswith(f"{path}: ") and complaint in lines[0]


# --- weights and data ----------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path, monkeypatch):
    """A copy of the shipped weights that may be damaged."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(checkpoints.FOLDER, folder)
    monkeypatch.setattr(schema, "CHECKPOINTS", folder)
    monkeypatch.setattr(checkpoints, "FOLDER", folder)
    return folder


def test_weights_are_those_of_the_manifest(weights):
    assert preflight.wrong_weights([cell()]) == []
    path = weights / "digits-unet.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert [line.partition("; ")[0] for line in preflight.wrong_weights([cell(), cell(name="y")])] == [
        f"checkpoint {path} does not have the SHA-256 that its manifest states"
    ]
    path.write_bytes(whole[:1000])
    (weights / "digits-features.safetensors").unlink()
    lines = preflight.wrong_weights([cell()])
    assert len(lines) == 2
    assert lines[0].startswith(f"cannot read checkpoint {weights / 'digits-features.safetensors'}: No such file")
    assert lines[1].startswith(f"checkpoint {path} is truncated; ")
    assert preflight.wrong_weights([cell("exact_error")]) == []  # it needs none


def test_weights_that_can_be_fetched_may_be_missing(weights):
    manifest = json.loads((weights / "manifest.json").read_text())
    manifest["digits-unet.safetensors"]["url"] = "https://example.org/digits-unet.safetensors"
    (weights / "manifest.json").write_text(json.dumps(manifest))
    (weights / "digits-unet.safetensors").unlink()
    assert preflight.wrong_weights([cell()]) == []


def test_weights_that_the_manifest_does_not_know_and_a_manifest_that_is_none(weights):
    (weights / "manifest.json").unlink()
    assert preflight.wrong_weights([cell("sanity")]) == ["unknown weights 'cifar10-features'; known:"]
    (weights / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest.json is not valid JSON; restore it"):
        schema.manifest()


def test_data_is_where_it_is_said_to_be(tmp_path, monkeypatch):
    cifar = cell("sanity", profile="cifar10")
    monkeypatch.delenv("FEWSTEP_DATA", raising=False)
    assert preflight.wrong_data([cifar, cell()]) == []
    monkeypatch.setenv("FEWSTEP_DATA", str(tmp_path / "none"))
    assert preflight.wrong_data([cell()]) == []  # the digits come with scikit-learn
    lines = preflight.wrong_data([cifar])
    assert [line.partition(": ")[0] for line in lines] == ["dataset cifar10", "dataset cifar10-test"]
    assert f"{tmp_path / 'none'} is not a folder; FEWSTEP_DATA must name" in lines[0]
    monkeypatch.setenv("FEWSTEP_DATA", str(tmp_path))
    assert "holds no images" in preflight.wrong_data([cifar])[0]
    (tmp_path / "train-cat-00.webp").write_text("no image")
    assert "train-airplane-00.webp is missing" in preflight.wrong_data([cifar])[0]


# --- estimates -----------------------------------------------------------------------------------------------------


def record(folder, which, seconds, device="AMD EPYC, 1 thread (cpu)", measured=()):
    provenance = results.Provenance(
        profile=which.profile,
        experiment=which.experiment,
        cell=which.name,
        parameters=which.parameters,
        key="of other code",
        weights={},
        feature_net=None,
        device=device,
        python="3.12",
        packages={},
        revision=None,
        dirty=None,
        started="2026-01-01T00:00:00+00:00",
        wall_s=seconds,
    )
    numbers = [results.Measurement(metric="error", value=1.0)]
    numbers += [results.Measurement(metric="seconds", value=value, samples=n + 1) for n, value in enumerate(measured)]
    results.write(results.Record(provenance=provenance, measurements=numbers), folder)
    return which


def test_work_is_calls_times_samples():
    two = {"ddim": ["uniform", "quadratic"], "ge": ["log-linear"]}
    assert preflight.work(cell(solvers=two, budgets=[5, 10], seeds=[0, 1], samples=100)) == 3 * 15 * 2 * 100
    # What a cell does not say its notebook does: 8 budgets, 3 grids, 2 processes, 16 samples.
    assert preflight.work(cell("exact_error", solvers=["ddim", "euler"])) == 2 * 3 * 2 * 1585 * 16
    assert preflight.work(cell("gamma_sweep", gammas=[1.0, 2.0], budgets=[5], seeds=[0], samples=10)) == 2 * 5 * 10
    guided = cell("guidance", solvers={"ddim": ["uniform"]}, weights=[0.0, 2.0, 4.0], budgets=[5], samples=10)
    assert preflight.work(guided) == 3 * 5 * 10
    assert preflight.work(cell("denoiser_error", budget=50, samples=200)) == 50 * 200
    solution = cell("ode_error", solvers={"ddim": ["uniform"]}, budgets=[10, 20], samples=8, reference_calls=200)
    assert preflight.work(solution) == (10 + 20 + 100 + 200) * 8
    assert preflight.work(cell("baseline")) == 0


def test_the_largest_piece_is_a_range_of_the_set_with_the_most_calls():
    two = {"solvers": {"ddpm": ["uniform", "quadratic"]}, "budgets": [10, 90], "seeds": [0], "samples": 100}
    assert preflight.largest_piece(cell(shards=5, **two)) == pytest.approx(0.9 / 2 / 5)
    assert preflight.largest_piece(cell(**two)) == preflight.largest_piece(cell("baseline", shards=5)) == 1


def test_time_is_taken_from_the_cell_itself_and_else_from_its_experiment(tmp_path):
    small = {"solvers": {"ddim": ["uniform"]}, "seeds": [0], "samples": 100}
    ran = [
        record(tmp_path, cell(name="a", budgets=[10], **small), 20.0),
        record(tmp_path, cell(name="b", budgets=[20], **small), 60.0),
        record(tmp_path, cell(name="c", budgets=[10], **small), 70.0),
        record(tmp_path, cell("baseline", name="halves"), 5.0),
    ]
    seen = preflight.past(ran, [tmp_path])
    # Twice the calls of its record.
    now = cell(name="a", budgets=[5, 15], **small)
    assert preflight.duration(now, seen, False) == (40 + preflight.START, "its last record")
    # A new cell: the median of 2, 3 and 7 seconds per 100 evaluations.
    new = cell(name="new", budgets=[30], **small)
    assert preflight.duration(new, seen, False) == (90 + preflight.START, "records of frechet")
    # Where the parameters say nothing of the work: what the longest took.
    assert preflight.duration(cell("baseline", name="new"), seen, False)[0] == 5 + preflight.START
    # Nothing like it has run: another experiment, or another kind of device.
    unknown = (None, "unknown until the first cells have run")
    assert preflight.duration(cell("time_grids"), seen, False) == unknown
    assert preflight.duration(now, seen, True) == unknown


def test_records_that_count(tmp_path):
    old = record(tmp_path / "old", cell(name="a", budgets=[10]), 20.0)
    record(tmp_path / "new", cell(name="a", budgets=[10]), 30.0, device="NVIDIA H200 (cuda)")
    record(tmp_path / "old", cell(name="b", budgets="ten"), 20.0)  # such a parameter its notebook does not take
    asked = [old, cell(name="b"), cell(name="never")]
    both = preflight.past(asked, [tmp_path / "new", tmp_path / "old"])
    assert [(one.cell.name, one.seconds, one.cuda) for one in both] == [("a", 30.0, True)]
    # The samples of a cell in shards may have been drawn by other jobs than the one that wrote the record.
    sharded = record(tmp_path / "old", cell(name="c", shards=4, budgets=[10]), 3.0, measured=(50.0, 60.0))
    assert [one.seconds for one in preflight.past([sharded], [tmp_path / "old"])] == [110.0]


ENTRIES = {
    "net": {"sha256": "0", "kind": "unet", "config": {"shape": [3, 32, 32], "channels": [128, 256]}},
    "eye": {"sha256": "0", "kind": "resnet", "config": {"shape": [3, 32, 32], "widths": [64, 384]}},
}


def test_memory_and_disk_are_those_of_the_formula():
    asked = {"model": "net", "features": "eye", "dataset": "cifar10", "samples": 50_000, "keep": 10_000, "batch": 100}
    sets = {"solvers": {"ddim": ["uniform", "rho7"]}, "budgets": [5, 10], "seeds": [0]}
    images, rows = 2 * 4 * 50_000 * 3072, 8 * 384 * 60_000
    maps = 16 * 1024 * max(4 * 128, 8 * 64)
    on_cpu = preflight.need(cell("fd_cifar", shards=5, gpu=True, **asked, **sets), [], ENTRIES, False)
    assert on_cpu.memory == preflight.PROCESS + images + rows + 100 * maps
    assert (on_cpu.gpu, on_cpu.least_gpu) == (0, 0)
    assert on_cpu.disk == (preflight.KEPT, 4 * 8 * 384 * (10_000 + 5 * 385))
    on_gpu = preflight.need(cell("fd_cifar", gpu=True, **asked, **sets), [], ENTRIES, True)
    assert (on_gpu.memory, on_gpu.gpu, on_gpu.least_gpu) == (on_cpu.memory - 100 * maps, 100 * maps, maps)
    assert on_gpu.disk == (preflight.KEPT, 0)


def a_need(name, seconds, shards=None, memory=2**30):
    return preflight.Need(cell(name=name, shards=shards), 10.0, memory, 0, 0, (2**20, 2**20), seconds, "")


def test_the_whole_run():
    needs = [a_need("a", 100.0), a_need("b", 40.0), a_need("c", 20.0), a_need("d", None)]
    outlook = preflight.Outlook(7, needs, [], 2, 2**33, 2**34)
    assert outlook.seconds == 100  # no shorter than the longest, though (100 + 40 + 20) / 2 = 80
    assert preflight.Outlook(7, [a_need("a", 100.0, shards=4), *needs[1:]], [], 2).seconds == 80
    assert preflight.Outlook(7, needs[3:], [], 2).seconds is None
    assert (outlook.needed_memory, outlook.needed_disk) == (2 * 2**30, 6 * 2**20)
    assert preflight.Outlook(7, [a_need("a", 1.0, shards=4)], [], 3).needed_memory == 3 * 2**30
    lines = str(outlook).splitlines()
    assert lines[0] == "estimates for 4 of 7 cells"
    assert lines[1].split() == ["cell", "samples", "×", "calls", "memory", "disk", "time", "time", "from"]
    assert lines[3].split() == ["frechet/a", "10", "1.0", "GiB", "2", "MiB", "0:01:40"]
    assert lines[6].split() == ["frechet/d", "10", "1.0", "GiB", "2", "MiB", "?"]
    assert lines[7].split()[:13] == "all, 2 jobs at a time 40 2.0 GiB 6 MiB 0:01:40 +".split()
    assert lines[8].split() == ["free", "8.0", "GiB", "16.0", "GiB"]


@pytest.fixture
def two_cells(monkeypatch, tmp_path):
    cells = [cell("exact_error", name="a", samples=4), cell("exact_error", name="b", samples=4)]
    monkeypatch.setattr(results, "cells", lambda profile, **_: cells)
    monkeypatch.setattr(results, "stale_cells", lambda profile, out, **_: cells[:1])
    return tmp_path


def test_too_little_memory_or_disk_is_refused(two_cells, monkeypatch):
    import psutil

    assert preflight.look_ahead("digits", 2, two_cells).problems == []
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1_500 * 2**20))
    assert [one.name for one in preflight.look_ahead("digits", 2, two_cells).cells] == ["a"]
    outlook = preflight.look_ahead("digits", 2, two_cells, every=True)
    said = "2 jobs at a time take about 2.0 GiB of memory, 1.5 GiB are free; JOBS=1 fits"
    assert [one.name for one in outlook.cells] == ["a", "b"] and outlook.problems == [said]
    elsewhere = preflight.look_ahead("digits", 2, two_cells, every=True, here=False)
    assert elsewhere.problems == [] and "?" in str(elsewhere)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    problems = preflight.look_ahead("digits", 1, two_cells, every=True).problems
    assert len(problems) == 1
    assert problems[0].startswith("the run takes about 1 MiB of disk, 0 MiB are free; more room is needed in ")


def test_a_gpu_that_cannot_hold_one_image_is_refused(two_cells, monkeypatch):
    asked = cell("speed", gpu=True, model="digits-unet", profile="cifar10")
    monkeypatch.setattr(results, "cells", lambda profile, **_: [asked])
    monkeypatch.setattr(preflight, "_gpu", lambda: ("Toy 1", 2**30))
    outlook = preflight.look_ahead("cifar10", 1, two_cells, every=True)
    assert outlook.problems == [] and "GPU memory" in str(outlook) and "1.0 GiB" in str(outlook)
    monkeypatch.setattr(preflight, "_gpu", lambda: ("Toy 1", 2**20))
    said = "cifar10/speed/ takes 11 MiB of GPU memory for one image at a time; the Toy 1 has 1 MiB"
    assert preflight.look_ahead("cifar10", 1, two_cells, every=True).problems == [said.replace("speed/", "speed/x")]


def test_wrong_parameters_and_wrong_weights_stop_before_anything_is_estimated(weights, monkeypatch, tmp_path):
    wrong = [cell(samples=0), cell(name="y", process="linaer")]
    monkeypatch.setattr(results, "cells", lambda profile, **_: wrong)
    outlook = preflight.look_ahead("digits", 1, tmp_path)
    assert len(outlook.problems) == 2 and outlook.cells == []
    monkeypatch.setattr(results, "cells", lambda profile, **_: [cell()])
    (weights / "digits-unet.safetensors").write_bytes(b"")
    outlook = preflight.look_ahead("digits", 1, tmp_path, every=True)
    assert len(outlook.problems) == 1 and "is truncated" in outlook.problems[0] and outlook.cells == []


# --- as run.py does it ---------------------------------------------------------------------------------------------


def test_every_problem_is_a_line_and_nothing_is_started_or_left_behind(clone):
    (clone / "workflow/experiments.yml").write_text(
        "digits: {toy: {cells: {a: {solver: ddmi}, b: {nfe: [5]}, c: {nfes: 5}, d: {wait: 1.0}}}}"
    )
    before = listing(clone)
    for arguments in (["experiments"], ["check"], ["experiments", "--dry-run"]):
        code, out, err = run(clone, arguments[0], "digits", *arguments[1:])
        assert (code, out) == (2, "")
        lines = err.splitlines()
        assert [line[: line.rindex(": ") + 1] for line in lines] == [
            "error: digits/toy/a: solver:",
            "error: digits/toy/b:",
            "error: digits/toy/c: nfes:",
        ]
    assert listing(clone) == before


def test_a_dry_run_prints_the_table_and_writes_nothing(clone):
    before = listing(clone)
    for command in ("experiments", "check"):
        code, out, err = run(clone, command, "digits", "--dry-run", "--jobs", "2")
        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert lines[0] == "estimates for 2 of 2 cells"
        assert [line.split()[0] for line in lines[3:7]] == ["toy/ddim", "toy/deis", "all,", "free"]
        assert all(line.endswith("unknown until the first cells have run") for line in lines[3:5])
    assert listing(clone) == before

    record(clone / "data/results", cell("toy", name="ddim"), 5.0)
    before = listing(clone)
    code, out, _ = run(clone, "experiments", "digits", "--dry-run", "--jobs", "2")
    assert code == 0 and "0:00:15  its last record" in out and "0:00:15  records of toy" in out
    assert listing(clone) == before


def test_a_dry_run_with_nothing_to_do(clone):
    (clone / "workflow/experiments.yml").write_text("digits: {toy: {cells: {ddim: {nfes: [5]}}}}")
    code, out, err = run(clone, "experiments", "digits")
    assert code == 0 and out.startswith("estimates for 1 of 1 cells\n"), err
    before = listing(clone)
    code, out, err = run(clone, "experiments", "digits", "--dry-run")
    assert (code, out, err) == (0, "digits: the records of all 1 cells are up to date\n", "")
    assert listing(clone) == before


def test_a_job_that_runs_alone_refuses_an_unknown_parameter(clone):
    (clone / "workflow/experiments.yml").write_text("digits: {toy: {cells: {ddim: {nfe: [5]}}}}")
    code, out, _ = run(clone, "digits", "toy", "ddim", "--log", "log.ipynb", script="run_cell.py")
    assert code == 2 and "| digits/toy/ddim: unknown parameter 'nfe'; did you mean nfes?\n" in out
    assert not list(clone.glob("*.ipynb"))


def test_the_papers_networks_and_inception_are_asked_for_before_the_first_cell(monkeypatch):
    """All that is missing at once, a line for each, whether a hub has it or a file."""
    from fewstep import images, inception
    from fewstep.models import zoo

    def missing(name):
        def ask(*given):
            raise UserError(f"{name} {getattr(given[0], 'dataset', given[0]) if given else ''}".strip())

        return ask

    chosen = [
        c for c in results.cells("paper") if c.name in ("ddim-church", "vp-flow", "ddim-coco", "rk45-vp", "ge-celeba-5")
    ]
    for module, name in ((zoo, "load"), (images, "load"), (images, "captions"), (inception, "weights_file")):
        monkeypatch.setattr(module, name, missing(f"no {name}"))
    networks = ["ddim-celeba64", "ddpm-church", "ddpm-cifar10", "score-sde-vp", "stable-diffusion"]
    sets = ["CelebA", "LSUN church_outdoor", "COCO"]
    expected = [*(f"no load {one}" for one in [*networks, *sets]), "no captions 1", "no weights_file"]
    assert sorted(preflight.wrong_networks(chosen)) == sorted(expected)
    assert preflight.wrong_networks([cell()]) == []
