from dataclasses import replace

import pytest
import torch

from augmint.errors import AugmintError
from augmint.segmentation.augmentation import Augmentation
from augmint.segmentation.randomisation import Randomisation, randomise, randomise_some

STILL = Randomisation(warp=Augmentation())
# Flat intensities and no acquisition: every region shows its mean.
FLAT = Randomisation(
    std=(0.0, 0.0),
    bias=(0.0, 0.0),
    warp=Augmentation(),
    acquisition=Augmentation(),
    noise=Augmentation(),
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def masks(*spatial, count=4):
    spatial = spatial or (32, 28)
    mask = torch.zeros(count, *spatial, dtype=torch.uint8)
    mask[(slice(None), *[slice(n // 4, n // 2) for n in spatial])] = 1
    mask[(slice(None), *[slice(n // 2, 3 * n // 4) for n in spatial])] = 2
    return mask


def two_tissues(mask):
    """A real image whose background is dark on its left and bright on its right."""
    image = torch.full((len(mask), 1, *mask.shape[1:]), -0.5)
    image[..., mask.shape[-1] // 2 :] = 0.7
    return image + 0.02 * torch.randn(image.shape, generator=generator(9))


@pytest.mark.parametrize("spatial", [(32, 28), (12, 16, 10)])
@pytest.mark.parametrize("real", [False, True])
def test_images_are_finite_in_range_and_fill_it(spatial, real):
    mask = masks(*spatial)
    image = two_tissues(mask) if real else None
    drawn, warped = randomise(mask, generator(), image=image)
    assert drawn.shape == (4, 1, *spatial)
    assert drawn.dtype == torch.float32
    assert warped.shape == mask.shape
    assert warped.dtype == mask.dtype
    assert bool(drawn.isfinite().all())
    assert torch.equal(drawn.amin((1, *range(2, drawn.ndim))), -torch.ones(4))
    assert torch.equal(drawn.amax((1, *range(2, drawn.ndim))), torch.ones(4))


def test_the_same_seed_draws_the_same_and_another_seed_another():
    mask = masks()
    one, two, other = (randomise(mask, generator(s), image=two_tissues(mask)) for s in (3, 3, 4))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert (one[0] - other[0]).abs().mean() > 0.1


def test_samples_of_a_batch_get_their_own_intensities_and_warps():
    drawn, warped = randomise(masks(), generator())
    for i in range(1, 4):
        assert (drawn[0] - drawn[i]).abs().mean() > 0.1
        assert not torch.equal(warped[0], warped[i])


def test_the_inputs_are_left_alone():
    mask = masks()
    image = two_tissues(mask)
    before = mask.clone(), image.clone()
    randomise(mask, generator(), image=image)
    assert torch.equal(mask, before[0])
    assert torch.equal(image, before[1])


def test_without_warp_the_mask_stays_and_each_class_shows_one_intensity():
    mask = masks()
    drawn, same = randomise(mask, generator(), randomisation=FLAT)
    assert torch.equal(same, mask)
    for sample, label in zip(drawn[:, 0], mask):
        for index in (1, 2):
            assert sample[label == index].std() < 1e-6
        assert len(sample[label == 0].unique()) >= 3


def test_the_warped_mask_is_what_the_image_shows():
    """Flat intensities: inside a warped class the image is constant, and another one outside."""
    warped_only = Randomisation(
        std=(0.0, 0.0), bias=(0.0, 0.0), acquisition=Augmentation(), noise=Augmentation()
    )
    mask = masks()
    drawn, warped = randomise(mask, generator(), randomisation=warped_only)
    assert all(not torch.equal(old, new) for old, new in zip(mask, warped))
    for sample, label in zip(drawn[:, 0], warped):
        assert sample[label == 1].std() < 1e-6
        assert sample[label == 2].std() < 1e-6


def test_intensities_tell_nothing_of_the_class():
    """Over many draws a class is as often brighter as darker than another."""
    mask = masks(16, 16, count=400)
    drawn, _ = randomise(mask, generator(), randomisation=FLAT)
    one, two = (drawn[:, 0][mask == index].reshape(400, -1).mean(1) for index in (1, 2))
    assert 0.42 < float((one > two).float().mean()) < 0.58


def test_the_background_follows_the_tissues_of_the_real_image():
    mask = masks(count=30)
    two = Randomisation(
        background_classes=(2, 2),
        std=(0.0, 0.0),
        bias=(0.0, 0.0),
        warp=Augmentation(),
        acquisition=Augmentation(),
        noise=Augmentation(),
    )
    drawn, _ = randomise(mask, generator(), image=two_tissues(mask), randomisation=two)
    divided = 0
    for sample, label in zip(drawn[:, 0], mask):
        left, right = label.clone() == 0, label.clone() == 0
        left[:, 14:], right[:, :14] = False, False
        halves = sample[left], sample[right]
        divided += all(half.std() < 1e-6 for half in halves) and bool(
            (halves[0][0] - halves[1][0]).abs() > 1e-3
        )
    # Centres that both start in one tissue may end there; most do not.
    assert divided > 20


def test_the_image_lends_nothing_but_the_shapes_of_its_background():
    """Other intensities of the same tissues, and any intensities under the mask: the same draw."""
    mask = masks()
    image = two_tissues(mask)
    other = torch.where(mask[:, None] > 0, torch.rand(image.shape, generator=generator(5)), image)
    one = randomise(mask, generator(), image=image)
    two = randomise(mask, generator(), image=other)
    assert torch.equal(one[0], two[0])
    scaled = randomise(mask, generator(), image=image * 0.5)
    assert (one[0] - scaled[0]).abs().mean() < 0.02


def test_channels_have_their_own_intensities():
    drawn, _ = randomise(masks(), generator(), channels=2)
    assert drawn.shape[1] == 2
    assert (drawn[:, 0] - drawn[:, 1]).abs().mean() > 0.1


@pytest.mark.parametrize("change", ["std", "bias", "acquisition", "noise"])
def test_each_part_of_the_acquisition_changes_the_image(change):
    mask = masks()
    value = getattr(Randomisation(), change)
    plain, _ = randomise(mask, generator(), randomisation=FLAT)
    changed, _ = randomise(mask, generator(), randomisation=replace(FLAT, **{change: value}))
    assert (plain - changed).abs().max() > 1e-2


def test_masks_of_one_class_only_are_drawn_too():
    for value in (0, 1):
        mask = torch.full((2, 12, 12), value, dtype=torch.long)
        drawn, same = randomise(mask, generator(), image=torch.zeros(2, 1, 12, 12))
        assert bool(drawn.isfinite().all())
        assert value or not same.any()


def test_some_of_a_batch_by_chance_and_none_without():
    mask = masks(8, 8, count=600)
    image = two_tissues(mask)
    draws = generator()
    same = randomise_some(image, mask, 0.0, draws)
    assert torch.equal(same[0], image)
    assert torch.equal(torch.rand(1, generator=draws), torch.rand(1, generator=generator()))
    new_image, _ = randomise_some(image, mask, 0.3, generator())
    share = (new_image != image).flatten(1).any(1).float().mean()
    assert 0.24 < share < 0.36
    assert not torch.equal(new_image, image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": torch.zeros(8, 8).long()}, "2 or 3 spatial axes"),
        ({"image": torch.zeros(4, 1, 8, 8)}, "do not belong"),
        ({"randomisation": Randomisation(background_classes=(4, 2))}, "in this order"),
        ({"randomisation": Randomisation(background_classes=(0, 2))}, "at least 1"),
    ],
)
def test_impossible_requests_are_refused(arguments, message):
    given = {"mask": masks(), **arguments}
    with pytest.raises(AugmintError, match=message):
        randomise(given.pop("mask"), generator(), **given)
