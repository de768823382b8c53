"""FID with Inception: the path of the published weights, on a file of random weights in the same format."""

from __future__ import annotations

import argparse
import hashlib

import numpy as np
import pytest
import servers
import smoke
import torch
from PIL import Image
from safetensors.torch import save_file
from test_cli import call
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as original

from fewstep import data, inception
from fewstep.errors import UserError


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file as torch-fidelity's, with random weights that keep the size of activations."""
    place = tmp_path_factory.mktemp("inception")
    smoke.inception(place)
    return place / "inception.pth"


@pytest.fixture(scope="module")
def network(weights):
    return inception.Inception(weights)


@pytest.fixture(scope="module")
def images():
    return torch.randint(0, 256, (7, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


class Means(nn.Module):
    """A feature network that costs nothing: means over channels and over pixels."""

    sha256 = "0" * 64

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        x = images.double() * self.weight.detach().double()
        return torch.cat([x.mean((2, 3)), x.mean((1, 3))], 1)


def distance_of_few(a, b):
    """The Fréchet distance of features (N, F), N < F, by singular values: tr (AAᵀBBᵀ)^½ is the nuclear norm of AᵀB."""
    one, two = ((f - f.mean(0)).T / (len(f) - 1) ** 0.5 for f in (a, b))
    nuclear = np.linalg.svd(one.T @ two, compute_uv=False).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + (one**2).sum() + (two**2).sum() - 2 * nuclear)


def test_features_are_torch_fidelitys(weights, network, images):
    theirs = original.FeatureExtractorInceptionV3("x", ["2048"], feature_extractor_weights_path=weights)(images)[0]
    found = network(images)
    assert found.shape == (7, 2048) and found.dtype == torch.float64 and float(found.std()) > 1e-3
    torch.testing.assert_close(found, theirs.double())
    grey = images[:2, :1]
    torch.testing.assert_close(network(grey), network(grey.repeat(1, 3, 1, 1)))


def test_fid(network, images, tmp_path):
    """Of all 2048 features, with the reference's statistics kept; its square roots of round-off limit the tolerance."""
    others = images.flip(0)[:5] // 2
    found = inception.fid(data.to_float(images), others, "half as bright", network, cache=tmp_path)
    expected = distance_of_few(network(images).numpy(), network(others).numpy())
    assert found.value == pytest.approx(expected, rel=1e-3)
    assert found.protocol["samples"] == 7 and found.protocol["reference_samples"] == 5
    assert found.protocol["split"] == "half as bright" and found.protocol["weights"] == network.sha256
    assert found.protocol["extractor"] == "inception-v3-compat" and not found.protocol["published_weights"]
    assert "8 bits" in found.protocol["quantisation"] and len(list(tmp_path.iterdir())) == 1


def test_statistics(images):
    features = Means()(images).numpy()
    for batch in (1, 3, 64):
        found = inception.statistics(images, Means(), batch=batch)
        np.testing.assert_allclose(found.mu, features.mean(0), rtol=1e-12)
        np.testing.assert_allclose(found.sigma, np.cov(features, rowvar=False), rtol=1e-9, atol=1e-9)
        assert found.n == 7


def test_statistics_are_kept_by_content(images, tmp_path):
    network = Means()
    first = inception.statistics(images, network, cache=tmp_path)
    again = inception.statistics(data.to_float(images), network, cache=tmp_path)  # the same 8-bit images
    assert network.seen == 7 and first.source == again.source and again.n == 7
    assert np.array_equal(first.mu, again.mu) and np.array_equal(first.sigma, again.sigma)
    changed = images.clone()
    changed[0, 0, 0, 0] ^= 1
    assert inception.statistics(changed, network, cache=tmp_path).source != first.source and network.seen == 14
    other = Means()
    other.sha256 = "1" * 64
    inception.statistics(images, other, cache=tmp_path)
    assert other.seen == 7 and len(list(tmp_path.iterdir())) == 3


def test_samples_outside_the_range_are_clamped(images):
    wild = data.to_float(images) * 3
    clamped = inception.statistics(wild.clamp(-1, 1), Means())
    assert inception.statistics(wild, Means()).source == clamped.source


def test_frechet_distance_of_diagonal_normals():
    """|μ₁ − μ₂|² + Σ (s₁ − s₂)² for covariances that are diagonal with standard deviations s."""
    rng = np.random.default_rng(0)
    mu, s = rng.normal(size=(2, 6)), rng.uniform(0.5, 2, size=(2, 6))
    one, two = (inception.Statistics(m, np.diag(d**2), None, "") for m, d in zip(mu, s, strict=True))
    expected = ((mu[0] - mu[1]) ** 2).sum() + ((s[0] - s[1]) ** 2).sum()
    assert inception.frechet_distance(one, two) == pytest.approx(expected, rel=1e-12)
    with pytest.raises(UserError, match="6 and of 5 features"):
        inception.frechet_distance(one, inception.Statistics(mu[0][:5], np.eye(5), None, ""))


def test_published_statistics(tmp_path):
    rng = np.random.default_rng(0)
    mu, a = rng.normal(size=4), rng.normal(size=(4, 4))
    np.savez(tmp_path / "a.npz", mu=mu, sigma=a @ a.T)
    found = inception.read_statistics(tmp_path / "a.npz", features=4)
    assert np.array_equal(found.mu, mu) and np.allclose(found.sigma, a @ a.T) and found.n is None
    with pytest.raises(UserError, match="2048 features are needed"):
        inception.read_statistics(tmp_path / "a.npz")
    bad = [{"mu": mu}, {"mu": mu, "sigma": a}, {"mu": mu * np.nan, "sigma": a @ a.T}]
    bad += [{"mu": mu, "sigma": np.array([print], dtype=object)}]
    for arrays in bad:
        np.savez(tmp_path / "b.npz", **arrays)
        with pytest.raises(UserError, match=r"b\.npz"):
            inception.read_statistics(tmp_path / "b.npz", features=4)
    (tmp_path / "c.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    for name in ("c.npz", "d.npz"):
        with pytest.raises(UserError, match=f"cannot read .*{name}"):
            inception.read_statistics(tmp_path / name, features=4)


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 8, 8), torch.full((4, 3, 8, 8), float("nan"))])
def test_images_without_statistics(images):
    with pytest.raises(UserError):
        inception.statistics(images, Means())


# --- where the weights are -----------------------------------------------------------------------------------------


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No weights and no network: the address is this machine's port that answers nobody."""
    monkeypatch.delenv(inception.VARIABLE, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(inception, "FOLDER", tmp_path / "inception")
    monkeypatch.setattr(original, "URL_INCEPTION_V3", f"http://127.0.0.1:9/{inception.NAME}")
    return tmp_path


def test_offline_with_no_weights_at_hand(capsys, nowhere):
    code, out, err = call(capsys, "fid", "a.safetensors", "digits")
    assert code == 2 and not out and err.count("\n") == 1
    assert inception.NAME in err and "cannot be reached" in err and "set FEWSTEP_INCEPTION to the file" in err
    assert not [path for path in nowhere.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_a_variable_that_names_no_file(capsys, nowhere, monkeypatch):
    monkeypatch.setenv(inception.VARIABLE, str(nowhere / "w.pth"))
    code, _, err = call(capsys, "fid", "a.safetensors", "digits")
    assert code == 2 and "FEWSTEP_INCEPTION names" in err and str(nowhere / "w.pth") in err


def test_weights_are_found(weights, nowhere, monkeypatch):
    monkeypatch.setenv(inception.VARIABLE, str(weights))
    assert inception.weights_file() == weights


class Releases(servers.Handler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"other")


def test_what_is_fetched_is_compared_with_its_hash(nowhere, monkeypatch):
    with servers.serving(Releases) as server:
        monkeypatch.setattr(original, "URL_INCEPTION_V3", f"{server.url}/{inception.NAME}")
        with pytest.raises(UserError, match="does not have the SHA-256"):
            inception.weights_file()
        monkeypatch.setattr(inception, "SHA256", hashlib.sha256(b"other").hexdigest())
        assert inception.weights_file().read_bytes() == b"other"
    assert inception.weights_file().read_bytes() == b"other"  # the server is gone
    assert inception.weights_file().parent == nowhere / "inception"


def test_other_files_of_weights(weights, tmp_path):
    state = torch.load(weights, weights_only=True)
    del state["fc.bias"]
    torch.save(state, tmp_path / "few.pth")
    torch.save({"args": argparse.Namespace()}, tmp_path / "code.pth")
    torch.save([1], tmp_path / "list.pth")
    (tmp_path / inception.NAME).write_bytes(weights.read_bytes())
    expected = {
        "few.pth": "does not hold the weights of inception-v3-compat",
        "list.pth": "does not hold the weights of inception-v3-compat",
        "code.pth": r"refused: it holds argparse\.Namespace",
        inception.NAME: "is damaged",
        "none.pth": "cannot read",
    }
    for name, message in expected.items():
        with pytest.raises(UserError, match=message):
            inception.Inception(tmp_path / name)


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command(capsys, tmp_path, monkeypatch, weights, network, images):
    monkeypatch.setenv(inception.VARIABLE, str(weights))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(inception, "frechet_distance", lambda a, b: float(((a.mu - b.mu) ** 2).sum()))
    images = images[:3]
    save_file({"samples": data.to_float(images)[:2]}, "a.safetensors")
    (tmp_path / "real").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "real" / f"{i}.png")
    kept = inception.statistics(images, network)
    np.savez("real.npz", mu=kept.mu, sigma=kept.sigma)
    monkeypatch.setattr(inception, "CACHE", tmp_path / "cache")
    first = call(capsys, "fid", "a.safetensors", "real", "--split", "all of them")
    second = call(capsys, "fid", "a.safetensors", "real.npz")
    assert first[0] == second[0] == 0 and first[1].splitlines()[0] == second[1].splitlines()[0]
    assert "all of them" in first[1] and "reference_samples  3" in first[1] and "reference_samples  None" in second[1]
    code, _, err = call(capsys, "fid", "a.safetensors", "cifra10")
    assert code == 2 and "unknown data set or file 'cifra10'; did you mean cifar10" in err
