"""Metrics: against closed forms computed here, against what must hold for any samples, and against bad input."""

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy import stats

from fewstep import data, metrics
from fewstep.errors import UserError


@pytest.fixture(scope="module")
def digits():
    return data.digits().images


@pytest.fixture(scope="module")
def halves(digits):
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    return digits[order[:400]], digits[order[400:800]]


def noised(images, scale):
    return images + scale * torch.randn(images.shape, generator=torch.Generator().manual_seed(1))


def features(images):
    return metrics.Features()(data.to_uint8(images)).numpy()


def test_a_set_is_at_no_distance_from_itself(halves):
    result = metrics.evaluate(halves[0], halves[0])
    # tr(C1 + C2 − 2(C1 C2)^½) cancels: rounding of the eigenvalues' roots, relative to the trace of about 500.
    assert abs(result["frechet_distance"]) < 1e-6
    assert result["precision"] == result["recall"] == 1.0
    assert result["kernel_distance"] < 0  # unbiased: the diagonal is left out of k(x, x') but not of k(x, y)


def test_frechet_distance_is_that_of_the_features_moments(halves):
    a, b = map(features, halves)
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(ca @ cb).real
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(ca + cb - 2 * root)
    value = metrics.evaluate(*halves, metrics=["frechet_distance"])["frechet_distance"]
    assert value == pytest.approx(expected, rel=1e-6)


def test_kernel_distance_is_the_unbiased_mmd(halves):
    a, b = map(features, halves)
    n, d = a.shape

    def k(x, y):
        return (x @ y.T / d + 1) ** 3

    off = ~np.eye(n, dtype=bool)
    expected = k(a, a)[off].mean() + k(b, b)[off].mean() - 2 * k(a, b).mean()
    value = metrics.evaluate(*halves, metrics=["kernel_distance"])["kernel_distance"]
    assert value == pytest.approx(expected, rel=1e-9)


def test_precision_and_recall_are_those_of_nearest_neighbour_balls(digits, halves):
    samples, reference = noised(halves[0], 0.5), halves[1]
    a, b = (torch.from_numpy(features(x)) for x in (samples, reference))

    def inside(points, centres):
        radius = torch.cdist(centres, centres).sort(dim=1).values[:, 3]  # column 0 is the centre itself
        return (torch.cdist(points, centres) <= radius).any(1).double().mean().item()

    result = metrics.evaluate(samples, reference, metrics=["precision", "recall"])
    assert result == pytest.approx({"precision": inside(a, b), "recall": inside(b, a)}, abs=1e-6)
    assert 0 < result["precision"] < 1


def test_the_batch_size_does_not_matter(halves):
    samples = noised(halves[0], 0.3)
    small, large = (metrics.evaluate(samples, halves[1], batch_size=size) for size in (7, 1000))
    assert small == pytest.approx(large, rel=1e-9)


def test_neither_does_the_order_of_the_samples(halves):
    turned = metrics.evaluate(halves[0].flip(0), halves[1].flip(0))
    assert turned == pytest.approx(metrics.evaluate(*halves), rel=1e-9)


def test_worse_samples_are_farther(digits, halves):
    real = metrics.evaluate(*halves)
    noisy = [metrics.evaluate(noised(halves[0], s), halves[1]) for s in (0.3, 0.6)]
    blurred = metrics.evaluate(torch.nn.functional.avg_pool2d(halves[0], 3, 1, 1), halves[1])
    for name in ("frechet_distance", "kernel_distance"):
        assert real[name] < noisy[0][name] < noisy[1][name]
        assert real[name] < blurred[name]
    assert real["precision"] > noisy[1]["precision"]
    # Half the classes: what is drawn is right, but half the reference is missing.
    few = digits[data.digits().labels < 5][:400]
    result = metrics.evaluate(few, halves[1], metrics=["precision", "recall"])
    assert result["precision"] > 0.8 > result["recall"]


def test_values_outside_the_range_are_clamped(halves):
    wide = halves[0] * 3
    assert metrics.evaluate(wide, halves[1]) == metrics.evaluate(wide.clamp(-1, 1), halves[1])


def test_evaluation_is_silent_and_writes_nothing(halves, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    metrics.evaluate(*halves)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"metrics": ["fid"]}, "unknown metric 'fid'"),
        ({"reference": "digit"}, r"unknown dataset 'digit'; did you mean digits\?"),
        ({"feature_net": "digit-features"}, r"unknown checkpoint 'digit-features'; did you mean digits-features"),
        ({"feature_net": "digits-unet"}, "'digits-unet' is not a feature network"),
        ({"samples": torch.zeros(10, 3, 8, 8)}, r"samples have shape \(3, 8, 8\); digits-features takes \(1, 8, 8\)"),
        ({"samples": torch.full((10, 1, 8, 8), float("nan"))}, "samples contain NaN"),
        ({"samples": torch.zeros(3, 1, 8, 8)}, "3 samples are too few"),
    ],
)
def test_bad_requests_are_refused_in_one_line(halves, arguments, says):
    with pytest.raises(UserError, match=says) as caught:
        metrics.evaluate(**{"samples": halves[0], "reference": halves[1], **arguments})
    assert "\n" not in str(caught.value)


def test_rms_error():
    x, y = torch.zeros(2, 1, 2, 2), torch.full((2, 1, 2, 2), 3.0)
    y[0] = 4.0
    assert metrics.rms_error(x, y) == pytest.approx(np.sqrt(12.5), rel=1e-15)
    # float64 inside: 1e-5 beside 1e3 is lost neither in the difference nor in the mean
    big = torch.full((1000,), 1e3, dtype=torch.float64)
    assert metrics.rms_error(big + 1e-5, big) == pytest.approx(1e-5, rel=1e-6)


def test_confidence_interval_is_students():
    values = [3.1, 2.7, 3.4, 2.9]
    mean, low, high = metrics.confidence_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean == pytest.approx(np.mean(values))
    assert (low, high) == pytest.approx((expected.low, expected.high), rel=1e-12)
    assert metrics.confidence_interval([2.0, 2.0]) == (2.0, 2.0, 2.0)
    for bad in ([], [1.0]):
        with pytest.raises(UserError, match="at least 2 seeds"):
            metrics.confidence_interval(bad)
    with pytest.raises(UserError, match="finite"):
        metrics.confidence_interval([1.0, float("nan")])


def test_confidence_interval_covers_as_often_as_it_says():
    random = np.random.default_rng(0)
    draws = random.normal(1.0, 2.0, (4000, 3))
    covered = np.mean([low <= 1.0 <= high for _, low, high in map(metrics.confidence_interval, draws)])
    assert abs(covered - 0.95) < 5 * np.sqrt(0.95 * 0.05 / 4000)
