"""Datasets: what the digits are, and that the 8-bit quantisation is the one it says."""

import numpy as np
import pytest
import torch
from PIL import Image

from fewstep import cifar, data
from fewstep.errors import UserError


def test_digits_are_all_1797_images_on_their_17_levels():
    images, labels = data.digits()
    assert images.shape == (1797, 1, 8, 8) and images.dtype == torch.float32
    assert labels.shape == (1797,) and labels.dtype == torch.int64
    levels = (images + 1) * 8
    assert torch.equal(levels, levels.round()) and levels.min() == 0 and levels.max() == 16
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # scikit-learn's own counts


def test_load_finds_digits_and_names_near_misses():
    assert torch.equal(data.load("digits").images, data.digits().images)
    with pytest.raises(UserError, match=r"unknown dataset 'digit'; did you mean digits\?"):
        data.load("digit")


@pytest.mark.parametrize("held_out", [0.2, 0.5])
def test_split_is_a_partition_that_depends_on_the_seed(held_out):
    n = 100
    whole = data.Dataset(torch.arange(n, dtype=torch.float32).reshape(n, 1, 1, 1), torch.arange(n))
    first, second = data.split(whole, held_out, seed=1)
    assert len(second.labels) == round(n * held_out)
    assert sorted([*first.labels.tolist(), *second.labels.tolist()]) == list(range(n))
    assert torch.equal(first.images.flatten().long(), first.labels)
    again, other = data.split(whole, held_out, seed=1), data.split(whole, held_out, seed=2)
    assert torch.equal(again[1].labels, second.labels) and not torch.equal(other[1].labels, second.labels)


def test_to_uint8_clamps_and_rounds_to_nearest():
    values = torch.tensor([-3.0, -1.0, -1 + 0.49 / 127.5, -1 + 0.51 / 127.5, 1 - 0.51 / 127.5, 1.0, 3.0])
    assert data.to_uint8(values).tolist() == [0, 0, 0, 1, 254, 255, 255]
    levels = torch.arange(256, dtype=torch.float32) / 127.5 - 1
    assert data.to_uint8(levels).tolist() == list(range(256))


# --- CIFAR-10 ------------------------------------------------------------------------------------------------------


def write_strips(folder, part="train", per_class=2, per_strip=3):
    """Strips of random images; what they hold, (10, per_class · per_strip, 32, 32, 3)."""
    random = np.random.default_rng(7)
    pixels = random.integers(0, 256, (10, per_class, per_strip * 32, 32, 3), dtype=np.uint8)
    for name, columns in zip(cifar.CLASSES, pixels, strict=True):
        for number, column in enumerate(columns):
            path = folder / f"{part}-{name}-{number:02d}.webp"
            Image.fromarray(column).save(path, lossless=True, quality=0, method=0)
    return pixels.reshape(10, -1, 32, 32, 3)


def write_folders(folder, per_class=2, side=32):
    random = np.random.default_rng(8)
    pixels = random.integers(0, 256, (10, per_class, side, side, 3), dtype=np.uint8)
    for name, images in zip(cifar.CLASSES, pixels, strict=True):
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(images):
            Image.fromarray(image).save(folder / name / f"{number}.png")
    return pixels


def test_strips_give_every_pixel_and_its_class(tmp_path):
    pixels = write_strips(tmp_path)
    images, labels = cifar.strips(tmp_path, "train", 2, 3)
    assert images.dtype == torch.uint8 and labels.dtype == torch.int64
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).reshape(10, 6, 32, 32, 3), pixels)
    assert labels.tolist() == [label for label in range(10) for _ in range(6)]


def test_the_whole_set_by_its_name(tmp_path, monkeypatch):
    """120 strips with one image in each, as the counts of CIFAR-10 say."""
    monkeypatch.setattr(cifar.strips, "__defaults__", (None, 1))
    monkeypatch.setenv("FEWSTEP_DATA", str(tmp_path))
    train, test = write_strips(tmp_path, "train", 10, 1), write_strips(tmp_path, "test", 2, 1)
    for name, pixels in (("cifar10", train), ("cifar10-test", test)):
        images, labels = data.load(name)
        assert images.dtype == torch.float32 and images.shape == (pixels[..., 0, 0, 0].size, 3, 32, 32)
        assert images.min() == -1 and images.max() == 1 and labels.bincount().tolist() == [len(pixels[0])] * 10
        np.testing.assert_array_equal(data.to_uint8(images), pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("parts", [True, False])
def test_class_folders_give_every_pixel_and_its_class(tmp_path, monkeypatch, parts):
    pixels = write_folders(tmp_path / "train" if parts else tmp_path)
    monkeypatch.setenv("FEWSTEP_DATA", str(tmp_path))
    images, labels = cifar.load("train")
    np.testing.assert_array_equal(images.permute(0, 2, 3, 1).reshape(10, 2, 32, 32, 3), pixels)
    assert labels.tolist() == [label for label in range(10) for _ in range(2)]
    with pytest.raises(UserError, match="has no folder 'test'"):
        cifar.load("test")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:400]), "is no image that can be read"),
        (lambda path: path.write_bytes(b""), "is no image that can be read"),
        (lambda path: path.write_text("not a strip"), "is no image that can be read"),
        (lambda path: Image.new("RGB", (32, 64)).save(path), r"is 32×64 pixels; 32×96 \(3 images of 32×32\)"),
        (lambda path: Image.new("RGB", (30, 96)).save(path), "is 30×96 pixels"),
    ],
    ids=["missing", "truncated", "empty", "text", "wrong count", "wrong size"],
)
def test_a_bad_strip_is_named_in_one_line(tmp_path, damage, says):
    write_strips(tmp_path)
    damage(tmp_path / "train-dog-01.webp")
    with pytest.raises(UserError, match=rf"train-dog-01\.webp {says}") as caught:
        cifar.strips(tmp_path, "train", 2, 3)
    assert "\n" not in str(caught.value)


def test_bad_folders_are_named_in_one_line(tmp_path, monkeypatch):
    def refused(place, match, part="train"):
        with pytest.raises(UserError, match=match) as caught:
            cifar.load(part, place)
        assert "\n" not in str(caught.value)

    refused(tmp_path / "none", r"none is not a folder; FEWSTEP_DATA")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", r"empty holds no images")
    refused(tmp_path, r"no part 'valid'", "valid")
    write_folders(tmp_path / "small", 1, side=16)
    refused(tmp_path / "small", r"small: 10 class folders of 16×16 images; CIFAR-10 has 10 of 32×32")
    good = tmp_path / "good"
    write_folders(good, 1)
    Image.new("RGB", (31, 32)).save(good / "cat" / "1.png")
    refused(good, r"cat/1\.png is 31×32 pixels; 32×32, the size of the first image")
    (good / "cat" / "1.png").write_bytes((good / "cat" / "0.png").read_bytes()[:500])
    refused(good, r"cat/1\.png is no image that can be read")
    for path in (good / "cat").iterdir():
        path.unlink()
    refused(good, r"cat holds no images")
    (tmp_path / "native" / "cifar-10-batches-py").mkdir(parents=True)
    refused(tmp_path / "native", r"cannot be read from .*cifar-10-batches-py")


def test_float_and_8_bit_images_are_the_same_ones():
    levels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(data.to_uint8(data.to_float(levels)), levels)
    assert data.to_float(data.to_float(levels)).tolist() == data.to_float(levels).tolist()
