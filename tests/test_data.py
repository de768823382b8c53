"""Datasets: what the digits are, and that the 8-bit quantisation is the one it says."""

import pytest
import torch

from fewstep import data
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
