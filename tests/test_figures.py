"""Figures: what is drawn is what was measured, every solver has one look, and labels do not cover each other."""

from __future__ import annotations

import dataclasses
import itertools

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from fewstep import figures, results, schedules, solvers
from fewstep.errors import UserError


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def recorder(*rows):
    """A recorder with measurements given as (metric, value, keywords)."""
    made = results.Recorder()
    for metric, value, keywords in rows:
        made.add(metric, value, **keywords)
    return made


def curve(ax, label):
    (line,) = [line for line in ax.get_lines() if line.get_label() == label]
    return line.get_xydata()


def test_no_two_solvers_look_alike():
    assert set(figures.MARKS) <= set(solvers.SOLVERS)
    looks = [(mark.color, mark.marker, mark.linestyle) for mark in figures.MARKS.values()]
    assert len(set(looks)) == len(looks)


def test_unknown_solver_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="ddim"):
        figures.color("dimm")


def test_image_grid_places_every_image_and_clamps():
    images = torch.linspace(-2, 2, 5).reshape(5, 1, 1, 1).expand(5, 1, 3, 2)
    shown = figures.image_grid(None, images, columns=3).images[0].get_array()
    assert shown.shape == (7, 8, 4)
    tiles = [shown[0:3, 0:2], shown[0:3, 3:5], shown[0:3, 6:8], shown[4:7, 0:2], shown[4:7, 3:5]]
    for tile, value in zip(tiles, [0.0, 0.0, 0.5, 1.0, 1.0], strict=True):
        np.testing.assert_allclose(tile[..., :3], value)
        np.testing.assert_allclose(tile[..., 3], 1.0)
    np.testing.assert_allclose(shown[4:7, 6:8, 3], 0.0)  # no image: the page
    np.testing.assert_allclose(shown[3, :, 3], 0.0)


def test_image_grid_shows_colour():
    images = torch.stack([torch.ones(4, 4), -torch.ones(4, 4), torch.zeros(4, 4)])[None]
    np.testing.assert_allclose(figures.image_grid(None, images).images[0].get_array()[0, 0], [1.0, 0.0, 0.5, 1.0])


def test_labels_that_would_meet_are_moved_apart_and_no_others():
    places = figures.axes._apart([0.0, 1.0, 1.5, 40.0], 10.0)
    assert np.all(np.diff(places) >= 10.0 - 1e-9)
    assert places[3] == 40.0
    # Least squares leaves the mean of a group where it was.
    assert np.mean(places[:3]) == pytest.approx(np.mean([0.0, 1.0, 1.5]))


def test_direct_labels_stand_at_the_right_end_of_an_inverted_axis_too():
    _, ax = plt.subplots()
    ax.plot([1, 2, 3], [1, 5, 9], label="a line")
    ax.invert_xaxis()
    figures.direct_labels(ax)
    assert ax.texts[0].xy == (1.0, 1.0)


def frechet(solver, grid, values):
    return [
        ("frechet_distance", v, {"low": 0.9 * v, "high": 1.1 * v, "solver": solver, "grid": grid, "nfe": n})
        for n, v in values.items()
    ]


def test_quality_uses_the_solver_s_own_grid_unless_told_otherwise():
    record = recorder(
        *frechet("ddim", "uniform", {5: 30.0, 10: 20.0}),
        *frechet("ddim", "quadratic", {10: 11.0, 5: 22.0}),
        *frechet("deis-tab3", "quadratic", {5: 9.0, 10: 6.0}),
    )
    ax = figures.quality_against_nfe([record], ["ddim", "deis-tab3"]).axes[0]
    np.testing.assert_allclose(curve(ax, "DDIM"), [[5, 22.0], [10, 11.0]])
    np.testing.assert_allclose(curve(ax, "tAB3-DEIS"), [[5, 9.0], [10, 6.0]])
    ax = figures.quality_against_nfe([record], ["ddim"], grid="uniform").axes[0]
    np.testing.assert_allclose(curve(ax, "DDIM"), [[5, 30.0], [10, 20.0]])


def test_all_families_that_were_measured_get_a_panel():
    record = recorder(
        *frechet("ddim", "quadratic", {5: 30.0, 10: 20.0}),
        *frechet("deis-tab3", "quadratic", {5: 9.0, 10: 6.0}),
        *frechet("rk4", "quadratic", {5: 90.0, 9: 60.0}),
    )
    figure = figures.quality_against_nfe([record])
    assert [ax.get_title() for ax in figure.axes] == ["DEIS, multistep", "Runge–Kutta"]
    assert set(name for names in figures.FAMILIES.values() for name in names) <= set(solvers.SOLVERS)


def test_a_solver_of_no_family_gets_a_panel(monkeypatch):
    own = dataclasses.replace(solvers.SOLVERS["ddim"], name="own", title="own")
    monkeypatch.setitem(solvers.SOLVERS, "own", own)
    rows = [*frechet("own", "quadratic", {5: 9.0, 10: 6.0}), *frechet("rk4", "quadratic", {5: 90.0, 9: 60.0})]
    figure = figures.quality_against_nfe([recorder(*rows)])
    assert [ax.get_title() for ax in figure.axes] == ["Runge–Kutta", "others"]
    np.testing.assert_allclose(curve(figure.axes[1], "own"), [[5, 9.0], [10, 6.0]])


def test_error_figure_draws_slopes_of_the_stated_orders():
    settings = {"process": "vp"}
    rows = [
        ("error", 10.0 * n**-2.0, {"solver": "ipndm-2", "grid": "uniform", "nfe": n, "settings": settings})
        for n in (5, 10, 20, 40)
    ]
    ax = figures.error_against_nfe([recorder(*rows)], ["ipndm-2"]).axes[0]
    np.testing.assert_allclose(curve(ax, "iPNDM-2")[:, 1], 10.0 * np.array([5, 10, 20, 40]) ** -2.0)
    guides = [line.get_xydata() for line in ax.get_lines() if line.get_label().startswith("_")]
    slopes = [np.diff(np.log(g[:, 1]))[0] / np.diff(np.log(g[:, 0]))[0] for g in guides]
    np.testing.assert_allclose(slopes, [-1.0, -2.0, -4.0])


def test_nothing_measured_is_said_in_one_line():
    with pytest.raises(UserError, match="make experiments"):
        figures.quality_against_nfe([])


OF_ONE_EXPERIMENT = (
    "convergence",
    "cost",
    "denoiser_error",
    "error_against_nfe",
    "extrapolation",
    "gamma_sweep",
    "guidance",
    "ingredients",
    "inpainting",
    "inverse",
    "likelihood",
    "parametrisation",
    "schedules",
    "time_grids",
)


@pytest.mark.parametrize("name", OF_ONE_EXPERIMENT)
def test_records_of_another_experiment_are_said_in_one_line(name):
    others = [("error", 0.1, {"solver": "ddim", "nfe": 5}), ("frechet_distance", 9.0, {"solver": "ddim", "nfe": 5})]
    for made in (recorder(*others), recorder(("loss", 0.1, {})), recorder()):
        with pytest.raises(UserError, match=r"no record measures .*make experiments"):
            getattr(figures, name)([made])


def test_solvers_that_were_not_measured_are_said_or_left_out():
    record = recorder(*frechet("ddim", "quadratic", {5: 30.0, 10: 20.0}))
    with pytest.raises(UserError, match="no record measures ge or fon"):
        figures.quality_against_nfe([record], ["ge", "fon"])
    (ax,) = figures.quality_against_nfe([record], ["ge", "ddim"]).axes
    assert [line.get_label() for line in ax.get_lines()] == ["DDIM"]


def test_canonical_matrix_of_ddim_is_lower_triangular_and_constant_down_its_columns():
    plan = solvers.build("ddim", schedules.linear_vp(), 6)
    shown = np.asarray(figures.canonical_matrix(plan).images[0].get_array())
    np.testing.assert_allclose(shown, -np.tril(np.ones((6, 6))), atol=1e-12)


@pytest.mark.parametrize("solver", ["pndm-f", "deis-rhork-heun", "ddpm", "ge"])
def test_canonical_matrix_is_causal(solver):
    plan = solvers.build(solver, schedules.linear_vp(), 15)
    shown = np.asarray(figures.canonical_matrix(plan).images[0].get_array())
    assert shown.shape[1] == plan.nfe
    assert np.abs(shown).max() == pytest.approx(1.0)
    np.testing.assert_array_equal(np.triu(shown, 1), 0.0)


def test_figures_of_both_known_problems_and_the_network():
    rows = []
    for nfe in (5, 10):
        for gamma in (1.0, 2.0):
            where = {"solver": "ge", "grid": "log-linear", "nfe": nfe}
            for name, metric in (("mixture", "error"), ("ideal", "error"), ("network", "frechet_distance")):
                rows.append(
                    (metric, gamma / nfe, {**where, "settings": {"problem": name, "gamma": gamma, "budget": nfe}})
                )
    record = recorder(*rows)
    figure = figures.gamma_sweep([record])
    assert len(figure.axes) == 3
    for ax in figure.axes:
        np.testing.assert_allclose(curve(ax, "10 calls"), [[1.0, 0.1], [2.0, 0.2]])
    np.testing.assert_allclose(curve(figures.schedules([record]).axes[1], "log-linear"), [[5, 0.4], [10, 0.2]])
    grids = figures.time_grids([record]).axes[0]
    assert [tick.get_text() for tick in grids.get_yticklabels()] == ["log-linear"]


def test_a_grid_that_only_the_network_was_measured_on_has_a_place():
    rows = [
        (metric, 1.0, {"solver": "ddim", "grid": grid, "nfe": 10, "settings": {"problem": problem}})
        for problem, metric, grids in (
            ("mixture", "error", ("uniform",)),
            ("network", "frechet_distance", ("uniform", "rho7")),
        )
        for grid in grids
    ]
    first, last = figures.time_grids([recorder(*rows)]).axes
    assert [tick.get_text() for tick in first.get_yticklabels()] == ["rho7", "uniform"]
    assert curve(last, "DDIM")[:, 1].tolist() == [1.0, 0.0]


def test_denoiser_error_compares_the_distance_with_root_n_sigma():
    rows = [("distance", 8.5 * s, {"settings": {"sigma": s}}) for s in (0.0, 0.5, 2.0)]
    rows += [("relative_error", 0.1, {"settings": {"sigma": 2.0, "of": "network", "against": "ideal"}})]
    right = figures.denoiser_error([recorder(*rows)]).axes[1]
    np.testing.assert_allclose(curve(right, "distance to the data"), [[0.5, 4.25], [2.0, 17.0]])
    np.testing.assert_allclose(curve(right, "√n σ"), [[0.5, 4.0], [2.0, 16.0]])


def test_guidance_has_a_row_of_panels_for_each_kind_and_the_data_beside_them():
    rows = [(metric, value, {"settings": {"of": "data"}}) for metric, value in (("accuracy", 0.99), ("diversity", 0.4))]
    scale = {"accuracy": 0.1, "frechet_distance": 3.0, "diversity": 0.05, "excess": 0.2}
    for kind, names in (("classifier-free", ("ddim", "deis-tab3")), ("classifier", ("ddim",))):
        for solver, budget, weight in itertools.product(names, (10, 20), (0.0, 1.0, 8.0)):
            settings = {"guidance": kind, "weight": weight, "budget": budget}
            where = {"solver": solver, "grid": "quadratic", "nfe": budget}
            for metric, unit in scale.items():
                rows.append((metric, unit * (1 + weight) * budget, {**where, "settings": settings}))
            rows.append(("frechet_distance", 7.0, {**where, "settings": {**settings, "class": 3}}))
    figure = figures.guidance([recorder(*rows)])
    upper, lower = figure.axes[:4], figure.axes[4:]
    assert [ax.get_ylabel() for ax in (upper[0], lower[0])] == ["classifier-free guidance", "classifier guidance"]
    for panels, names in ((upper, ["DDIM", "tAB3-DEIS"]), (lower, ["DDIM"])):
        for ax, unit in zip(panels, scale.values(), strict=True):
            lines = [line for line in ax.get_lines() if not line.get_label().startswith("_")]
            assert sorted(line.get_label() for line in lines) == names
            for name in names:  # of the larger budget, and no single class
                np.testing.assert_allclose(curve(ax, name), [[w, unit * (1 + w) * 20] for w in (0.0, 1.0, 8.0)])
        levels = [[line.get_ydata()[0] for line in ax.get_lines() if line.get_linestyle() == ":"] for ax in panels]
        assert levels == [[0.99], [], [0.4], []]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["DDIM", "tAB3-DEIS"]
    with pytest.raises(UserError, match="make experiments"):
        figures.guidance([])


def test_likelihood_has_a_panel_for_each_problem_and_two_kinds_of_rk45():
    errors = {("ddim", "rho7"): 0.5, ("rk45", "in t"): 0.02, ("rk45", "in rho"): 0.01}
    rows = [
        ("likelihood_error", scale * error / nfe, {"solver": solver, "grid": grid, "nfe": nfe, "settings": settings})
        for scale, settings in ((1.0, {"problem": "mixture"}), (2.0, {"problem": "network"}))
        for (solver, grid), error in errors.items()
        for nfe in (24, 12)
    ]
    spread = {"problem": "mixture", "of": "trace"}
    rows.append(("likelihood_error", 9.0, {"solver": "ddim", "grid": "rho7", "nfe": 12, "settings": spread}))
    panels = figures.likelihood([recorder(*rows)]).axes
    assert [ax.get_title() for ax in panels] == ["mixture", "digits, network"]
    for scale, ax in zip((1.0, 2.0), panels, strict=True):
        for label, error in zip(("DDIM", "RK45 in t", "RK45 in ρ"), errors.values(), strict=True):
            np.testing.assert_allclose(curve(ax, label), [[12, scale * error / 12], [24, scale * error / 24]])
    with pytest.raises(UserError, match="make experiments"):
        figures.likelihood([])


def test_quality_against_cost_pairs_distances_with_the_seconds_of_the_same_calls():
    rows = []
    for solver, grid in (("ddim", "quadratic"), ("ddim", "uniform"), ("pndm-f", "uniform")):
        for nfe, seed in itertools.product((10, 20), (0, 1)):
            where = {"solver": solver, "grid": grid, "nfe": nfe, "seeds": [seed]}
            rows += [("seconds", 2.0 * nfe + seed, where), ("frechet_distance", 100 / nfe + 2 * seed, where)]
    ax = figures.quality_against_cost([recorder(*rows)], ["ddim", "pndm-f"]).axes[0]
    for label in ("DDIM", "F-PNDM"):
        np.testing.assert_allclose(curve(ax, label), [[20.5, 11.0], [40.5, 6.0]])
    rows.append(("frechet_distance", 4.0, {"solver": "ddim", "grid": "quadratic", "nfe": 50}))  # its time is not known
    ax = figures.quality_against_cost([recorder(*rows)], ["ddim"]).axes[0]
    np.testing.assert_allclose(curve(ax, "DDIM"), [[20.5, 11.0], [40.5, 6.0]])
    with pytest.raises(UserError, match="solver=fon grid=uniform"):
        figures.quality_against_cost([recorder(*rows)], ["fon"])
