"""The papers' networks: records that are consistent, loading from a hub and from files, and wrong combinations."""

from __future__ import annotations

import contextlib
import hashlib

import pytest
import servers
import torch
import yaml
from safetensors.torch import load
from test_cli import call
from torch import nn

from fewstep import cost, data, models, schedules
from fewstep.errors import UserError
from fewstep.models import convert, declared, pins, zoo
from fewstep.noise import normal


def entry(**given):
    """A record as in data/models.yml, of a tiny network."""
    return {
        "title": "tiny",
        "source": {"file": "tiny.safetensors", "layout": "ddim", "original": "tiny.ckpt of nobody"},
        "architecture": "unet2d",
        "config": TINY,
        "shape": [3, 16, 16],
        "schedule": {"name": "linear"},
        "prediction": "epsilon",
        "preprocessing": {"dataset": "none"},
        "licence": "none",
        **given,
    }


TINY = {
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 1,
    "block_out_channels": [32, 32],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "downsample_padding": 0,
}
X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
T = torch.tensor([3.0, 612.0])


def write(root, **records):
    (root / "data").mkdir(exist_ok=True)
    (root / "data" / "models.yml").write_text(yaml.safe_dump({"models": records}))


def locked(digest, revision=None, file="tiny.safetensors"):
    """A pin of the tiny network: of the converted file, or of a commit of the hub."""
    return pins.Pin(**({"hub": "google/tiny", "revision": revision} if revision else {}), sha256={file: digest})


# --- the records ---------------------------------------------------------------------------------------------------


def test_the_records_are_those_of_what_the_cost_page_counts():
    """Where both files describe a network of the hub, or the one of DDIM's program, they agree."""
    known, counted = declared.records(), cost.profile().networks
    pairs = {"ddpm-cifar10": "ddpm-cifar10", "ddim-celeba64": "ddim-celeba64", "ddpm-church": "ddpm-lsun"}
    pairs |= {"ddpm-bedroom": "ddpm-lsun", "ddpm-celebahq": "ddpm-lsun", "stable-diffusion": "stable-diffusion"}
    for name, other in pairs.items():
        both = known[name].config.keys() & counted[other].config.keys()
        assert len(both) > 6 and all(known[name].config[key] == counted[other].config[key] for key in both)
        assert known[name].shape == tuple(counted[other].shape)


@pytest.mark.parametrize("name", declared.records())
def test_a_record_makes_a_network(name):
    """Of its image's shape, on its process; files are of a layout that gives its architecture, and say where it is."""
    record = declared.records()[name]
    network = declared.build(record.architecture, record.config, empty=True)
    x, t = torch.zeros(1, *record.shape, device="meta"), torch.zeros(1, device="meta")
    if record.architecture == "unet2d":
        labels = torch.zeros(1, dtype=torch.long, device="meta") if record.classes else None
        out = network(x, t, class_labels=labels, return_dict=False)[0]
    elif record.architecture == declared.TEXT_TO_IMAGE:
        text = torch.zeros(1, 77, record.config["cross_attention_dim"], device="meta")
        out = network(x, t, text, return_dict=False)[0]
    else:
        out = network(x, t)
    channels = record.shape[0] * (2 if record.prediction == "epsilon-and-variance" else 1)
    assert tuple(out.shape[1:]) == (channels, *record.shape[1:])
    assert record.config.get("num_class_embeds", 0) == record.classes
    assert record.schedule.process().t_max > 0
    if isinstance(record.source, declared.LocalFile):
        assert convert.LAYOUTS[record.source.layout].architecture == record.architecture


def test_the_time_of_score_sdes_ve_networks():
    """σ from 0.01 to 50 for images in [0, 1]: that of images in [−1, 1], halved."""
    record = declared.records()["score-sde-ve"]
    times = record.time(torch.tensor([0.0, 1.0]), record.schedule.process())
    torch.testing.assert_close(times, torch.tensor([0.01, 50.0]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"schedule": {"name": "linaer"}}, "unknown schedule 'linaer'; did you mean linear"),
        ({"schedule": {"name": "linear", "arguments": {"steps": 10}}}, "steps"),
        ({"prediction": "eps"}, "unknown prediction 'eps'"),
        ({"architecture": "unet"}, "unknown architecture 'unet'; did you mean unet2d"),
        ({"sha256": "0" * 64}, "sha256"),
        ({"source": {"hub": "google/x"}, "architecture": "score-unet"}, "score-unet comes from a file of fewstep conv"),
        ({"source": {"hub": "google/x", "revision": "main"}}, "revision"),
        ({"licence": None}, "licence"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_record_that_does_not_fit_its_schema(tmp_path, wrong, message):
    write(tmp_path, tiny=entry(**wrong))
    with pytest.raises(UserError, match=message) as caught:
        declared.records(tmp_path)
    assert "tiny" not in str(caught.value) or "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [None, "models: [1", "models: 3", "other: {}"])
def test_a_file_that_is_no_list_of_records(tmp_path, content):
    if content is not None:
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / "models.yml").write_text(content)
    with pytest.raises(UserError, match=r"models\.yml"):
        declared.records(tmp_path)


def test_the_list(capsys):
    code, out, _ = call(capsys, "list", "models")
    assert code == 0 and len(out.splitlines()) == len(declared.records()) and "google" not in out


# --- from a network to ε -------------------------------------------------------------------------------------------


class Exact(nn.Module):
    """The exact network for normal data of standard deviation 0.4, of any prediction, in its trainer's terms."""

    S = 0.4

    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x, t):
        return self.answer(x, t.reshape(-1, 1, 1, 1).double()).to(x.dtype)


def linear(t):
    process = schedules.linear_vp()
    t = t.flatten().numpy()
    return (torch.from_numpy(f(t)).reshape(-1, 1, 1, 1) for f in (process.alpha, process.sigma))


def denoised(x, alpha, sigma, s=Exact.S):
    return alpha * s**2 * x / (alpha**2 * s**2 + sigma**2)


def x0(x, t):
    return denoised(x, *linear(t))


def score(x, t):
    alpha, sigma = linear(t)
    return -x / (alpha**2 * Exact.S**2 + sigma**2)


def velocity(x, t):
    alpha, sigma = linear(t)
    z = (x - alpha * x0(x, t)) / sigma
    return alpha * z - sigma * x0(x, t)


def with_variance(x, t):
    _, sigma = linear(t)
    return torch.cat([-sigma * score(x, t), torch.ones_like(x)], 1)


def score_of_unit_images(x, sigma):
    """σ times the score for images in [0, 1], which the network centres itself: here they come centred."""
    pixels, s = (x + 1) / 2, Exact.S / 2
    return -sigma * (pixels - 0.5) / (s**2 + sigma**2)


def edm_network(x, c):
    """F of D = c_skip x + c_out F(c_in x, ln σ / 4), EDM's Table 1."""
    sigma, std = torch.exp(4 * c), 0.5
    both = (sigma**2 + std**2).sqrt()
    x = x * both
    return (denoised(x, 1.0, sigma) - std**2 / both**2 * x) * both / (sigma * std)


VE = {"name": "ve", "arguments": {"sigma_min": 0.02, "sigma_max": 100.0}}


@pytest.mark.parametrize(
    ("answer", "given"),
    [
        (x0, {"prediction": "x0"}),
        (score, {"prediction": "score"}),
        (velocity, {"prediction": "v"}),
        (with_variance, {"prediction": "epsilon-and-variance"}),
        (score_of_unit_images, {"prediction": "sigma-score", "schedule": VE, "time": {"of": "sigma", "scale": 0.5}}),
        (
            edm_network,
            {"prediction": "edm", "schedule": {"name": "edm"}, "time": {"of": "sigma", "log": True, "scale": 0.25}},
        ),
    ],
)
def test_epsilon_of_every_prediction(answer, given):
    """On normal data ε(x) = σ x/(α² s² + σ²), whatever the network gives and calls time."""
    record = declared.Record.model_validate(entry(architecture="score-unet", **given))
    model = zoo.PaperModel(Exact(answer), record)
    rhos = [0.05, 1.0, 20.0]
    t = torch.from_numpy(model.process.t_of_rho(rhos)).double()
    alpha, sigma = (
        torch.from_numpy(f(t.numpy())).reshape(-1, 1, 1, 1) for f in (model.process.alpha, model.process.sigma)
    )
    std = (alpha**2 * Exact.S**2 + sigma**2).sqrt()
    x = std * normal(0, 0, range(3), (3, 4, 4), torch.float64)
    # Times pass through float32; σ of the noisiest level moves by 1e-7 · λ' relative.
    torch.testing.assert_close(model(x, t), sigma * x / std**2, rtol=1e-4, atol=1e-4)


def test_classes_and_labels_belong_together():
    plain = zoo.PaperModel(Exact(x0), declared.Record.model_validate(entry(architecture="score-unet")))
    with pytest.raises(UserError, match="no labels are needed"):
        plain(X, T, torch.zeros(2, dtype=torch.long))
    config = TINY | {"num_class_embeds": 7}
    record = declared.Record.model_validate(entry(config=config, classes=7))
    model = zoo.PaperModel(declared.build("unet2d", config), record)
    assert model(X, T, torch.tensor([0, 6])).shape == X.shape
    with pytest.raises(UserError, match="labels 0 to 6 are needed"):
        model(X, T)


# --- does the record fit? ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images():
    return data.load("digits").images[:256]


def digits(**given):
    record = entry(architecture="score-unet", shape=[1, 8, 8], **given)
    return zoo.PaperModel(models.load("digits-unet"), declared.Record.model_validate(record))


def test_the_check_passes_where_the_record_fits(images):
    found = zoo.check(digits(), images)
    assert [one.rho for one in found] == list(zoo.LEVELS) and all(one.error < one.bound for one in found)
    # The same process on another clock.
    zoo.check(digits(schedule={"name": "vp"}, time={"scale": 999.0}), images)


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": {"name": "cosine"}},
        {"schedule": {"name": "scaled-linear"}},
        {"schedule": {"name": "linear", "arguments": {"n": 500}}},
        {"schedule": {"name": "linear", "arguments": {"n": 1000, "beta_max": 0.012}}},
        {"schedule": {"name": "ve"}},
        {"schedule": {"name": "vp"}},
        {"schedule": {"name": "edm"}, "prediction": "edm"},
        {"prediction": "x0"},
        {"prediction": "v"},
        {"prediction": "score"},
        {"prediction": "sigma-score"},
        {"time": {"scale": 0.001}},
        {"time": {"scale": -1.0, "offset": 999.0}},
        {"time": {"of": "sigma"}},
    ],
    ids=str,
)
def test_a_wrong_combination_fails_loudly(images, wrong):
    given = {"schedule": {"name": "linear"}} | wrong
    with pytest.raises(UserError, match=r"tiny: the error of ε is .* do not fit the network") as caught:
        zoo.check(digits(**given), images)
    assert "\n" not in str(caught.value)


def test_images_in_another_range_fail_loudly(images):
    with pytest.raises(UserError, match="do not fit the network or these images"):
        zoo.check(digits(), (images + 1) / 2)
    with pytest.raises(UserError, match=r"of shape \(1, 8, 8\) are needed, got \(15, 1, 8, 8\)"):
        zoo.check(digits(), images[:15])
    with pytest.raises(UserError, match="are needed, got"):
        zoo.check(digits(), images.expand(-1, 3, -1, -1))


def test_the_wiener_error_of_white_noise():
    """S(f) = s² at every frequency: the error is s²/(s² + ρ²), up to the spectrum's estimate from n images, s/√n."""
    n, s, rho = 400, 0.7, 0.5
    noise = s * normal(0, 0, range(n), (2, 16, 16), torch.float64)
    assert zoo.wiener_error(noise, rho) == pytest.approx(s**2 / (s**2 + rho**2), rel=3 / n**0.5)


def test_no_linear_filter_errs_less():
    """On stationary normal images the filter S/(S + ρ²) at each frequency has the stated error."""
    power = 1 / (1 + torch.fft.fftfreq(32, dtype=torch.float64)[:, None] ** 2 * 4000)
    draw = [normal(0, i, range(500), (1, 32, 32), torch.float64) for i in range(2)]
    images = torch.fft.ifft2(torch.fft.fft2(draw[0]) * power.sqrt()).real
    noised = images + 0.5 * draw[1]
    estimate = torch.fft.ifft2(torch.fft.fft2(noised) * 0.5 / (power + 0.25)).real
    error = float((estimate - draw[1]).square().mean())
    assert zoo.wiener_error(images, 0.5) == pytest.approx(error, rel=0.01)


# --- by file -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A converted file where the record looks for it."""
    from originals import Weights, ddim

    w = Weights()
    expected = ddim(w, X, T, multiples=(1, 1), blocks=1)
    torch.save(dict(w), tmp_path / "tiny.ckpt")
    monkeypatch.setenv(zoo.FOLDER_VARIABLE, str(tmp_path))
    convert.convert(tmp_path / "tiny.ckpt", "ddim", tmp_path / "tiny.safetensors")
    return tmp_path, expected


def test_a_network_from_a_file(tiny):
    root, expected = tiny
    digest = zoo.sha256(root / "tiny.safetensors")
    write(root, tiny=entry())
    for pinned in ({}, {"tiny": locked(digest)}):
        assert pins.read(root) == pinned
        model = zoo.load("tiny", root=root)
        torch.testing.assert_close(model(X, T), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
        assert model.provenance == {"file": "tiny.safetensors", "sha256": digest}
        assert not model.training and not any(p.requires_grad for p in model.parameters())
    with pytest.raises(UserError, match="do not fit"):  # its weights are random
        zoo.load("tiny", torch.rand(16, 3, 16, 16) * 2 - 1, root=root)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"config": TINY | {"layers_per_block": 2}}, r"layers_per_block is 1, the record of tiny declares 2"),
        ({"config": TINY | {"downsample_padding": 1}}, r"downsample_padding is 0, the record of tiny declares 1"),
        ({"architecture": "score-unet"}, "architecture unet2d, the record of tiny declares score-unet"),
        (
            {"source": {"file": "b.safetensors", "layout": "ddim", "original": "b.ckpt of nobody"}},
            r"get b\.ckpt of nobody, then fewstep convert CHECKPOINT --layout ddim --out .*b\.safetensors",
        ),
    ],
)
def test_a_file_that_is_not_the_record(tiny, wrong, message):
    root, _ = tiny
    write(root, tiny=entry(**wrong))
    with pytest.raises(UserError, match=message):
        zoo.load("tiny", root=root)
    with pytest.raises(UserError, match=r"unknown network in data/models\.yml 'tniy'; did you mean tiny"):
        zoo.load("tniy", root=root)
    assert not pins.read(root)


def test_a_file_that_is_not_the_pinned_one(tiny):
    root, _ = tiny
    write(root, tiny=entry())
    pins.write({"tiny": locked("0" * 64)}, root)
    with pytest.raises(UserError, match=rf"tiny\.safetensors has SHA-256 .*, {pins.FILE} pins 0000.*--again tiny"):
        zoo.load("tiny", root=root)
    assert zoo.pin(["tiny"], again=True, root=root) == pins.read(root) != {"tiny": locked("0" * 64)}
    zoo.load("tiny", root=root)


def test_a_file_that_is_cut_off_or_of_another_maker(tiny):
    root, _ = tiny
    path = root / "tiny.safetensors"
    write(root, tiny=entry())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="cut off or was not written by fewstep convert"):
        zoo.load("tiny", root=root)
    torch.save({}, path)
    with pytest.raises(UserError, match="cut off or was not written by fewstep convert"):
        zoo.load("tiny", root=root)


# --- from a hub ----------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef" * 2 + "01234567"
WEIGHTS = "diffusion_pytorch_model.safetensors"


class Hub(servers.Handler):
    """A hub with one repository.

    ``server.commits`` holds the files of each commit, those of COMMIT are ``server.files`` too; ``server.main`` is the
    last one. A file that ``server.states`` names has that ETag instead of its SHA-256. ``server.cut`` bytes of a file
    are sent before the connection breaks, once.
    """

    def answer(self, body):
        server = self.server
        server.asked.append((self.command, self.path, self.headers.get("Range")))
        repository, _, rest = self.path.strip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        commit = server.main if revision == "main" else revision
        files = server.commits.get(commit, {})
        error = None
        if repository != "google/tiny":
            error = (404, "RepoNotFound")
        elif server.gated:
            error = (403, "GatedRepo")
        elif commit not in server.commits:
            error = (404, "RevisionNotFound")
        elif file not in files:
            error = (404, "EntryNotFound")
        if error:
            self.send_response(error[0])
            self.send_header("X-Error-Code", error[1])
            self.send_header("X-Error-Message", error[1])
            self.send_header("X-Repo-Commit", commit)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = files[file]
        start = int((self.headers.get("Range") or "bytes=0-")[6:].split("-")[0]) if body else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{server.states.get(file, hashlib.sha256(content).hexdigest())}"')
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if body:
            stop, server.cut = (server.cut, None) if file.endswith("safetensors") else (None, server.cut)
            self.wfile.write(content[start:stop])

    def do_HEAD(self):
        self.answer(False)

    def do_GET(self):
        self.answer(True)


def serving(files, **more):
    """A hub with these files."""
    facts = {"main": COMMIT, "commits": {COMMIT: files}, "states": {}, "gated": False, "cut": None, "asked": []}
    return servers.serving(Hub, files=files, **facts, **more)


@contextlib.contextmanager
def tiny_hub(tmp_path, monkeypatch):
    """A hub with the tiny network, and an empty cache."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("fewstep.models.hub.CACHE", tmp_path / "hub")
    network = declared.build("unet2d", TINY)
    network.save_pretrained(tmp_path / "saved")
    files = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    digest = hashlib.sha256(files[WEIGHTS]).hexdigest()
    with serving(files, expected=network(X, T, return_dict=False)[0].detach(), digest=digest) as server:
        yield server


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with tiny_hub(tmp_path, monkeypatch) as server:
        yield server


def of_hub(revision=None, repository="google/tiny", **given):
    return entry(source={"hub": repository, "revision": revision}, **given)


def test_a_hub_with_pytorchs_own_file_only(hub, tmp_path, monkeypatch):
    """As the repository of DDPM's CIFAR-10 network has it. It is read without running what a pickle may hold."""
    write(tmp_path, tiny=of_hub())
    content = load(hub.files.pop(WEIGHTS))
    for thing, good in ((content, True), (content | {"more": print}, False)):
        monkeypatch.setattr("fewstep.models.hub.CACHE", tmp_path / f"hub-{good}")
        (tmp_path / pins.FILE).unlink(missing_ok=True)
        torch.save(thing, tmp_path / "weights.bin")
        hub.files["diffusion_pytorch_model.bin"] = (tmp_path / "weights.bin").read_bytes()
        if good:
            for endpoint in (hub.url, "http://127.0.0.1:1"):  # the second time it is kept
                model = zoo.load("tiny", root=tmp_path, endpoint=endpoint)
                assert torch.equal(model(X, T), hub.expected)
                assert model.provenance["sha256"] == zoo.sha256(tmp_path / "weights.bin")
        else:
            with pytest.raises(UserError, match=r"is not a network of diffusers: .*; delete the folder"):
                zoo.load("tiny", root=tmp_path, endpoint=hub.url)


def test_a_network_from_a_hub(hub, tmp_path):
    """Pinned or not, it is fetched once, and the record of a measurement can say which one it was."""
    write(tmp_path, loose=of_hub(), pinned=of_hub(COMMIT))
    pins.write({"pinned": locked(hub.digest, COMMIT, WEIGHTS)}, tmp_path)
    for name in ("loose", "pinned", "loose", "pinned"):
        model = zoo.load(name, root=tmp_path, endpoint=hub.url)
        assert torch.equal(model(X, T), hub.expected)
        assert model.provenance == {"hub": "google/tiny", "revision": COMMIT, "sha256": hub.digest}
    assert sum(method == "GET" for method, *_ in hub.asked) == len(hub.files) == 2


def test_without_a_network_the_cache_serves(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    write(tmp_path, loose=of_hub(), pinned=of_hub(COMMIT))
    pins.write({"pinned": locked(hub.digest, COMMIT, WEIGHTS)}, tmp_path)
    nobody = "http://127.0.0.1:9"
    fetching = r"config\.json of pinned .* run it once with a network|cannot fetch"
    for name, message in (("loose", "pinning loose needs once; run it with a network"), ("pinned", fetching)):
        with pytest.raises(UserError, match=message) as caught:
            zoo.load(name, root=tmp_path, endpoint=nobody)
        assert "\n" not in str(caught.value)
    assert set(pins.read(tmp_path)) == {"pinned"}
    zoo.load("loose", root=tmp_path, endpoint=hub.url)
    for name in ("loose", "pinned"):
        assert torch.equal(zoo.load(name, root=tmp_path, endpoint=nobody)(X, T), hub.expected)


def test_a_download_that_broke_off_goes_on(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 14)
    write(tmp_path, loose=of_hub())
    hub.cut = 100_000
    try:
        zoo.load("loose", root=tmp_path, endpoint=hub.url)
    except UserError as error:
        assert "\n" not in str(error) and "the same command goes on from there" in str(error)
        assert not pins.read(tmp_path)
    assert torch.equal(zoo.load("loose", root=tmp_path, endpoint=hub.url)(X, T), hub.expected)
    assert any(asked and asked != "bytes=0-" for _, path, asked in hub.asked if path.endswith("safetensors"))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (of_hub("f" * 40), f"has no revision {'f' * 40}"),
        (of_hub(repository="google/tyni"), "there is no http://.*/google/tyni, or it is private"),
        (of_hub(config=TINY | {"layers_per_block": 2}), "layers_per_block is 1, the record of net declares 2"),
    ],
)
def test_a_hub_that_has_something_else(hub, tmp_path, record, message):
    write(tmp_path, net=record)
    with pytest.raises(UserError, match=message) as caught:
        zoo.load("net", root=tmp_path, endpoint=hub.url)
    assert "\n" not in str(caught.value) and not pins.read(tmp_path)


def test_a_gated_network(hub, tmp_path):
    write(tmp_path, net=of_hub())
    hub.gated = True
    with pytest.raises(UserError, match=r"net is gated: accept its terms at http://.*/google/tiny, then log in"):
        zoo.load("net", root=tmp_path, endpoint=hub.url)


def test_a_folder_of_the_hub_that_is_no_network(hub, tmp_path):
    write(tmp_path, net=of_hub())
    del hub.files[WEIGHTS]
    with pytest.raises(UserError, match=rf"has no file {WEIGHTS} at revision main"):
        zoo.load("net", root=tmp_path, endpoint=hub.url)
    hub.files[WEIGHTS] = b"0" * 100
    with pytest.raises(UserError, match="is not a network of diffusers") as caught:
        zoo.load("net", root=tmp_path, endpoint=hub.url)
    assert "\n" not in str(caught.value) and not pins.read(tmp_path)
