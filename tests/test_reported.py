"""What the papers report and what reproduces it: every row has a cell or a reason, and a cell's calls are its rows'."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from fewstep import cost, reported, results, schedules, solvers
from fewstep.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
FILES = ("ddim_2010.02502", "pndm_2202.09778", "deis_2204.13902", "permenter_yuan_2306.04848", "score_sde_2011.13456")


@pytest.fixture(scope="module")
def numbers():
    return reported.numbers()


def test_every_row_has_a_cell_or_a_reason(numbers):
    """numbers() raises where one has neither, or where a cell's budgets are not its rows' calls."""
    assert {number.file for number in numbers} == set(FILES)
    lines = [sum(1 for _ in (ROOT / "data/reported" / f"{file}.csv").open(encoding="utf-8")) - 1 for file in FILES]
    assert len(numbers) == sum(lines)
    assert all(bool(number.targets) != bool(number.reason) for number in numbers)


def test_every_cell_is_a_target_and_has_the_rows_network(numbers):
    """The data set and the metric of a row are those of the cell's network and experiment."""
    cells = {(target.cell.experiment, target.cell.name) for number in numbers for target in number.targets}
    cells |= {(t.cell.experiment, t.cell.name) for _, targets in reported.unreported() for t in targets}
    assert cells == {(cell.experiment, cell.name) for cell in results.cells("paper")}
    datasets = {"celeba64": "CelebA", "bedroom": "LSUN-Bedroom", "church": "LSUN-Church", "diffusion": "MS-COCO 30K"}
    for number in numbers:
        for target in number.targets:
            network = target.cell.parameters["network"]
            expected = datasets.get(network.rpartition("-")[2], "CIFAR-10")
            assert number.row["dataset"].removesuffix(" test") == expected, (number, network)
            assert number.row["metric"].startswith("FID") == (target.cell.experiment == "fid")


def test_eta_is_the_rows(numbers):
    for number in numbers:
        if number.row["sampler"].startswith("eta="):
            for target in number.targets:
                assert target.cell.parameters["options"]["eta"] == float(number.row["sampler"][4:])


def test_gradient_estimation_has_its_authors_settings():
    """γ and the first level are those of the rows; the last level is the geometric mean of DDIM's last two.

    DDIM's labels of n steps are n + 1 equally spaced from 999 to 0, rounded down; the levels are given to four digits.
    """
    settings = {
        (row["dataset"], row["nfe"], row["metric"]): float(row["value"])
        for _, row in reported.rows(reported.Rows(file=FILES[3], where={"table": "hyperparameters"}))
    }
    table = schedules.linear_vp().rho(np.arange(1000))
    found = [cell for cell in results.cells("paper") if cell.name.startswith("ge-c") and cell.name[-1].isdigit()]
    found = [cell for cell in found if not cell.name.endswith("rho7")]
    assert len(found) == 8
    for cell in found:
        dataset = "CelebA" if "celeba" in cell.name else "CIFAR-10"
        (n,) = cell.parameters["budgets"]
        given = cell.parameters["grid_options"]
        assert cell.parameters["options"]["gamma"] == settings[dataset, str(n), "gamma"]
        assert given["rho_start"] == settings[dataset, str(n), "sigma_max (start)"]
        last = table[np.linspace(999, 0, n + 1).astype(int)[-2:]]
        assert given["rho_last"] == pytest.approx(float(np.sqrt(last.prod())), abs=5e-6)


def test_text_to_image_has_its_authors_settings():
    """As their program: ten steps, guidance of 7.5, 30,000 captions; γ = 2 from ρ = 8.35 to that of label 1000/10."""
    found = {cell.name: cell.parameters for cell in results.cells("paper") if cell.name.endswith("-coco")}
    assert len(found) == 5
    for name, given in found.items():
        plan = solvers.build(
            given["solver"],
            schedules.scaled_linear_vp(),
            *given["budgets"],
            given["grid"],
            given["grid_options"],
            **given["options"],
        )
        assert given["weight"] == 7.5 and given["samples"] == 30_000 and plan.nfe == 10 + (name == "plms-coco")
    levels = found["ge-coco"]["grid_options"]
    assert found["ge-coco"]["options"] == {"gamma": 2.0} and levels["rho_start"] == 8.35
    assert levels["rho_last"] == pytest.approx(float(schedules.scaled_linear_vp().rho(100)), abs=5e-6)


@pytest.mark.parametrize(
    ("title", "of", "more"),
    [
        ("Table 1, CIFAR-10: η × S", {"file": FILES[0], "table": "Table 1", "dataset": "CIFAR-10"}, 0),
        # PLMS's eleventh call is not counted there.
        ("text to image, COCO", {"file": FILES[3], "table": "text-to-image figure", "dataset": "MS-COCO 30K"}, 2),
    ],
)
def test_the_hours_are_those_of_the_page_cost(numbers, title, of, more):
    known = cost.profile()
    table = next(table for table in known.tables if table.title == title)
    names = (table.network, known.scorer, *([table.decoder] if table.decoder else []))
    counted = {name: cost.operations(known.networks[name]) for name in names}
    flops = cost.table_work(table, known, counted).flops + more * table.samples * counted[table.network].flops
    hours = sum(
        reported.gpu_hours(target)
        for number in numbers
        for target in number.targets
        if {"file": number.file, "table": number.row["table"], "dataset": number.row["dataset"]} == of
    )
    fraction = sorted(known.fractions)[len(known.fractions) // 2]
    assert hours == pytest.approx(flops / (fraction * known.matrix_rate) / 3600, rel=1e-12)


def test_the_verdict_is_that_of_the_intervals_or_of_a_twentieth():
    def found(theirs, std, value, low=None, high=None):
        number = reported.Number("", 0, {"value": theirs, "std": std}, [], "")
        return reported.verdict(number, {"value": value, "low": low, "high": high})

    assert found("10", "", 10.5) == found("10", "", 9.5) == "agrees"
    assert (found("10", "", 10.51), found("10", "", 9.49)) == ("higher", "lower")
    assert found("10", "0.3", 10.8, 10.6, 11.0) == found("10", "", 12.0, 9.9, 14.1) == "agrees"
    assert (found("10", "0.3", 10.8, 10.7, 11.0), found("10", "0.3", 9.2, 9.1, 9.3)) == ("higher", "lower")


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.fixture
def clone(tmp_path):
    shutil.copytree(ROOT / "data/reported", tmp_path / "data/reported")
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("workflow", "book/experiments"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("workflow/experiments.yml", "book/experiments/fid.ipynb", "data/models.yml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def edit(root, change):
    path = root / "data/reported/reproduced.yml"
    given = yaml.safe_load(path.read_text("utf-8"))
    change(given)
    path.write_text(json.dumps(given), "utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g["cells"].pop("fid/rk45-vp"), "does not say which rows fid/rk45-vp reproduces"),
        (
            lambda g: g["cells"].update({"fid/rk45": g["cells"]["fid/rk45-vp"]}),
            "unknown cell of profile paper 'fid/rk45'",
        ),
        (
            lambda g: g["cells"]["fid/dpm-solver-3-vp"]["rows"][0].update(more_calls=1),
            "fid/dpm-solver-3-vp measures at 48 calls, its rows are at 49",
        ),
        (lambda g: g["left_out"].pop(0), r"ddim_2010.02502: row \d+, Table 2, .* has no cell and no reason"),
        (
            lambda g: g["left_out"][0]["rows"][0].update(where={"table": "Table 3"}),
            "Table 3, .* has a cell and a reason|has no cell and no reason",
        ),
        (
            lambda g: g["cells"]["fid/rk45-vp"]["rows"][0]["where"].update(model="DDPM+"),
            r"unknown model in score_sde_2011.13456 'DDPM\+'; did you mean",
        ),
        (
            lambda g: g["cells"]["fid/rk45-vp"]["rows"][0]["where"].update(networks="DDPM"),
            "unknown column of score_sde_2011.13456 'networks'",
        ),
        (lambda g: g["cells"]["fid/rk45-vp"]["rows"][0].update(file="ddim"), "unknown file of data/reported 'ddim'"),
        (lambda g: g.pop("not_at_hand"), r"reproduced\.yml.*not_at_hand"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(clone, change, message):
    edit(clone, change)
    with pytest.raises(UserError, match=message) as caught:
        reported.numbers(clone)
    assert "\n" not in str(caught.value)


# --- the page ------------------------------------------------------------------------------------------------------


def test_the_page_shows_ours_the_difference_and_what_is_not_run(clone, monkeypatch):
    pytest.importorskip("myst_parser")
    import reproduced
    from test_records_ext import CONF, build, table_text

    reproduced.numbers.cache_clear()
    cell = next(cell for cell in results.cells("paper", root=clone) if cell.name == "ddim-church")
    measured = [
        results.Measurement(metric="fid", value=value, solver="ddim", nfe=nfe, samples=50_000, settings={"budget": nfe})
        for nfe, value in ((10, 19.95), (20, 12.17))
    ]
    where = {name: None for name in ("feature_net", "revision", "dirty")}
    where |= {"profile": "paper", "experiment": "fid", "cell": cell.name, "parameters": cell.parameters}
    where |= {"key": cell.key(clone), "weights": {}, "device": "a card", "python": "3.11.0", "packages": {}}
    record = results.Record(
        provenance=results.Provenance(**where, started="2026-01-02T03:04:05+00:00", wall_s=1.0), measurements=measured
    )
    results.write(record, clone / "data/results")
    monkeypatch.setattr(reported, "gpu_hours", lambda target, root: target.budget / 40)
    (clone / "book/other.md").write_text("---\norphan: true\n---\n# Other\n\nText.\n")
    conf = CONF.format(extensions=str(ROOT / "book/_ext"), root=str(clone))
    (clone / "book/conf.py").write_text(conf.replace('"records"]', '"records", "reproduced"]'))
    html, _, _ = build(clone, "```{reproduced} ddim_2010.02502\n:table: Table 3\n```\n\n```{left-out}\n```")
    which = ["LSUN-Church", "DDIM (η\u00a0=\u00a00)"]
    found = [row for row in table_text(html, "reported") if row[:2] == which]
    run = "not run yet: make experiments PROFILE=paper CELL=fid/ddim-church, about {} GPU-hours"
    assert [row[2:] for row in found] == [
        ["10", "19.45", "19.9", "+0.50", "1.03", "agrees"],
        ["20", "12.47", "12.2", "−0.30", "0.976", "agrees"],
        ["50", "10.84", run.format("1.2"), "", "", ""],
        ["100", "10.58", run.format("2.5"), "", "", ""],
    ]
    assert "equal steps in t are taken" in html and "PNDM, LSUN tables" in html
    assert 'class="provenance"' in html
    ipndm = [row for row in table_text(html, "reported") if row[0] == "iPNDM-4"]
    command = "not run yet: make experiments PROFILE=paper CELL=fid/ipndm-4-vp, about 7.5 GPU-minutes"
    assert ipndm[0] == ["iPNDM-4", "quadratic", "score-sde-vp-deep", "5", command]
    html, _, _ = build(clone, "```{reproduced} ddim_2010.02502\n:table: Table 2\n```")
    assert "Table 2, 7 rows, not reproduced: a reconstruction error" in html
