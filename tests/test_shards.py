"""Measurements in parts: the same numbers from any cut, and those of torch-fidelity's own path."""

import itertools

import numpy as np
import pytest
import torch

from fewstep import data, metrics, models, run, schedules, shards, solvers
from fewstep.errors import UserError

LAW = schedules.linear_vp()
N = 51


@pytest.fixture(scope="module")
def features():
    return metrics.Features()


@pytest.fixture(scope="module")
def model():
    # In float64 a pixel never rounds to another 8-bit level because of the batch that it is in.
    return models.load("digits-unet").double()


@pytest.fixture(scope="module")
def plan():
    return solvers.build("ddpm", LAW, 4, "uniform")  # stochastic: the injected noise is the sample's own too


@pytest.fixture(scope="module")
def reference(features):
    return shards.of_images(data.digits().images[:200], features, keep=200)


def pieces(plan, model, features, count, batch):
    cuts = np.linspace(0, N, count + 1).astype(int).tolist()
    return [
        shards.draw(plan, model, features, range(a, b), seed=3, batch=batch, keep=40, dtype=torch.float64)
        for a, b in itertools.pairwise(cuts)
    ]


@pytest.fixture(scope="module")
def whole(plan, model, features):
    (shard,) = pieces(plan, model, features, 1, 51)
    return shard


@pytest.mark.parametrize(("count", "batch"), [(1, 7), (3, 64), (17, 2)])
def test_any_cut_order_and_batch_size_give_the_same_numbers(plan, model, features, reference, whole, count, batch):
    parts = pieces(plan, model, features, count, batch)
    expected = shards.scores(whole, reference)
    for order in (parts, parts[::-1], [parts[i] for i in np.random.default_rng().permutation(len(parts))]):
        merged = shards.merge(order)
        assert merged.moments.n == N and merged.rows.shape == (40, 64)
        found = shards.scores(merged, reference)
        assert set(found) == set(metrics.METRICS)
        for name, value in found.items():
            assert value == pytest.approx(expected[name], rel=1e-6), name


def test_the_numbers_are_those_of_torch_fidelity(plan, model, whole, reference):
    """Its own path sees images, not moments. All rows are needed for what is not a function of the moments."""
    drawn = run.generate(plan, model, (1, 8, 8), range(N), seed=3, dtype=torch.float64)
    images = data.digits().images[:200]
    expected = metrics.evaluate(drawn, images, metrics=["frechet_distance"])
    assert shards.scores(whole, reference, ["frechet_distance"]) == pytest.approx(expected, rel=1e-6)
    expected = metrics.evaluate(drawn[:40], images)
    del expected["frechet_distance"]
    assert shards.scores(whole, reference, expected) == pytest.approx(expected, rel=1e-6)


def test_moments_are_mean_and_covariance():
    f = torch.randn(40, 5, dtype=torch.float64) + 100  # far from the origin: the sums cancel
    moments = shards.Moments.of(f[:13]) + shards.Moments.of(f[13:])
    np.testing.assert_allclose(moments.mean, f.mean(0), rtol=1e-13)
    np.testing.assert_allclose(moments.covariance, np.cov(f.numpy(), rowvar=False), rtol=1e-8, atol=1e-10)
    with pytest.raises(UserError, match=r"1 image\(s\) have no covariance"):
        _ = shards.Moments.of(f[:1]).covariance
    with pytest.raises(UserError, match="moments of 5 and of 4 features"):
        moments + shards.Moments.of(f[:, :4])


def test_shards_survive_the_disk(tmp_path, whole):
    path = tmp_path / "shard.safetensors"
    shards.save(whole, path)
    loaded = shards.load(path)
    assert (loaded.start, loaded.stop, loaded.moments.n) == (0, N, N)
    assert torch.equal(loaded.moments.outer, whole.moments.outer) and torch.equal(loaded.rows, whole.rows)
    path.write_bytes(path.read_bytes()[:-50])
    for broken in (path, tmp_path / "none"):
        with pytest.raises(UserError, match=rf"{broken.name} is not a shard"):
            shards.load(broken)


def test_a_gap_and_an_overlap_are_refused(plan, model, features):
    a, b, c = (
        shards.draw(plan, model, features, range(*ends), dtype=torch.float64) for ends in ((0, 3), (3, 5), (4, 6))
    )
    assert shards.merge([b, a]).moments.n == 5
    with pytest.raises(UserError, match="images 3 to 3 are missing"):
        shards.merge([a, c])
    with pytest.raises(UserError, match="images 4 to 4 are counted twice"):
        shards.merge([a, b, c])
    with pytest.raises(UserError, match="no shards"):
        shards.merge([])
    with pytest.raises(UserError, match="without gaps"):
        shards.draw(plan, model, features, range(0, 6, 2))


def test_out_of_memory_halves_the_batch_and_changes_nothing(plan, model, features, whole, capsys):
    calls = []

    def tight(x, t):
        calls.append(len(x))
        if len(x) > 10:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return model(x, t)

    found = shards.draw(plan, tight, features, range(N), seed=3, batch=32, keep=40, dtype=torch.float64)
    said = capsys.readouterr().out.splitlines()
    assert said == [f"out of memory with {n} images at a time: going on with {n // 2}" for n in (32, 16)]
    assert set(calls) == {32, 16, 8, 3}  # 51 = 6 · 8 + 3: it stays at what fitted
    torch.testing.assert_close(found.moments.outer, whole.moments.outer, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.rows, whole.rows, rtol=1e-9, atol=1e-12)

    def none(x, t):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(UserError, match="does not suffice for a single image"):
        shards.draw(plan, none, features, range(4))


def test_bad_requests(whole, reference):
    with pytest.raises(UserError, match="unknown metric 'frechet'"):
        shards.scores(whole, reference, ["frechet"])
    few = shards.Shard(0, N, whole.moments, whole.rows[:3])
    with pytest.raises(UserError, match="3 kept rows are too few"):
        shards.scores(few, reference)
    assert np.isfinite(shards.scores(few, reference, ["frechet_distance"])["frechet_distance"])
