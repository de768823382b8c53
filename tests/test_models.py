"""Networks: the conversions between predictions, the U-Net's protocol, and what a checkpoint refuses."""

import hashlib
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

import fewstep
from fewstep import models, profiles, schedules
from fewstep.errors import UserError

PROCESSES = [
    schedules.linear_vp(),
    schedules.cosine_vp(),
    schedules.ContinuousVP(),
    schedules.SubVP(),
    schedules.VE(),
    schedules.EDM(),
]


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return models.UNet((1, 8, 8), (8, 16), attention_head_dim=8)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("kind", ["x0", "v", "score"])
def test_adapters_recover_the_noise_exactly(process, kind):
    random = torch.Generator().manual_seed(3)
    x0, z = (torch.randn(16, 3, 4, 4, generator=random, dtype=torch.float64) for _ in range(2))
    t = process.t_min + (process.t_max - process.t_min) * torch.linspace(0.05, 1, 16, dtype=torch.float64)
    alpha, sigma = (torch.from_numpy(f(t.numpy())).reshape(-1, 1, 1, 1) for f in (process.alpha, process.sigma))
    target = {"x0": x0, "v": alpha * z - sigma * x0, "score": -z / sigma}[kind]
    adapter = {"x0": models.from_x0, "v": models.from_v, "score": models.from_score}[kind]
    eps = adapter(lambda x, times: target, process)(alpha * x0 + sigma * z, t)
    # Rounding of x = αx0 + σz is amplified by 1/σ in (x − αx0)/σ, and by nothing else.
    tolerance = 8 * np.finfo(float).eps * (1 + (alpha.abs() / sigma).amax().item()) * x0.abs().max().item()
    assert (eps - z).abs().max() < tolerance + 1e-14


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_a_normalised_network_sees_states_of_unit_variance(process):
    seen = []

    def network(x, t, *labels):
        seen.append((x, labels))
        return x

    random = torch.Generator().manual_seed(4)
    x0, z = (torch.randn(20_000, 1, 1, 1, generator=random, dtype=torch.float64) for _ in range(2))
    model = models.normalised(network, process)
    for fraction in (0.1, 0.6, 1.0):
        time = process.t_min + (process.t_max - process.t_min) * fraction
        t = torch.full((len(x0),), time, dtype=torch.float64)
        x = float(process.alpha(time)) * x0 + float(process.sigma(time)) * z
        model(x, t, "labels")
        # The sample variance of 20,000 normal numbers has standard deviation 0.01.
        assert abs(seen[-1][0].var().item() - 1) < 0.05 and seen[-1][1] == ("labels",)
    assert (model is network) == (type(process) in (schedules.DiscreteVP, schedules.ContinuousVP))


def test_a_unet_with_classes():
    torch.manual_seed(1)
    network = models.UNet((1, 8, 8), (8, 16), attention_head_dim=0, classes=3)
    x, t = torch.randn(4, 1, 8, 8), torch.linspace(0, 999, 4)
    none = network(x, t)
    assert torch.equal(none, network(x, t, torch.full((4,), 3)))
    one, other = network(x, t, torch.tensor([0, 1, 2, 0])), network(x, t, torch.tensor([0, 2, 2, 0]))
    assert not torch.allclose(one[1], other[1]) and torch.allclose(one[[0, 2, 3]], other[[0, 2, 3]], atol=1e-6)
    assert models.UNet(**network.config).config == network.config


def test_a_classifier_of_noisy_images_knows_the_time():
    torch.manual_seed(2)
    network = models.NoisyClassifier((1, 8, 8), 10, width=8)
    x, t = torch.randn(4, 1, 8, 8), torch.tensor([0.0, 10.0, 500.0, 999.0])
    logits = network(x, t)
    assert logits.shape == (4, 10)
    assert torch.allclose(logits[2:3], network(x[2:3], t[2:3]), atol=1e-5)
    assert not torch.allclose(logits[2], network(x[2:3], t[3:])[0])


def test_adapters_keep_the_state_dtype():
    process = schedules.linear_vp()
    x, t = torch.randn(2, 1, 2, 2), torch.tensor([10.0, 500.0])
    for adapter in (models.from_x0, models.from_v, models.from_score):
        assert adapter(lambda x, t: x, process)(x, t).dtype == torch.float32


def test_unet_obeys_the_protocol(unet):
    x, t = torch.randn(5, 1, 8, 8), torch.linspace(0, 999, 5)
    eps = unet(x, t)
    assert eps.shape == x.shape and eps.dtype == x.dtype
    assert unet(x.double(), t.double()).dtype == torch.float64  # a float64 state through float32 weights
    # Each sample has its own time.
    one = unet(x[2:3], t[2:3])
    torch.testing.assert_close(eps[2:3], one, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(unet(x[2:3], t[4:5]), one, atol=1e-4)


def test_unet_sees_fractional_times(unet):
    x = torch.randn(1, 1, 8, 8)
    a, b, c = (unet(x, torch.tensor([t])) for t in (10.0, 10.5, 11.0))
    assert not torch.equal(a, b) and not torch.equal(b, c)


def test_time_scale_multiplies_the_time(unet):
    scaled = models.UNet(**{**unet.config, "time_scale": 999.0})
    scaled.load_state_dict(unet.state_dict())
    x = torch.randn(3, 1, 8, 8)
    t = torch.tensor([0.0, 0.25, 1.0])
    torch.testing.assert_close(scaled(x, t), unet(x, t * 999), rtol=1e-5, atol=1e-5)


def test_checkpoint_round_trip(tmp_path, unet):
    digest = models.save("net", unet, "unet", "test", tmp_path, steps=3)
    loaded = models.load("net", tmp_path)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert loaded.config == unet.config
    for key, value in unet.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)
    entry = json.loads((tmp_path / "manifest.json").read_text())["net.safetensors"]
    assert entry == {"sha256": digest, "kind": "unet", "config": unet.config, "profile": "test", "steps": 3}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["manifest.json", "net.safetensors"]


def test_half_precision_weights_load_as_float32(tmp_path):
    net = models.FeatureNet((1, 8, 8), 10, width=4, features=8)
    models.save("net", net.half(), "features", "test", tmp_path)
    loaded = models.load("net", tmp_path)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert all(torch.equal(p, q.float()) for p, q in zip(loaded.parameters(), net.parameters(), strict=True))


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def _cut_header(path):
    path.write_bytes(path.read_bytes()[:20])


def _flip(path):
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(blob)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), r"cannot read checkpoint .*net\.safetensors"),
        (_cut, r"net\.safetensors is truncated"),
        (_cut_header, r"net\.safetensors is truncated"),
        (_flip, r"net\.safetensors does not have the SHA-256"),
    ],
    ids=["missing", "truncated", "truncated header", "one bit"],
)
def test_damaged_checkpoints_are_refused_in_one_line(tmp_path, damage, says):
    models.save("net", models.FeatureNet((1, 8, 8), 10, width=4, features=8), "features", "test", tmp_path)
    damage(tmp_path / "net.safetensors")
    with pytest.raises(UserError, match=says) as caught:
        models.load("net", tmp_path)
    assert "make train" in str(caught.value) and "\n" not in str(caught.value)


def shards(folder, net="net"):
    return sorted(path.name for path in folder.glob(f"{net}*.safetensors"))


@pytest.fixture
def in_shards(tmp_path, unet):
    """A network as float16 in three shards."""
    models.save("net", unet, "unet", "test", tmp_path, dtype=torch.float16, shard_bytes=40_000)
    assert shards(tmp_path) == [f"net-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    return tmp_path


def test_shards_hold_the_rounded_weights_and_stay_below_their_limit(in_shards, unet):
    loaded = models.load("net", in_shards)
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    for key, value in unet.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value.half().float()), key
    assert all((in_shards / file).stat().st_size <= 40_000 for file in shards(in_shards))
    entry = models.manifest(in_shards)["net.safetensors"]
    blobs = [(in_shards / file).read_bytes() for file in shards(in_shards)]
    assert entry["shards"] == {
        file: hashlib.sha256(blob).hexdigest() for file, blob in zip(shards(in_shards), blobs, strict=True)
    }
    assert entry["sha256"] == hashlib.sha256(b"".join(blobs)).hexdigest()


def test_saving_anew_leaves_no_old_shard(in_shards, unet):
    models.save("other", unet, "unet", "test", in_shards, shard_bytes=100_000)
    models.save("net", unet, "unet", "test", in_shards, dtype=torch.float16, shard_bytes=60_000)
    assert shards(in_shards) == [f"net-0000{i}-of-00002.safetensors" for i in (1, 2)]
    models.save("net", unet, "unet", "test", in_shards)
    assert shards(in_shards) == ["net.safetensors"]
    assert all(models.load(name, in_shards).config == unet.config for name in ("net", "other"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), r"cannot read checkpoint .*{}"),
        (_cut, r"{} is truncated"),
        (_flip, r"{} does not have the SHA-256"),
    ],
    ids=["missing", "truncated", "one bit"],
)
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_damaged_shard_is_named_in_one_line(in_shards, damage, says, number):
    file = f"net-0000{number}-of-00003.safetensors"
    damage(in_shards / file)
    with pytest.raises(UserError, match=says.format(file)) as caught:
        models.load("net", in_shards)
    assert "make train" in str(caught.value) and "\n" not in str(caught.value)


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
    net = models.FeatureNet((1, 8, 8), 10, width=4, features=8)
    with pytest.raises(UserError, match=r"the weight body\.5\.weight needs 2\d\d\d bytes; a shard of 2000"):
        models.save("net", net, "features", "test", tmp_path, shard_bytes=2000)
    net.head[1].bias.data[3] = 1e5
    with pytest.raises(UserError, match=r"head\.1\.bias is not finite in torch\.float16"):
        models.save("net", net, "features", "test", tmp_path, dtype=torch.float16)
    assert list(tmp_path.iterdir()) == []


def test_the_networks_for_cifar10_are_as_small_as_they_are_said_to_be():
    with torch.device("meta"):
        unet = models.UNet(**profiles.CIFAR10_UNET)
        features = models.ResNet((3, 32, 32), 10)
        eps = unet(torch.empty(2, 3, 32, 32), torch.empty(2))
        assert eps.shape == (2, 3, 32, 32) and features(torch.empty(2, 3, 32, 32)).shape == (2, 10)
    count = sum(p.numel() for p in unet.parameters())
    assert 12e6 < count < 16e6 and 2 * count < 32e6
    assert 2 * sum(t.numel() for t in features.state_dict().values()) < 10e6
    attends = [block for block in unet.net.down_blocks if hasattr(block, "attentions")]
    assert len(attends) == 1 and unet.config["attention"] == [1]  # of 32, 16 and 8 pixels, 16


def test_resnet_round_trip(tmp_path):
    net = models.ResNet((3, 16, 16), 10, widths=(4, 6, 8, 12))
    net(torch.randn(8, 3, 16, 16))  # moves the running means
    models.save("net", net, "resnet", "test", tmp_path, dtype=torch.float16)
    loaded = models.load("net", tmp_path)
    images = torch.randn(3, 3, 16, 16)
    net.half().float().eval()
    assert torch.equal(loaded.features(images), net.features(images)) and loaded.features(images).shape == (3, 12)
    assert int(loaded.body[0][1].num_batches_tracked) == 1


def test_unknown_checkpoints_and_kinds(tmp_path):
    net = models.FeatureNet((1, 8, 8), 10, width=4, features=8)
    models.save("net", net, "features", "test", tmp_path)
    with pytest.raises(UserError, match=r"unknown checkpoint 'nett'; did you mean net\?"):
        models.load("nett", tmp_path)
    with pytest.raises(UserError, match="unknown kind of network 'unett'"):
        models.save("other", net, "unett", "test", tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json is not valid JSON"):
        models.load("net", tmp_path)


class Bomb:
    """What a pickle can do to who opens it."""

    def __reduce__(self):
        return open, ("opened", "w")


def _pickles(folder, weights):
    """The same weights and some code, in each form that torch and pickle write."""
    for name, options in (("zip", {}), ("old", {"_use_new_zipfile_serialization": False})):
        torch.save({**weights, "bomb": Bomb()}, folder / f"{name}.pt", **options)
        yield (folder / f"{name}.pt").read_bytes()
    for protocol in (2, 4, 5):
        yield pickle.dumps({"bomb": Bomb()}, protocol)


def test_a_pickle_is_never_read(tmp_path, monkeypatch):
    """Whatever it is called, and even where the manifest vouches for it."""
    monkeypatch.chdir(tmp_path)
    net = models.FeatureNet((1, 8, 8), 10, width=4, features=8)
    models.save("net", net, "features", "test", tmp_path / "weights")
    path = tmp_path / "weights" / "net.safetensors"
    manifest = models.manifest(path.parent)
    for blob in _pickles(tmp_path, net.state_dict()):
        path.write_bytes(blob)
        for digest in ("0" * 64, hashlib.sha256(blob).hexdigest()):
            manifest["net.safetensors"]["sha256"] = digest
            (path.parent / "manifest.json").write_text(json.dumps(manifest))
            with pytest.raises(UserError, match=r"is a pickle, .* is not read; convert it with") as caught:
                models.load("net", path.parent)
            assert "\n" not in str(caught.value)
    assert not (tmp_path / "opened").exists()
    with open(tmp_path / "zip.pt", "rb") as file:  # the bomb is one
        torch.load(file, weights_only=False)
    assert (tmp_path / "opened").exists()


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle"])
def test_a_pickle_is_refused_by_name(tmp_path, suffix):
    says = rf"other{suffix} is a pickle, which can run code when it is opened, and is not read; convert it with"
    with pytest.raises(UserError, match=says):  # asked for
        models.load(f"other{suffix}", tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({f"other{suffix}": {"sha256": "0" * 64}}))
    with pytest.raises(UserError, match=says):  # in the manifest
        models.load("other", tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / f"other{suffix}").touch()
    with pytest.raises(UserError, match=says):  # in the folder
        models.load("other", tmp_path)
    entry = {"sha256": "0" * 64, "kind": "features", "config": {}, "shards": {f"other{suffix}": "0" * 64}}
    (tmp_path / "manifest.json").write_text(json.dumps({"net.safetensors": entry}))
    with pytest.raises(UserError, match=says):  # as a shard
        models.load("net", tmp_path)


def test_the_line_that_converts_a_pickle_does(tmp_path, monkeypatch):
    monkeypatch.setattr(models.checkpoints, "FOLDER", tmp_path)
    model = models.FeatureNet((1, 8, 8), 10, width=4, features=8)
    torch.save(model.state_dict(), tmp_path / "net.pt")
    with pytest.raises(UserError) as caught:
        models.load("net")
    line = str(caught.value).partition("convert it with ")[2]
    fresh = models.FeatureNet((1, 8, 8), 10, width=4, features=8)
    exec(line, {"torch": torch, "fewstep": fewstep, "model": fresh, "kind": "features", "profile": "test"})
    assert all(torch.equal(p, q) for p, q in zip(models.load("net").parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(
    "blob", [b"", b"PK", b"PK\x03\x04" + bytes(100), b"\x80", bytes(7), b"text" * 10, bytes(10_000)]
)
def test_other_files_are_no_safetensors(tmp_path, blob):
    models.save("net", models.FeatureNet((1, 8, 8), 10, width=4, features=8), "features", "test", tmp_path)
    (tmp_path / "net.safetensors").write_bytes(blob)
    manifest = models.manifest(tmp_path)
    manifest["net.safetensors"]["sha256"] = hashlib.sha256(blob).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="is not a safetensors file of this network"):
        models.load("net", tmp_path)


@pytest.mark.parametrize("file", ["../net.safetensors", "/net.safetensors", "weights", ""])
def test_a_manifest_names_files_of_its_folder_only(tmp_path, file):
    entry = {"sha256": "0" * 64, "kind": "features", "config": {}, "shards": {file: "0" * 64}}
    (tmp_path / "manifest.json").write_text(json.dumps({"net.safetensors": entry}))
    with pytest.raises(UserError, match=r"manifest\.json names .*; the name of a \.safetensors file without a folder"):
        models.load("net", tmp_path)


def test_a_folder_that_cannot_be_written_is_a_users_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    net = models.FeatureNet((1, 8, 8), 10, width=4, features=8)
    with pytest.raises(UserError, match="cannot write"):
        models.save("net", net, "features", "test", tmp_path / "file")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_shipped_weights_are_whole_and_small():
    folder = models.checkpoints.FOLDER
    files = models.manifest()
    assert {"digits-unet.safetensors", "digits-features.safetensors"} <= set(files)
    sizes = {file: (folder / file).stat().st_size for file in files if file.startswith("digits-")}
    assert sizes["digits-unet.safetensors"] + sizes["digits-features.safetensors"] < 5e6
    assert max(sizes.values()) < 3e6 and sum(sizes.values()) < 10e6
    for file in files:
        models.load(file.removesuffix(".safetensors"))


def test_importing_the_package_does_not_import_the_slow_libraries():
    code = (
        "import sys, fewstep, fewstep.solvers, fewstep.models, fewstep.metrics, fewstep.train;"
        "print([m for m in ('diffusers', 'torch_fidelity', 'accelerate', 'sklearn', 'requests') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
