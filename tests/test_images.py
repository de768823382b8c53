"""The papers' image sets: which pixels of a file become the image, that little is in memory, and bad folders."""

from __future__ import annotations

import io
import json

import lmdb
import numpy as np
import pytest
import torch
from PIL import Image

from fewstep import images, inception
from fewstep.errors import UserError
from fewstep.models.declared import Preprocessing, records

CELEBA = records()["ddim-celeba64"].preprocessing
CHURCH = Preprocessing(dataset="LSUN church_outdoor", resize=64)


def ramp(width, height):
    """An image whose red is the column and whose green is the row."""
    row, column = np.mgrid[:height, :width]
    return np.stack([column, row, 0 * row], 2).astype(np.uint8)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv(images.VARIABLE, str(tmp_path))
    return tmp_path


def write(folder, *arrays, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(folder / f"{i:06d}{suffix}")


def refused(how, message):
    with pytest.raises(UserError, match=message) as caught:
        images.load(how)[:100]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "top", "left"),
    [
        (Preprocessing(dataset="CelebA", crop=128, centre=(121, 89), resize=64), 57, 25),
        (Preprocessing(dataset="CelebA", crop=140, resize=70), 39, 19),
    ],
    ids=["StyleGAN's crop", "the middle 140"],
)
def test_the_crop_of_celeba(place, how, top, left):
    """Halved, a linear ramp has the mean of two neighbours, edges aside, up to the rounding to 8 bits."""
    write(place / "img_align_celeba", ramp(178, 218))
    (image,) = images.load(how)[:]
    k = torch.arange(2, how.resize - 2)
    assert (image[0, 5, 2:-2] - (left + 2 * k + 0.5)).abs().max() <= 0.5
    assert (image[1, 2:-2, 5] - (top + 2 * k + 0.5)).abs().max() <= 0.5


def test_the_record_of_celeba_is_stylegans_crop():
    assert (CELEBA.crop, CELEBA.centre, CELEBA.resize) == (128, (121, 89), 64)


def test_a_crop_alone_moves_pixels_and_changes_none(place):
    write(place / "img_align_celeba", ramp(178, 218))
    (image,) = images.load(Preprocessing(dataset="CelebA", crop=140))[:]
    np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), ramp(178, 218)[39:179, 19:159])


def test_the_middle_of_lsun(place):
    """The shorter side is the size already: the middle square as it is, whatever the file's depth in the folder."""
    write(place / "church_outdoor_train" / "a" / "b", ramp(100, 64), ramp(64, 90), suffix=".webp")
    Image.fromarray(ramp(100, 64)).save(place / "church_outdoor_train" / "z.png")
    found = images.load(CHURCH)
    assert len(found) == 3 and found.shape == (3, 3, 64, 64)
    np.testing.assert_array_equal(found[2:3][0].permute(1, 2, 0).numpy(), ramp(100, 64)[:, 18:82])


def test_lsuns_own_format(place):
    def store(name, **files):
        with lmdb.open(str(place / name), map_size=2**24) as made, made.begin(write=True) as transaction:
            for key, file in files.items():
                transaction.put(key.encode(), file)

    def encoded(width):
        file = io.BytesIO()
        Image.fromarray(ramp(width, 64)).save(file, "webp", lossless=True)
        return file.getvalue()

    store("church_outdoor_train_lmdb", a=encoded(64), b=encoded(100), c=b"no image")
    for _ in range(2):  # an lmdb can be opened once in a process
        found = images.load(CHURCH)
        assert found.shape == (3, 3, 64, 64)
        np.testing.assert_array_equal(found[1:2][0].permute(1, 2, 0).numpy(), ramp(100, 64)[:, 18:82])
    refused(CHURCH, "image c is no image that can be read")
    (place / "bedroom_train_lmdb").mkdir()
    refused(Preprocessing(dataset="LSUN bedroom", resize=64), "is no whole lmdb")


def test_images_are_read_when_they_are_asked_for(place):
    """A set whose later files are damaged opens, and its first images are read."""
    write(place / "img_align_celeba", *[ramp(178, 218)] * 4)
    (place / "img_align_celeba" / "000003.png").write_bytes(b"no image")
    found = images.load(CELEBA)
    assert found[:3].shape == (3, 3, 64, 64) and found[3:3].shape == (0, 3, 64, 64)
    with pytest.raises(UserError, match=r"000003\.png is no image that can be read"):
        found[2:4]


def test_bad_folders(place):
    refused(CELEBA, r"img_align_celeba is no folder with images; put those of CelebA there or set FEWSTEP_IMAGES")
    write(place / "img_align_celeba", ramp(178, 200))
    refused(CELEBA, "is 178×200 pixels; aligned CelebA images are 178×218")
    write(place / "church_outdoor_train", ramp(300, 40))
    refused(CHURCH, "is 300×40 pixels; at least 64×64 is needed")
    write(place / "celebahq", ramp(32, 32), ramp(32, 30))
    refused(Preprocessing(dataset="CelebA-HQ"), "is 32×30 pixels; 32×32, the size of the first image, is needed")
    refused(Preprocessing(dataset="celeba"), r"unknown image set 'celeba'; did you mean CelebA")


def test_cifar10_comes_from_where_cifar10_is(monkeypatch, tmp_path):
    from test_data import write_folders

    pixels = write_folders(tmp_path)
    monkeypatch.setenv("FEWSTEP_DATA", str(tmp_path))
    found = images.load(Preprocessing(dataset="CIFAR-10"))
    assert found.dtype == torch.uint8 and len(found) == pixels.shape[0] * pixels.shape[1]


class Pixels(torch.nn.Module):
    """Features that are the pixels of the first row."""

    sha256 = "0" * 64

    def __init__(self):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(()))

    def forward(self, found):
        return found[:, 0, 0].double()


def test_statistics_of_a_set_are_those_of_its_images(place):
    """In batches or in memory: the same hash, mean and covariance, and the same file in the cache."""
    random = np.random.default_rng(0)
    write(place / "celebahq", *random.integers(0, 256, (7, 16, 16, 3), dtype=np.uint8))
    lazy = images.load(Preprocessing(dataset="CelebA-HQ"))
    one = inception.statistics(lazy, Pixels(), batch=3, cache=place / "cache")
    two = inception.statistics(lazy[:], Pixels(), batch=7, cache=place / "cache")
    assert one.source == two.source and one.n == two.n == 7 and len(list((place / "cache").iterdir())) == 1
    rows = lazy[:][:, 0, 0].double().numpy()
    np.testing.assert_allclose(one.mu, rows.mean(0), rtol=1e-13)
    np.testing.assert_allclose(one.sigma, np.cov(rows, rowvar=False), rtol=1e-9, atol=1e-9)


def test_the_distance_of_few_images_is_that_within_their_span():
    r"""Both covariances of rank 4 and 2 in 300 dimensions, against the same formula without a basis.

    The plain formula takes roots of the product's 294 zero eigenvalues, which rounding leaves at about
    ε‖C₁C₂‖: it errs by up to 300 √ε ‖·‖^{1/2} ≈ 1e-5 of the distance.
    """
    random = np.random.default_rng(3)
    rows = [random.standard_normal((n, 300)) + shift for n, shift in ((5, 0.0), (3, 0.4))]
    a, b = (inception.Statistics(r.mean(0), np.cov(r, rowvar=False), len(r), "") for r in rows)
    plain = inception.frechet_distance(a._replace(n=None), b._replace(n=None))
    assert inception.frechet_distance(a, b) == pytest.approx(plain, rel=1e-5)
    assert inception._span(a, b).shape[1] == 9 and inception._span(a._replace(n=None), b) is None


def test_a_folder_of_images_as_they_are(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (3, 16, 12, 3), dtype=np.uint8)
    (tmp_path / "b").mkdir()
    for pixels, name in zip(colours, ("b/1.png", "a.png", "c.png"), strict=True):
        Image.fromarray(pixels).save(tmp_path / name)
    found = images.folder(tmp_path)[:]
    np.testing.assert_array_equal(found.permute(0, 2, 3, 1).numpy(), colours[[1, 0, 2]])
    Image.new("RGB", (8, 16)).save(tmp_path / "d.png")
    with pytest.raises(UserError, match=r"d\.png is 8×16 pixels; 12×16, the size of the first image, is needed"):
        images.folder(tmp_path)[:]
    (tmp_path / "d.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"d\.png is no image that can be read"):
        images.folder(tmp_path)[:]
    with pytest.raises(UserError, match="none is no folder with images, in a format"):
        images.folder(tmp_path / "none")


def annotated(place, content):
    path = place / images.CAPTIONS
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_captions_are_the_last_of_each_image_in_the_order_of_the_images(place):
    texts = [(7, "a"), (3, " b "), (7, "c\n"), (5, "d"), (3, "e")]
    given = {"images": [{"id": i} for i in (5, 7, 3)]}
    given["annotations"] = [{"image_id": image, "caption": caption} for image, caption in texts]
    annotated(place, given)
    assert images.captions(3) == ["d", "c", "e"] and images.captions(1) == ["d"]
    with pytest.raises(UserError, match="has captions of 3 images, 4 are needed"):
        images.captions(4)


@pytest.mark.parametrize("content", ["{", "[]", '{"images": []}', '{"images": [{"id": 1}], "annotations": []}'])
def test_annotations_that_are_no_captions(place, content):
    with pytest.raises(UserError, match=r"captions_val2014\.json are missing; put COCO's annotations of 2014 there"):
        images.captions(1)
    annotated(place, content)
    with pytest.raises(UserError, match=r"captions_val2014\.json is not COCO's file of captions"):
        images.captions(1)


def test_small_images_of_coco_are_enlarged(place):
    write(place / "val2014", ramp(60, 40), suffix=".jpg")
    how = Preprocessing(dataset="COCO", resize=64, enlarge=True)
    assert images.load(how).shape == (1, 3, 64, 64)
    refused(how.model_copy(update={"enlarge": False}), "is 60×40 pixels; at least 64×64 is needed")
