"""Records: what is written is what was measured, whole or not at all; a key changes with what makes the number only."""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from fewstep import provenance, results
from fewstep.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def measurement(**changes):
    base = dict(metric="error", value=0.5, solver="ddim", grid="uniform", nfe=10, samples=100, seeds=[0, 1])
    return results.Measurement(**{**base, **changes})


def record(measurements, cell="ddim", **changes):
    values = dict(
        profile="digits",
        experiment="exact_error",
        cell=cell,
        parameters={"solver": "ddim"},
        key="0" * 64,
        weights={},
        feature_net=None,
        device="a processor",
        python="3.11.0",
        packages={"numpy": "2.0"},
        revision=None,
        dirty=None,
        started="2026-01-01T00:00:00+00:00",
        wall_s=1.0,
    )
    return results.Record(provenance=results.Provenance(**{**values, **changes}), measurements=measurements)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A clone in small: the package, one notebook, one weight file's entry and a plan of two cells."""
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "data/checkpoints").mkdir(parents=True)
    (tmp_path / "book/experiments").mkdir(parents=True)
    (tmp_path / "workflow").mkdir()
    save_notebook(tmp_path, ["from fewstep import schedules, solvers\nsolver = 'ddim'  # a comment"])
    (tmp_path / "data/checkpoints/manifest.json").write_text(json.dumps({"net.safetensors": {"sha256": "ab"}}))
    (tmp_path / "workflow/experiments.yml").write_text(
        "digits: {toy: {parameters: {nfes: [5]}, cells: {ddim: {solver: ddim}, deis: {solver: deis-tab1}}}}"
    )
    return tmp_path


def save_notebook(root, sources, outputs=()):
    cells = [{"cell_type": "code", "metadata": {}, "outputs": list(outputs), "source": source} for source in sources]
    cells.append({"cell_type": "markdown", "metadata": {}, "source": f"{len(outputs)} outputs"})
    (root / "book/experiments/toy.ipynb").write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4}))


def edit(path, old, new):
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")
    os.utime(path, ns=(path.stat().st_mtime_ns + 10_000_000,) * 2)  # a coarse clock must not hide the edit


# --- files


def test_what_is_written_is_read_again_bit_for_bit(tmp_path):
    value = 0.1 + 0.2
    settings = {"γ": 1.5, "b": True}
    written = record([measurement(value=value, low=value - 1e-17, high=math.nextafter(value, 1), settings=settings)])
    path = results.write(written, tmp_path)
    assert path == tmp_path / "digits/exact_error/ddim.json"
    assert results.read(path) == written
    assert results.load("digits", "exact_error", tmp_path) == [written]
    assert type(results.read(path).measurements[0].settings["b"]) is bool


def test_no_file_is_left_when_the_disk_refuses(tmp_path, monkeypatch):
    results.write(record([measurement(value=1.0)]), tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"cannot write .*ddim.json: No space left"):
        results.write(record([measurement(value=2.0)]), tmp_path)
    assert [path.name for path in (tmp_path / "digits/exact_error").iterdir()] == ["ddim.json"]
    assert results.load("digits", "exact_error", tmp_path)[0].measurements[0].value == 1.0


def test_a_record_can_be_read_by_others(tmp_path):
    assert results.write(record([measurement()]), tmp_path).stat().st_mode & stat.S_IROTH


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda d: d["measurements"][0].update(value="3"), "measurements.0.value"),
        (lambda d: d["measurements"][0].update(value=None), "measurements.0.value"),
        (lambda d: d["measurements"][0].update(colour="red"), "measurements.0.colour"),
        (lambda d: d["measurements"][0].update(metric="eror"), "unknown metric 'eror'; did you mean error"),
        (lambda d: d["measurements"][0].update(low=1.0), "both low and high"),
        (lambda d: d["measurements"][0].update(low=2.0, high=1.0), "above high"),
        (lambda d: d["measurements"][0]["settings"].update(nfe=3), "'nfe' is a field of the record already"),
        (lambda d: d["provenance"].pop("key"), "provenance.key"),
        (lambda d: d["provenance"].update(profile="../up"), "provenance.profile"),
        (lambda d: d.update(schema_version=2), "schema_version"),
        (lambda d: d["measurements"].append(d["measurements"][0]), "two measurements at metric=error solver=ddim"),
        (lambda d: d["measurements"].clear(), "measurements: .*at least 1"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_file_and_field(tmp_path, change, complaint):
    path = results.write(record([measurement()]), tmp_path)
    document = json.loads(path.read_text("utf-8"))
    change(document)
    path.write_text(json.dumps(document), "utf-8")
    with pytest.raises(UserError, match=complaint) as caught:
        results.load("digits", "exact_error", tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"measurements": [{"value": NaN}]}'])
def test_a_broken_file_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "digits/exact_error/ddim.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        results.load("digits", "exact_error", tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_record_in_another_records_place_is_refused(tmp_path):
    path = results.write(record([measurement()]), tmp_path)
    path.rename(path.with_name("euler.json"))
    with pytest.raises(UserError, match=r"euler.json: provenance: says digits/exact_error/ddim"):
        results.load("digits", "exact_error", tmp_path)


# --- recording


def test_recording_writes_once_the_block_is_done(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(results.recorder, "cell_key", lambda *_: "k")
    monkeypatch.setattr(results.recorder, "weights_of", lambda _: {"net": "ab"})
    out = tmp_path / "out"
    with results.recording("digits", "toy", "ddim", {"features": "net"}, out=out) as rec:
        rec.add("error", np.float32(0.5), seeds=np.arange(2), nfe=np.int64(3), settings={"γ": np.float64(1.5)})
        assert not out.exists()
    (made,) = results.load("digits", "toy", out)
    assert made.measurements[0].seeds == [0, 1] and made.measurements[0].nfe == 3
    where = made.provenance
    assert (where.key, where.weights, where.feature_net) == ("k", {"net": "ab"}, "net")
    assert where.packages["numpy"] == np.__version__ and where.wall_s >= 0


def test_a_failure_leaves_no_record(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(results.recorder, "cell_key", lambda *_: "k")
    with pytest.raises(ZeroDivisionError), results.recording("digits", "toy", "ddim", {}, out=tmp_path / "out") as rec:
        rec.add("error", 1.0)
        raise ZeroDivisionError
    empty = results.recording("digits", "toy", "ddim", {}, out=tmp_path / "out")
    with pytest.raises(UserError, match="measured nothing"), empty:
        pass
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_only_finite_numbers_are_recorded(value):
    with pytest.raises(UserError, match=r"measurement of error \(ddim, nfe=5\): value: .*finite"):
        results.Recorder().add("error", value, solver="ddim", nfe=5)


# --- rows


def test_rows_are_filtered_by_coordinates_and_settings():
    records = [record([measurement(nfe=n, value=n / 10, settings={"γ": n / 5}) for n in (5, 10, 20)])]
    assert [row["value"] for row in results.table(records)] == [0.5, 1.0, 2.0]
    assert [row["value"] for row in results.table(records, nfe=[5, 20], solver="ddim")] == [0.5, 2.0]
    assert [row["nfe"] for row in results.table(records, γ=2.0)] == [10]
    assert results.table(records, solver="euler") == []
    with pytest.raises(UserError, match="unknown column 'solvr'; did you mean solver"):
        results.table(records, solvr="ddim")
    assert results.table([], solvr="ddim") == []


# --- keys


def key(root, **parameters):
    return provenance.cell_key("toy", {"solver": "ddim", **parameters}, root)


def test_prose_outputs_and_the_layout_of_records_do_not_change_a_key(toy):
    before = key(toy)
    edit(toy / "src/fewstep/schedules.py", 'r"""Noise schedules', 'r"""Noise schedules and more')
    edit(toy / "src/fewstep/schedules.py", "# cumprod", "# a comment")
    edit(toy / "src/fewstep/results/record.py", '"loss": (0.05, 0.0)', '"loss": (0.06, 0.0)')
    save_notebook(toy, ["from fewstep import schedules, solvers\nsolver = 'ddim'"], outputs=["a picture"])
    assert key(toy) == before


def test_code_parameters_and_weights_change_a_key(toy):
    keys = [key(toy)]
    edit(toy / "src/fewstep/schedules.py", "0.999", "0.998")
    keys.append(key(toy))
    save_notebook(toy, ["from fewstep import schedules, solvers\nsolver = 'euler'"])
    keys += [key(toy), key(toy, nfes=[5]), key(toy, model="net")]
    (toy / "data/checkpoints/manifest.json").write_text(json.dumps({"net.safetensors": {"sha256": "cd"}}))
    keys.append(key(toy, model="net"))
    assert len(set(keys)) == len(keys)


def test_what_a_papers_network_is_changes_the_keys_of_its_cells_only(toy):
    """Its record, less what is only said about it, and what it is pinned to."""
    one = "models:\n  one: {title: One, prediction: epsilon}\n"
    models, lock = toy / "data/models.yml", toy / "data/models.lock.json"
    found = [(key(toy, network="one"), key(toy, network="two"))]
    for file, text in [
        (models, one),
        (models, one.replace("One", "The first")),
        (models, one.replace("epsilon", "score")),
        (lock, json.dumps({"one": {"sha256": {"file": "ab"}}})),
        (lock, json.dumps({"one": {"sha256": {"file": "cd"}}})),
    ]:
        file.write_text(text)
        found.append((key(toy, network="one"), key(toy, network="two")))
    ones, twos = zip(*found, strict=True)
    assert ones[1] == ones[2] and len(set(ones)) == 5
    assert len(set(twos)) == 1
    assert key(toy) not in twos


@pytest.mark.parametrize("content", ["models: 3", "- one", "models: {one: 3}", "models: [1"])
def test_a_list_of_networks_that_is_none_is_named(toy, content):
    (toy / "data/models.yml").write_text(content)
    with pytest.raises(UserError, match=r"models\.yml: ") as caught:
        key(toy, network="one")
    assert "\n" not in str(caught.value)


def test_imports_are_followed_through_modules_and_functions(toy):
    source = toy / "src/fewstep"
    (source / "deep").mkdir()
    (source / "deep/__init__.py").write_text("")
    (source / "deep/one.py").write_text("def f():\n    from ..two import g\n    return g()\n")
    (source / "two.py").write_text("def g():\n    return 1\n")
    (source / "unused.py").write_text("x = 1\n")
    save_notebook(toy, ["import fewstep.deep.one as one"])
    before = provenance.cell_key("toy", {}, toy)
    edit(source / "unused.py", "1", "2")
    assert provenance.cell_key("toy", {}, toy) == before
    edit(source / "two.py", "1", "2")
    after = provenance.cell_key("toy", {}, toy)
    assert after != before
    edit(source / "deep/__init__.py", "", "y = 1\n")
    assert provenance.cell_key("toy", {}, toy) != after


def test_no_module_of_figures_records_or_the_command_line_changes_a_key(toy):
    source = toy / "src/fewstep"
    packages = [source / name for name in ("figures", "cli", "results")]
    for package in packages:
        (package / "one.py").write_text("from . import two\n")
        (package / "two.py").write_text("from .. import shards\n")
    (source / "figures_of_merit.py").write_text("x = 1\n")
    imports = ["from fewstep import figures_of_merit", "import fewstep.cli.one", "from fewstep.figures import one"]
    save_notebook(toy, imports)
    before = provenance.cell_key("toy", {}, toy)
    for file in [*(file for package in packages for file in package.glob("*.py")), source / "shards.py"]:
        with file.open("a") as opened:
            opened.write("\nEXTRA = 1\n")
    assert provenance.cell_key("toy", {}, toy) == before
    edit(source / "figures_of_merit.py", "1", "2")
    assert provenance.cell_key("toy", {}, toy) != before


def test_an_edited_solver_changes_the_keys_of_its_own_cells_only(toy):
    cells = results.cells("digits", root=toy)
    assert [cell.name for cell in cells] == ["ddim", "deis"]
    assert cells[1].parameters == {"nfes": [5], "solver": "deis-tab1"}
    before = [cell.key(toy) for cell in cells]
    with (toy / "src/fewstep/solvers/deis.py").open("a") as file:
        file.write("\nEXTRA = 1\n")
    after = [cell.key(toy) for cell in cells]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False]


def test_a_new_solver_in_the_registry_changes_no_other_key(toy):
    before = key(toy)
    registry = toy / "src/fewstep/solvers/__init__.py"
    edit(registry, "rows = [", 'rows = [Solver("new", "new:new", "New", 1, "uniform", "nobody")] + [')
    assert key(toy) == before
    edit(registry, "least = ", "least = 1 + ")
    assert key(toy) != before


def test_mistakes_in_what_makes_a_key_are_named(toy):
    with pytest.raises(UserError, match="unknown experiment 'to'; did you mean toy"):
        provenance.cell_key("to", {}, toy)
    with pytest.raises(UserError, match="unknown solver 'dim'; did you mean ddim"):
        key(toy, solver="dim")
    with pytest.raises(UserError, match="unknown weights 'nett'; did you mean net"):
        key(toy, model="nett")
    save_notebook(toy, ["%matplotlib inline"])
    with pytest.raises(UserError, match="not plain Python"):
        key(toy)


def test_a_record_is_stale_when_what_makes_it_changed(toy):
    (cell, _) = results.cells("digits", root=toy)
    made = record([measurement()], experiment="toy", parameters=cell.parameters, key=cell.key(toy))
    assert results.why_stale(made, toy) is None
    edit(toy / "src/fewstep/schedules.py", "0.999", "0.998")
    assert "code" in results.why_stale(made, toy)
    edit(toy / "workflow/experiments.yml", "nfes: [5]", "nfes: [6]")
    assert "parameters" in results.why_stale(made, toy)
    edit(toy / "workflow/experiments.yml", "ddim: {", "ddim-2: {")
    assert "no such cell" in results.why_stale(made, toy)


def test_a_training_holds_as_long_as_its_networks_are_the_shipped_ones(toy):
    """Whatever the code has become: what its record says is said of weights."""
    (toy / "workflow/experiments.yml").write_text("digits: {train: {parameters: {seed: 0}, cells: {net: {}}}}")
    shutil.copy(toy / "book/experiments/toy.ipynb", toy / "book/experiments/train.ipynb")
    seconds = measurement(metric="seconds", settings={"network": "net"})
    where = {"experiment": "train", "cell": "net", "parameters": {"seed": 0}}
    made = record([seconds], **where, weights=results.made_by([seconds], toy))
    assert made.provenance.weights == {"net": "ab"} and results.why_stale(made, toy) is None
    assert "shipped" in results.why_stale(record([seconds], **where), toy)
    edit(toy / "data/checkpoints/manifest.json", "ab", "cd")
    assert "shipped" in results.why_stale(made, toy)
    assert "parameters" in results.why_stale(record([seconds], **{**where, "parameters": {"seed": 1}}), toy)
    assert results.made_by([measurement(metric="seconds", settings={"network": "of nobody"})], toy) == {}


def test_a_training_took_as_long_as_its_networks(tmp_path):
    with results.recording(profile="digits", experiment="train", cell="by-hand", parameters={}, out=tmp_path) as found:
        found.add("seconds", 70.0, settings={"network": "digits-unet"})
        found.add("seconds", 7.0, settings={"network": "digits-features"})
    made = results.load("digits", "train", tmp_path)[0].provenance
    assert made.wall_s == 77 and set(made.weights) == {"digits-unet", "digits-features"}


def test_the_revision_is_dirty_only_by_what_makes_numbers(tmp_path):
    assert provenance.revision(tmp_path) == (None, None)
    git = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    (tmp_path / "src").mkdir()
    (tmp_path / "src/a.py").write_text("a")
    provenance._git(tmp_path, "init", "-q")
    provenance._git(tmp_path, "add", ".")
    provenance._git(tmp_path, *git, "commit", "-q", "-m", "one")
    (tmp_path / "README.md").write_text("prose")
    commit, dirty = provenance.revision(tmp_path)
    assert len(commit) == 40 and dirty is False
    (tmp_path / "src/a.py").write_text("b")
    inside = tmp_path / "copy"
    inside.mkdir()
    assert provenance.revision(inside) == (None, None)  # of another project's clone
    assert provenance.revision(tmp_path) == (commit, True)


# --- the plan and the comparison


def test_training_is_no_part_of_a_profiles_cells(toy):
    with (toy / "workflow/experiments.yml").open("a") as file:
        file.write("\nother: {train: {cells: {unet: {}}}, toy: {cells: {one: {}}}}")
    assert [cell.experiment for cell in results.cells("other", root=toy)] == ["toy"]
    assert [cell.name for cell in results.cells("other", "train", root=toy)] == ["unet"]
    assert results.profiles(toy) == ["digits", "other"]


def test_mistakes_in_the_plan_are_named(toy):
    with pytest.raises(UserError, match="profile 'digit' has no cells; profiles that have: digits"):
        results.cells("digit", root=toy)
    with pytest.raises(UserError, match="unknown experiment of profile digits 'tty'; did you mean toy"):
        results.cells("digits", "tty", root=toy)
    edit(toy / "workflow/experiments.yml", "parameters:", "parametres:")
    with pytest.raises(UserError, match=r"experiments.yml: digits.toy.parametres: Extra"):
        results.cells("digits", root=toy)


def test_every_metric_has_a_tolerance():
    assert set(results.METRICS) == set(results.TOLERANCE)


def test_numbers_that_moved_are_named_and_others_are_not():
    old = record([measurement(nfe=5, value=1.0), measurement(nfe=10, value=1.0), measurement(nfe=20, value=1.0)])
    new = record(
        [measurement(nfe=5, value=1.0 + 5e-7), measurement(nfe=10, value=1.0 + 2e-6), measurement(nfe=40, value=1.0)],
        key="1" * 64,
        wall_s=9.0,
    )
    found = results.compare([old], [new])
    assert found.compared == 4
    assert [(change.coordinates["nfe"], change.old, change.new) for change in found.changes] == [
        (10, 1.0, 1.0 + 2e-6),
        (20, 1.0, None),
        (40, None, 1.0),
    ]
    assert str(found.changes[0]).startswith("digits/exact_error/ddim metric=error solver=ddim grid=uniform nfe=10")
    assert results.compare([old], [old]) == results.Comparison(3, [])


def test_coordinates_agree_to_rounding():
    old = record([measurement(settings={"sigma": 0.1 + 0.2})])
    new = record([measurement(settings={"sigma": 0.3})])
    assert results.compare([old], [new]) == results.Comparison(1, [])
    with pytest.raises(ValueError, match="two measurements at"):
        record([*old.measurements, *new.measurements])


def test_intervals_are_compared_and_wall_times_are_not():
    old = record([measurement(low=0.4, high=0.6), measurement(metric="seconds", value=1.0)])
    new = record([measurement(low=0.4, high=0.7), measurement(metric="seconds", value=2.0)])
    assert [change.field for change in results.compare([old], [new]).changes] == ["high"]


def test_a_network_in_bfloat16_may_move_within_its_interval():
    def distance(value, network, shift=0.0):
        settings = {"network": network}
        ends = {"low": 4.0 + shift, "high": 8.0 + shift}
        return record([measurement(metric="frechet_distance", value=value, settings=settings, **ends)])

    def moved(network, value, shift):
        return [c.field for c in results.compare([distance(6.0, network)], [distance(value, network, shift)]).changes]

    assert moved("bfloat16", 7.9, 1.9) == []
    assert moved("bfloat16", 8.1, 2.1) == ["value", "low", "high"]
    assert moved("float32", 6.3, 0.3) == ["value", "low", "high"]


# --- shards --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cell(tmp_path):
    """A cell whose images are rows of a fixed table; it counts how often each was drawn."""
    torch = pytest.importorskip("torch")
    shards = pytest.importorskip("fewstep.shards")
    table = torch.randn(100, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    drawn: list[int] = []

    def draw(numbers):
        if numbers.start >= run.end:
            raise InterruptedError
        drawn.extend(numbers)
        rows = table[numbers.start : numbers.stop]
        return shards.Shard(numbers.start, numbers.stop, shards.Moments.of(rows), rows, seconds=1.0)

    def run(part=None, samples=100, pieces=None):
        found = None
        where = {"out": tmp_path / "out", "scratch": tmp_path / "scratch", "part": part, "pieces": pieces}
        with results.recording("digits", "frechet", "toy", {}, **where) as record:
            found = record.collect("ddim-10-0", samples, draw)
            if found is not None:
                record.add("error", float(found.moments.total.sum()))
        return found

    run.table, run.drawn, run.folder, run.end = table, drawn, tmp_path, math.inf
    return run


@pytest.mark.parametrize("parts", [1, 3, 17, 150])
def test_parts_in_any_order_make_the_record_of_one_job(cell, parts):
    for k in np.random.default_rng(parts).permutation(parts).tolist():
        assert cell([k, parts]) is None
    assert not (cell.folder / "out").exists()
    found = cell()
    assert sorted(cell.drawn) == list(range(100))
    assert (found.rows == cell.table).all()
    assert found.seconds == min(parts, 100)
    expected = cell.table.sum(0)
    assert ((found.moments.total - expected).abs() <= 1e-12 * expected.abs().clamp(min=1)).all()
    assert (cell.folder / "out/digits/frechet/toy.json").exists() and not (cell.folder / "scratch").exists()


def test_the_gathering_job_draws_what_is_missing_and_a_part_is_drawn_once(cell):
    cell([1, 4]), cell([1, 4]), cell([2, 3]), cell([0, 7])
    (cell.folder / "scratch/ddim-10-0/14-25.safetensors").write_bytes(b"half a sh")  # as no job leaves it
    before = len(cell.drawn)
    assert before == len(set(cell.drawn)) == 25 + 34 + 14
    assert (cell().rows == cell.table).all()
    assert sorted(cell.drawn[before:]) == [*range(14, 25), *range(50, 66)]


def test_a_job_that_is_cut_short_keeps_the_pieces_that_it_has_drawn(cell):
    cell([1, 7])  # 14 to 27, by another job
    cell.end = 60
    with pytest.raises(InterruptedError):
        cell(pieces=4)
    assert sorted(cell.drawn) == list(range(78))  # 14 to 27 in one, then 28 to 52 and 53 to 77
    cell.end = math.inf
    assert (cell(pieces=4).rows == cell.table).all()
    assert sorted(cell.drawn) == list(range(100))


def test_shards_beyond_the_samples_are_left_alone(cell):
    cell([1, 2])
    assert (cell(samples=60).rows == cell.table[:60]).all()
