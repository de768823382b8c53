"""Guidance: its ε against closed forms on class-conditional Gaussian mixtures, its calls, and mistakes."""

from __future__ import annotations

import math

import pytest
import torch
from safetensors.torch import load_file

from fewstep import cli, grids, models, run, schedules
from fewstep.errors import UserError
from fewstep.exact import GaussianMixture
from fewstep.models import checkpoints
from fewstep.noise import normal
from fewstep.run import sample
from fewstep.schedules import EDM, VE, ContinuousVP, SubVP, linear_vp
from fewstep.solvers import build
from fewstep.solvers.ddim import ddim
from fewstep.tasks.guidance import classifier_free, classifier_guided, label_log_prob

MEANS = 2 * normal(0, 0, range(5), (3,), torch.float64)
CLASS = torch.tensor([0, 0, 1, 2, 2])
WEIGHTS = torch.tensor([0.1, 0.3, 0.2, 0.25, 0.15], dtype=torch.float64)
STD = 0.4
X = 1.5 * normal(0, 1, range(7), (3,), torch.float64)


class Classes:
    """The mixture whose components have classes: ε given a class is that of the class's components."""

    classes = 3

    def __init__(self, process):
        self.all = GaussianMixture(MEANS, STD, process, WEIGHTS)
        self.each = [GaussianMixture(MEANS[CLASS == c], STD, process, WEIGHTS[CLASS == c]) for c in range(3)]
        self.shapes = []

    def __call__(self, x, t, labels):
        self.shapes.append(len(x))
        outputs = torch.stack([*(one(x, t) for one in self.each), self.all(x, t)])
        return outputs[labels, torch.arange(len(x))]

    def log_posterior(self, x, t):
        """log p_t(c | x) of all classes, by Bayes' rule; logits of a perfect classifier up to a constant."""
        share = torch.stack([WEIGHTS[CLASS == c].sum() for c in range(3)]).log()
        return torch.stack([one.log_density(x, t) for one in self.each], 1) + share


def middle(process):
    return torch.full((len(X),), process.t_min + 0.4 * (process.t_max - process.t_min), dtype=torch.float64)


@pytest.mark.parametrize("process", [EDM(4.0), VE(), ContinuousVP(), SubVP(), linear_vp()], ids=lambda p: str(type(p)))
@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 3.0, 7.5])
def test_both_guided_eps_are_that_of_the_sharpened_density(process, weight):
    """−σ ∇(log p_t(x) + w log p_t(c | x)), the gradient by autograd of the densities alone."""
    labels, t = torch.tensor([0, 1, 2, 2, 1, 0, 0]), middle(process)
    law = Classes(process)
    x = X.clone().requires_grad_()
    posterior = torch.log_softmax(law.log_posterior(x, t), 1)[torch.arange(len(x)), labels]
    (law.all.log_density(x, t) + weight * posterior).sum().backward()
    expected = -float(process.sigma(t[0])) * x.grad
    tolerance = 1e-11 * (1 + weight) * expected.abs().max()
    assert (classifier_free(law, labels, weight)(X, t) - expected).abs().max() < tolerance
    guided = classifier_guided(law.all, process, label_log_prob(law.log_posterior, labels), weight)
    with torch.no_grad():  # as in the executor
        assert (guided(X, t) - expected).abs().max() < tolerance


def test_weight_zero_is_unconditional_and_one_is_conditional():
    process = ContinuousVP()
    law, t = Classes(process), middle(process)
    assert torch.equal(classifier_free(law, 2, 0.0)(X, t), law.all(X, t))
    assert torch.equal(classifier_free(law, 2, 1.0)(X, t), law.each[2](X, t))


def test_at_weight_one_the_samples_follow_the_class():
    """Class 1 is N(μ, s²I). From its own p_T a deterministic plan, affine here, leads to a Gaussian, whose mean and
    standard deviation are μ and s up to DDIM's error of first order.
    """
    process = linear_vp()
    law, one = Classes(process), torch.eye(3, dtype=torch.float64)
    alpha, sigma = float(process.alpha(process.t_max)), float(process.sigma(process.t_max))
    start = alpha * MEANS[2] + math.sqrt(alpha**2 * STD**2 + sigma**2) * torch.cat([0 * one[:1], one])
    errors = []
    for n in (50, 100, 200):
        plan = ddim(process, grids.quadratic(process, n))
        found = sample(plan, classifier_free(law, 1, 1.0), start, dtype=torch.float64)
        mean, linear = found[0], found[1:] - found[0]
        std = float(linear.diagonal().mean())
        assert (linear - std * one).abs().max() < 1e-12  # every pixel for itself
        errors.append(max(float((mean - MEANS[2]).abs().max()), abs(std - STD)))
    assert errors[2] < 0.01
    assert math.log2(errors[1] / errors[2]) == pytest.approx(1.0, abs=0.15)


def test_more_weight_makes_the_class_more_certain():
    """The probability of the class at the samples, for which no closed form is known: it must rise, and from p(c)."""
    process = linear_vp()
    law, plan = Classes(process), build("deis-tab3", linear_vp(), 40)
    start = normal(0, 2, range(400), (3,), torch.float64)
    end = torch.full((400,), 0.0, dtype=torch.float64)
    found = []
    for weight in (0.0, 0.5, 1.0, 3.0):
        drawn = sample(plan, classifier_free(law, 0, weight), start, dtype=torch.float64)
        found.append(float(torch.softmax(law.log_posterior(drawn, end), 1)[:, 0].mean()))
    # 400 draws of a share of 0.4 have the standard error 0.025.
    assert found[0] == pytest.approx(0.4, abs=0.1)
    assert found == sorted(found) and found[3] > 0.99


def test_one_network_call_for_each_row():
    process = linear_vp()
    law, plan = Classes(process), build("deis-rhork-heun", process, 9)
    start = X.clone()
    sample(plan, classifier_free(law, 1, 2.0), start, dtype=torch.float64)
    assert law.shapes == [2 * len(X)] * plan.nfe
    law.shapes.clear()
    for weight in (0.0, 1.0):  # half of the batch would have no weight
        sample(plan, classifier_free(law, 1, weight), start, dtype=torch.float64)
    assert law.shapes == [len(X)] * 2 * plan.nfe


def test_each_sample_has_its_own_label():
    process = ContinuousVP()
    law, t = Classes(process), middle(process)
    labels = torch.tensor([0, 1, 2, 2, 1, 0, 0])
    together = classifier_free(law, labels, 3.0)(X, t)
    for i, label in enumerate(labels.tolist()):
        alone = classifier_free(law, label, 3.0)(X[i : i + 1], t[i : i + 1])[0]
        torch.testing.assert_close(together[i], alone, rtol=1e-12, atol=1e-12)


def test_guidance_leaves_no_gradient_behind():
    process = ContinuousVP()
    law, t = Classes(process), middle(process)
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    guided = classifier_guided(law.all, process, lambda x, t: (x * weight).sum(1), 1.0)
    with torch.no_grad():
        assert not guided(X, t).requires_grad
    assert weight.grad is None


def test_mistakes_get_one_line():
    process = ContinuousVP()
    law, t = Classes(process), middle(process)
    for weight in (-0.5, math.nan, math.inf):
        with pytest.raises(UserError, match="must not be negative"):
            classifier_free(law, 0, weight)
        with pytest.raises(UserError, match="must not be negative"):
            classifier_guided(law.all, process, label_log_prob(law.log_posterior, 0), weight)
    with pytest.raises(UserError, match="has no classes"):
        classifier_free(law.all, 0, 1.0)
    for labels in (3, -1, torch.tensor([0, 3])):
        with pytest.raises(UserError, match=r"class -?\d is out of range: the network has the classes 0 to 2"):
            classifier_free(law, labels, 1.0)
        with pytest.raises(UserError, match="is out of range"):
            label_log_prob(law.log_posterior, labels)(X, t)
    for labels in (0.5, torch.zeros(2, 2, dtype=torch.int64), torch.tensor([], dtype=torch.int64)):
        with pytest.raises(UserError, match="one whole number, or one for each sample"):
            classifier_free(law, labels, 1.0)
    with pytest.raises(UserError, match="2 labels do not fit a batch of 7 samples"):
        classifier_free(law, torch.tensor([0, 1]), 2.0)(X, t)


# --- networks ------------------------------------------------------------------------------------------------------


def seeded(make):
    """A network whose weights are random, the same in every run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make().eval().requires_grad_(False)


def tiny(classes=10, time_scale=1.0):
    """Two groups: of a group of a single channel, the norm would take away what time and label add to it."""
    config = {"attention_head_dim": 0, "norm_num_groups": 2, "classes": classes, "time_scale": time_scale}
    return seeded(lambda: models.UNet((1, 8, 8), (8, 8), **config))


LABELS = torch.tensor([0, 9, 4, 4, 7])


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 4.0])
def test_classifier_free_guidance_of_a_network(weight):
    network = tiny().double()
    x, t = normal(0, 0, range(5), (1, 8, 8), torch.float64), torch.tensor([3.0, 200.0, 500.0, 700.0, 999.0])
    none, given = network(x, t), network(x, t, LABELS)
    assert torch.equal(none, network(x, t, torch.full((5,), 10)))
    assert (given - none).abs().amax((1, 2, 3)).min() > 1e-3  # the label counts
    found = classifier_free(network, LABELS, weight)(x, t)
    # Sums of a few thousand terms in float64, in another order.
    torch.testing.assert_close(found, none + weight * (given - none), rtol=0, atol=1e-12)


@pytest.mark.parametrize("process", [linear_vp(), VE()], ids=lambda p: type(p).__name__)
def test_classifier_guidance_follows_the_slope_of_the_log_probability(process):
    """Against central differences along a random direction: 1e-4 leaves an error of its square and of rounding."""
    scale = 1.0 if process.t_max > 1 else 999.0
    classifier = seeded(lambda: models.NoisyClassifier((1, 8, 8), 10, width=8, time_scale=scale)).double()
    log_prob = label_log_prob(models.normalised(classifier, process), LABELS)
    network = models.normalised(tiny(0, scale).double(), process)
    t = torch.full((5,), process.t_min + 0.5 * (process.t_max - process.t_min), dtype=torch.float64)
    spread = math.hypot(float(process.alpha(t[0])), float(process.sigma(t[0])))
    x, direction = (spread * normal(0, draw, range(5), (1, 8, 8), torch.float64) for draw in (0, 1))
    step = 1e-4
    slope = (log_prob(x + step * direction, t) - log_prob(x - step * direction, t)) / (2 * step)
    with torch.no_grad():
        change = classifier_guided(network, process, log_prob, 3.0)(x, t) - network(x, t)
    expected = -3.0 * float(process.sigma(t[0])) * slope
    assert expected.abs().min() > 1e-3
    torch.testing.assert_close((change * direction).sum((1, 2, 3)), expected, rtol=1e-5, atol=1e-7)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to work in, and checkpoints of networks with and without classes, on two processes."""
    weights = tmp_path / "weights"
    for name, network, facts in (
        ("digits-unet", tiny(0), {"trained": {"process": "linear"}}),
        ("with-classes", tiny(), {"trained": {"process": "linear"}}),
        ("exploding", tiny(time_scale=999.0), {"trained": {"process": "ve"}}),
        ("unknown-process", tiny(), {}),
    ):
        models.save(name, network, "unet", "digits", weights, **facts)
    classifier = seeded(lambda: models.NoisyClassifier((1, 8, 8), 10, width=8))
    models.save("a-classifier", classifier, "noisy-classifier", "digits", weights)
    monkeypatch.setattr(checkpoints, "FOLDER", weights)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def call(capsys, *arguments):
    """Exit status, standard output and standard error of one command."""
    with pytest.raises(SystemExit) as end:
        cli.main(["sample", "--nfe", "3", "--samples", "5", *arguments])
    out, err = capsys.readouterr()
    return end.value.code, out, err


@pytest.mark.parametrize(("name", "process"), [("with-classes", "linear"), ("exploding", "ve")])
def test_command_draws_a_class_on_the_networks_own_process(capsys, folder, name, process):
    law, network = schedules.PROCESSES[process](), models.load(name)
    plan = build("ddim", law, 3)
    drawn = {}
    for label, weight in ((None, None), (3, 0.0), (3, None), (3, 4.0), (5, 4.0)):
        options = [] if label is None else ["--label", str(label)]
        options += [] if weight is None else ["--weight", str(weight)]
        code, out, _ = call(capsys, "--model", name, *options, "--out", "a.safetensors", "--batch-size", "2")
        assert code == 0 and "5 samples, ddim, 3 network calls" in out
        drawn[label, weight] = load_file("a.safetensors")["samples"]
        if label is not None:
            guided = classifier_free(network, label, 1.0 if weight is None else weight)
            by_hand = run.generate(plan, models.normalised(guided, law), (1, 8, 8), range(5))
            # Float32 on states as large as the prior's.
            torch.testing.assert_close(drawn[label, weight], by_hand, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(drawn[None, None], drawn[3, 0.0], rtol=1e-4, atol=1e-4)
    assert (drawn[3, 4.0] - drawn[5, 4.0]).abs().max() > 1e-2
    assert (drawn[3, 4.0] - drawn[3, None]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "with-classes", "--label", "10"], "class 10 is out of range: the network has the classes 0 to 9"),
        (["--model", "with-classes", "--label", "-1"], "class -1 is out of range"),
        (["--model", "with-classes", "--label", "3", "--weight", "-0.5"], "must not be negative, got -0.5"),
        (["--model", "with-classes", "--label", "3", "--weight", "nan"], "must not be negative"),
        (["--model", "with-classes", "--label", "three"], "'three' is not a valid integer"),
        (["--model", "with-classes", "--weight", "2"], "needs a class to guide to: --label"),
        (["--label", "3"], "the network has no classes"),
        (["--model", "with-clases"], "unknown network 'with-clases'; did you mean with-classes"),
        (["--model", "a-classifier"], "unknown network 'a-classifier'"),
        (["--model", "unknown-process"], "does not say on which process unknown-process was trained"),
    ],
)
def test_a_mistake_of_the_command_gets_one_line_and_leaves_no_file(capsys, folder, arguments, says):
    code, out, err = call(capsys, *arguments)
    assert code == 2 and not out and says in err and len(err.splitlines()) == 1
    assert not list(folder.iterdir())
