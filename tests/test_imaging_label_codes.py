"""Label maps as channels, and back."""

from typing import get_args

import pytest
import torch

from augmint.imaging.label_codes import REACH, Coding, code_channels, decode, encode

CODINGS = get_args(Coding)


def maps(num_classes, shape=(12, 10), seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(num_classes, (3, *shape), generator=generator)


@pytest.mark.parametrize("num_classes", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("shape", [(12, 10), (6, 5, 4)])
def test_what_is_encoded_comes_back(coding, num_classes, shape):
    masks = maps(num_classes, shape)
    coded = encode(masks, num_classes, coding)
    assert coded.shape == (3, code_channels(coding, num_classes), *shape)
    assert coded.dtype == torch.float32
    assert float(coded.abs().max()) <= 1
    assert torch.equal(decode(coded, num_classes, coding), masks)


@pytest.mark.parametrize("coding", CODINGS)
def test_it_comes_back_through_noise_below_the_least_distance(coding):
    masks = maps(4)
    noise = torch.rand(3, code_channels(coding, 4), 12, 10) - 0.5
    least = 0.5 / REACH if coding == "signed_distance" else 1.0
    assert torch.equal(decode(encode(masks, 4, coding) + 1.9 * least * noise, 4, coding), masks)


def test_channels_by_hand():
    assert [code_channels("analog_bits", n) for n in (2, 3, 4, 5, 8, 9)] == [1, 2, 2, 3, 3, 4]
    assert encode(torch.tensor([[0, 1, 2, 3]]), 4, "analog_bits").tolist() == [
        [[-1, 1, -1, 1], [-1, -1, 1, 1]]
    ]
    assert encode(torch.tensor([[0, 2]]), 3, "one_hot").tolist() == [[[1, -1], [-1, -1], [-1, 1]]]


def test_distances_by_hand():
    row = torch.tensor([[[0, 0, 1, 1, 1]]])
    (inside,) = encode(row, 2, "signed_distance")[0]
    assert (inside * REACH).tolist() == [[-1.5, -0.5, 0.5, 1.5, 2.5]]
    far = encode(torch.tensor([[[0] * 30 + [1]]]), 2, "signed_distance")
    assert float(far.min()) == -1


def test_a_class_that_is_absent_or_everywhere_has_no_border():
    nothing, everything = torch.zeros(1, 4, 4).long(), torch.ones(1, 4, 4).long()
    assert (encode(nothing, 2, "signed_distance") == -1).all()
    assert (encode(everything, 2, "signed_distance") == 1).all()


def test_bits_that_spell_no_class_become_the_nearest():
    # Of three classes 0, 1 and 2 none is spelled (1, 1); the weaker bit gives way.
    coded = torch.tensor([[[[0.9, 0.2]], [[0.2, 0.9]]]])
    assert decode(coded, 3, "analog_bits").tolist() == [[[1, 2]]]
