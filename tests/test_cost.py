"""What measurements cost: calls counted once, laws recovered from their own points, the papers' tables row by row."""

from __future__ import annotations

import csv
import math
import shutil

import diffusers
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import yaml

from fewstep import cost, figures, results, shards
from fewstep.errors import UserError
from fewstep.provenance import ROOT

matplotlib.use("Agg")


@pytest.fixture(scope="module")
def paper():
    return cost.profile()


@pytest.fixture(scope="module")
def counted(paper):
    return {name: cost.operations(network) for name, network in paper.networks.items()}


def record_of(*measurements):
    where = results.load("digits", "frechet")[0].provenance
    return results.Record(provenance=where, measurements=[results.Measurement(**m) for m in measurements])


def test_a_run_is_counted_once_for_all_that_was_measured_on_it():
    run = {"solver": "ddim", "grid": "uniform", "nfe": 10, "samples": 300, "seeds": [0, 1, 2]}
    record = record_of(
        {**run, "metric": "frechet_distance", "value": 1.0},
        {**run, "metric": "precision", "value": 1.0},
        {**run, "metric": "frechet_distance", "value": 1.0, "settings": {"gamma": 2.0}},
        {"metric": "loss", "value": 1.0, "samples": 7},
    )
    assert cost.draws(record) == [cost.Draw(10, 900), cost.Draw(10, 900)]
    assert cost.calls(record) == 2 * 10 * 900
    assert cost.draws(record, "precision") == [cost.Draw(10, 900)]
    along = [{**run, "seeds": [], "metric": "distance", "value": s, "settings": {"sigma": s}} for s in (1.0, 2.0)]
    assert cost.calls(record_of(*along)) == 10 * 300
    with pytest.raises(UserError, match="precision"):
        cost.draws(record, "precisoin")


def test_laws_are_recovered_from_their_points():
    n = np.array([1e3, 1e4, 1e6])
    assert np.allclose(cost.linear(n, 0.7 + 2e-3 * n), (0.7, 2e-3))
    share = cost.amdahl({w: 3.0 + 60.0 / w for w in (1, 2, 8)})
    assert np.allclose(share, (3.0, 60.0))
    assert share.fraction == pytest.approx(3 / 63)
    assert np.allclose(share.seconds([1, 60]), [63.0, 4.0])
    # Of points off the line the relative error counts: the small one is not drowned by the large one.
    a, b = cost.linear([1, 10, 1000], [1.0, 10.0, 1100.0])
    assert a + b == pytest.approx(1.0, rel=0.05)


@pytest.mark.parametrize(("x", "y"), [([1], [1]), ([2, 2], [1, 2]), ([1, 2], [0, 1])])
def test_a_line_through_too_little_is_refused(x, y):
    with pytest.raises(UserError, match="two different x"):
        cost.linear(x, y)


@pytest.mark.parametrize("kept", [0, 5])
def test_bytes_of_a_shard_are_those_of_its_file_less_the_header(tmp_path, kept):
    f = torch.randn(9, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    shards.save(shards.Shard(0, 9, shards.Moments.of(f), f[:kept]), tmp_path / "shard")
    header = 8 + int.from_bytes((tmp_path / "shard").read_bytes()[:8], "little")
    assert (tmp_path / "shard").stat().st_size - header == cost.shard_bytes(16, kept)


def test_networks_have_the_sizes_that_their_authors_state(counted):
    # Millions of parameters: DDPM, App. B (35.7 and 114); the checkpoints' own tables for the others.
    stated = {"ddpm-cifar10": 35.7, "ddim-celeba64": 78.7, "ddpm-lsun": 113.7, "stable-diffusion": 865.9}
    for name, millions in stated.items():
        assert counted[name].parameters / 1e6 == pytest.approx(millions, abs=0.05)


def test_operations_are_those_of_all_products_and_convolutions():
    """Two for each weight and place where it is used, counted by hand on a network without attention."""
    config = {"in_channels": 3, "out_channels": 3, "block_out_channels": [8, 16], "layers_per_block": 1}
    config |= {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2, "norm_num_groups": 4}
    config["add_attention"] = False
    net = diffusers.UNet2DModel(**config)
    by_hand = 0

    def count(layer, inputs, output):
        nonlocal by_hand
        by_hand += 2 * layer.weight.numel() * (output[0, 0].numel() if output.ndim == 4 else 1)

    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.register_forward_hook(count)
    net(torch.zeros(1, 3, 16, 16), torch.zeros(1))
    found = cost.operations(cost.Network(title="", kind="unet", config=config, shape=[3, 16, 16], source=""))
    assert found == (by_hand, sum(weight.numel() for weight in net.parameters()))


def test_every_table_of_the_paper_profile_is_counted(paper, counted):
    for table in paper.tables:
        work = cost.table_work(table, paper, counted)
        assert work.cells > 0 and work.calls_per_image >= work.cells
        assert work.images == work.cells * table.samples * table.runs
        assert work.calls * counted[table.network].flops <= work.flops < math.inf


def test_ddim_table_1_is_its_rows(paper, counted):
    table = next(t for t in paper.tables if t.paper == "DDIM")
    work = cost.table_work(table, paper, counted)
    assert (work.cells, work.calls_per_image) == (25, 5 * (10 + 20 + 50 + 100 + 1000))
    scored = 25 * counted["inception"].flops + work.calls_per_image * counted["ddpm-cifar10"].flops
    assert work.flops == 50_000 * scored


def test_steps_of_pndm_are_counted_as_calls(paper, counted):
    (table,) = (t for t in paper.tables if t.title == "PNDM, CIFAR-10")
    assert cost.table_work(table, paper, counted).calls_per_image == (5 + 10 + 20 + 50) + 4 * 9


def test_no_reported_row_is_counted_twice_within_a_network(paper):
    seen = set()
    for table in paper.tables:
        if table.file is None or table.more_calls:
            continue
        with (ROOT / "data" / "reported" / f"{table.file}.csv").open(encoding="utf-8", newline="") as file:
            for number, row in enumerate(csv.DictReader(file)):
                if all(row[c] in ([w] if isinstance(w, str) else w) for c, w in table.where.items()):
                    assert (table.file, number) not in seen, (table.title, row)
                    seen.add((table.file, number))
    assert len(seen) > 100


def test_time_on_many_gpus_tends_to_what_stays_serial():
    one, many = (cost.wall_seconds(1e18, 1e14, g, 10, 2.0, 0.0) for g in (1, 10**9))
    assert one == pytest.approx(1e4 + 20)
    assert many == pytest.approx(20, rel=1e-3)
    assert cost.wall_seconds(0.0, 1.0, 8, 10, 2.0, 0.5) == 10 * (2 + 4)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda d: d["tables"][0].update(network="ddpm-cifar"), "ddpm-cifar10"),
        (lambda d: d["tables"][0].update(netwrok="x"), "netwrok"),
        (lambda d: d.update(matrix_rate=-1), "matrix_rate"),
    ],
)
def test_a_wrong_plan_is_refused_in_one_line(tmp_path, edit, match):
    document = yaml.safe_load((ROOT / "data" / "cost" / "paper.yml").read_text("utf-8"))
    edit(document)
    (tmp_path / "data" / "cost").mkdir(parents=True)
    (tmp_path / "data" / "cost" / "paper.yml").write_text(yaml.safe_dump(document), "utf-8")
    with pytest.raises(UserError, match=match) as error:
        cost.profile(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"file": "ddim"}, "ddim_2010.02502"),
        ({"where": {"tabel": "Table 1"}}, "table"),
        ({"where": {"table": "Table 99"}}, "no cell"),
        ({"file": None}, "a file of reported rows or an experiment"),
    ],
)
def test_a_table_without_rows_is_refused(paper, counted, change, match):
    table = next(t for t in paper.tables if t.paper == "DDIM").model_copy(update=change)
    with pytest.raises(UserError, match=match):
        cost.table_work(table, paper, counted)


def test_a_row_without_calls_needs_them_from_the_table(paper, counted):
    table = next(t for t in paper.tables if t.calls == "rk45").model_copy(update={"calls": None})
    with pytest.raises(UserError, match="states no NFE"):
        cost.table_work(table, paper, counted)


def test_a_missing_plan_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"paper\.yml"):
        cost.profile(tmp_path)
    shutil.copytree(ROOT / "data" / "cost", tmp_path / "data" / "cost")
    (tmp_path / "data" / "cost" / "paper.yml").write_text("a: [", "utf-8")
    with pytest.raises(UserError, match="not YAML"):
        cost.profile(tmp_path)


def test_the_figure_shows_what_was_measured_and_continues_it():
    made = results.Recorder()
    times = {1000: 2.5, 10_000: 20.5}
    for n, seconds in times.items():
        made.add("seconds", seconds, samples=n, settings={"of": "draw", "clock": "wall"})
    for w in (1, 2):
        made.add("seconds", 1.0 + 8.0 / w, samples=4000, settings={"of": "workers", "clock": "wall", "workers": w})
    left, right = figures.cost([made]).axes
    drawn = {line.get_label(): line.get_xydata() for ax in (left, right) for line in ax.get_lines()}
    assert drawn["measured, one worker"].tolist() == [[n, seconds] for n, seconds in times.items()]
    assert drawn["measured"].tolist() == [[1, 9.0], [2, 5.0]]
    assert drawn["fitted line, continued"][-1] == pytest.approx([1e6, 0.5 + 2e-3 * 1e6])
    assert drawn["$T_s + T_p/w$, continued"][-1] == pytest.approx([64, 1.0 + 8.0 / 64])
    plt.close("all")
    with pytest.raises(UserError, match="make experiments"):
        figures.cost([])
