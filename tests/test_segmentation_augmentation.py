from dataclasses import asdict, replace

import pytest
import torch

from augmint.errors import AugmintError
from augmint.segmentation.augmentation import (
    AUGMENTATIONS,
    SINGLES,
    Augmentation,
    augment,
    named_augmentation,
)

GEOMETRY = ["rotation_p", "scaling_p", "translation_p", "deformation_p", "mirror_p"]
INTENSITY = [
    "sharpness_p",
    "shift_p",
    "perturbation_p",
    "noise_p",
    "blur_p",
    "brightness_p",
    "contrast_p",
    "low_resolution_p",
    "inverted_gamma_p",
    "gamma_p",
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(*spatial, count=4, channels=1):
    """Smooth images in [-1, 1] with an off-centre block as the mask."""
    spatial = spatial or (24, 20)
    coarse = torch.rand(count, channels, *[n // 4 for n in spatial], generator=generator(7))
    mode = "bilinear" if len(spatial) == 2 else "trilinear"
    image = torch.nn.functional.interpolate(coarse, size=spatial, mode=mode) * 1.6 - 0.8
    mask = torch.zeros(count, *spatial, dtype=torch.long)
    mask[(slice(None), *[slice(n // 4, n // 2 + 1) for n in spatial])] = 1
    return image, mask


def only(name, p=1.0):
    return replace(Augmentation(), **{name: p})


@pytest.mark.parametrize("spatial", [(24, 20), (12, 10, 8)])
@pytest.mark.parametrize("name", GEOMETRY + INTENSITY)
def test_each_step_changes_every_image(name, spatial):
    image, mask = batch(*spatial)
    new_image, new_mask = augment(image, mask, only(name), generator())
    assert new_image.shape == image.shape
    assert new_mask.shape == mask.shape
    assert new_mask.dtype == mask.dtype
    for old, new in zip(image, new_image):
        assert (old - new).abs().max() > 1e-4


@pytest.mark.parametrize("name", INTENSITY)
def test_intensity_steps_leave_the_mask(name):
    image, mask = batch()
    assert torch.equal(augment(image, mask, only(name), generator())[1], mask)


@pytest.mark.parametrize("spatial", [(24, 20), (14, 12, 10)])
@pytest.mark.parametrize("name", GEOMETRY)
def test_geometry_keeps_image_and_mask_registered(name, spatial):
    _, mask = batch(*spatial)
    image = mask[:, None].float() * 2 - 1
    far = replace(only(name), translation=0.2)
    new_image, new_mask = augment(image, mask, far, generator(1))
    assert not torch.equal(new_mask, mask)
    # Where the interpolated image is pure, the mask must agree; at edges the two may round apart.
    agree = (new_image[:, 0] > 0) == (new_mask == 1)
    interior = new_image[:, 0].abs() > 0.999
    assert interior.float().mean() > 0.5
    assert bool(agree[interior].all())
    assert agree.float().mean() > 0.9


def test_scaling_above_one_enlarges_by_its_square():
    mask = torch.zeros(1, 64, 64, dtype=torch.long)
    mask[:, 24:40, 24:40] = 1
    grow = replace(only("scaling_p"), scaling=(1.5, 1.5))
    _, new = augment(torch.zeros(1, 1, 64, 64), mask, grow, generator())
    assert int(new.sum()) == (16 * 3 // 2) ** 2


def test_rotation_keeps_shapes_on_an_anisotropic_grid():
    """A disc in mm stays that disc when its grid has voxels twice as long along one axis."""
    y, x = torch.meshgrid(torch.arange(20) * 2 - 19.0, torch.arange(40) - 19.5, indexing="ij")
    disc = ((y**2 + x**2) < 12**2).long()[None]
    turn = only("rotation_p")
    for seed in range(3):
        _, right = augment(disc[:, None].float(), disc, turn, generator(seed), spacing=(2.0, 1.0))
        assert (right != disc).float().mean() < 0.03
    _, wrong = augment(disc[:, None].float(), disc, turn, generator(0))
    assert (wrong != disc).float().mean() > 0.1


def test_samples_have_their_own_draws():
    image, mask = batch(count=1)
    image, mask = image.repeat(3, 1, 1, 1), mask.repeat(3, 1, 1)
    new_image, _ = augment(image, mask, only("rotation_p"), generator())
    assert not torch.allclose(new_image[0], new_image[1], atol=1e-2)
    assert not torch.allclose(new_image[1], new_image[2], atol=1e-2)


def test_probability_is_the_share_of_changed_samples():
    image, mask = batch(8, 8, count=2000)
    new_image, _ = augment(image, mask, only("brightness_p", 0.3), generator())
    changed = (new_image != image).flatten(1).any(1).float().mean()
    assert 0.26 < changed < 0.34  # three standard errors


@pytest.mark.parametrize("spatial", [(24, 20), (12, 10, 8)])
def test_same_seed_same_batch_and_another_seed_another(spatial):
    image, mask = batch(*spatial, channels=2)
    strong = AUGMENTATIONS["strong"]
    one, two, other = (augment(image, mask, strong, generator(s)) for s in (3, 3, 4))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])
    assert not torch.equal(one[0], other[0])


def test_none_changes_nothing_and_inputs_are_left_alone():
    image, mask = batch()
    before = image.clone(), mask.clone()
    same = augment(image, mask, AUGMENTATIONS["none"], generator())
    assert torch.equal(same[0], image)
    assert torch.equal(same[1], mask)
    augment(image, mask, AUGMENTATIONS["strong"], generator())
    assert torch.equal(image, before[0])
    assert torch.equal(mask, before[1])


def test_values_stay_in_range_and_finite_also_for_flat_images():
    mask = torch.zeros(4, 8, 8, dtype=torch.long)
    every = Augmentation(**dict.fromkeys(GEOMETRY + INTENSITY, 1.0))
    for value in (-1.0, 0.0, 1.0):
        image, _ = augment(torch.full((4, 1, 8, 8), value), mask, every, generator())
        assert bool(image.isfinite().all())
        assert image.abs().max() <= 1.5


GEOMETRIC_SINGLES = {"mirror", "rotation", "scaling"}


def certain(preset):
    """The preset with every chance that it has made one."""
    chances = {k: 1.0 for k, v in asdict(preset).items() if k.endswith("_p") and v > 0}
    return replace(preset, **chances)


@pytest.mark.parametrize("spatial", [(24, 20), (12, 10, 8)])
@pytest.mark.parametrize("name", SINGLES)
def test_a_single_changes_every_image_and_the_mask_only_if_geometric(name, spatial):
    image, mask = batch(*spatial)
    new_image, new_mask = augment(image, mask, certain(AUGMENTATIONS[name]), generator(2))
    assert all((old - new).abs().max() > 1e-3 for old, new in zip(image, new_image))
    changed = [not torch.equal(old, new) for old, new in zip(mask, new_mask)]
    # A factor of size next to 1 may leave a small mask as it is, hence any.
    assert any(changed) == (name in GEOMETRIC_SINGLES)


@pytest.mark.parametrize("name", SINGLES)
def test_a_single_is_one_step_that_half_of_the_samples_get(name):
    active = [k for k, v in asdict(AUGMENTATIONS[name]).items() if k.endswith("_p") and v > 0]
    assert active == [f"{name}_p"]
    image, mask = batch(64, 64, count=400)
    new_image, _ = augment(image, mask, AUGMENTATIONS[name], generator())
    changed = (new_image != image).flatten(1).any(1).float().mean()
    # An axis is flipped with an even chance, so three quarters of the images are.
    assert changed == pytest.approx(0.75 if name == "mirror" else 0.5, abs=0.07)


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("deepstack", {f"{name}_p" for name in SINGLES}),
        (
            "bigaug",
            {
                *("sharpness_p", "blur_p", "noise_p", "shift_p", "gamma_p", "perturbation_p"),
                *("rotation_p", "scaling_p", "deformation_p"),
            },
        ),
    ],
)
def test_a_stack_holds_its_steps_and_differs_from_each_of_them(name, steps):
    stack = AUGMENTATIONS[name]
    assert {k for k, v in asdict(stack).items() if k.endswith("_p") and v > 0} == steps
    image, mask = batch()
    whole = augment(image, mask, certain(stack), generator())[0]
    for step in steps:
        without = replace(certain(stack), **{step: 0.0})
        assert (augment(image, mask, without, generator())[0] - whole).abs().max() > 1e-3


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_preset_but_none_changes_images(name):
    image, mask = batch(count=16)
    new_image, _ = augment(image, mask, AUGMENTATIONS[name], generator())
    assert torch.equal(new_image, image) == (name == "none")


def test_the_draws_of_strong_stay_as_they_were():
    """Arms of a study are compared across versions; the last value counts every draw before it."""
    expected = {
        (24, 20): [(-0.11092, 252, 0.001236), (-0.11611, 255, 0.751676)],
        (12, 10, 8): [(-0.08879, 293, 0.857936), (-0.01593, 290, 0.863884)],
    }
    for spatial, values in expected.items():
        for seed, (mean, foreground, following) in enumerate(values):
            image, mask = batch(*spatial, count=6, channels=2)
            draws = generator(seed)
            spacing = [1.0, 2.0, 1.5][: len(spatial)]
            new = augment(image, mask, AUGMENTATIONS["strong"], draws, spacing=spacing)
            assert float(new[0].mean()) == pytest.approx(mean, abs=2e-5)
            assert int(new[1].sum()) == foreground
            assert float(torch.rand(1, generator=draws)) == pytest.approx(following, abs=1e-6)


def test_sharpening_overshoots_at_an_edge_and_leaves_flat_parts():
    image = torch.full((50, 1, 16, 32), -0.2)
    image[..., 16:] = 0.2
    sharp, _ = augment(image, image[:, 0].long(), only("sharpness_p"), generator())
    assert float(sharp.amax((1, 2, 3)).mean()) > 0.6
    assert float(sharp.amin((1, 2, 3)).mean()) < -0.6
    assert torch.allclose(sharp[..., :4], image[..., :4], atol=1e-5)


def test_deformation_moves_by_the_pixels_asked_for():
    """On a ramp along one axis the change of value is the displacement along it."""
    ramp = torch.linspace(-1, 1, 64).expand(200, 1, 64, 64)
    elastic = replace(only("deformation_p"), deformation_px=(2.0, 2.0))
    moved, _ = augment(ramp, ramp[:, 0].long(), elastic, generator())
    inside = (moved - ramp)[..., 8:-8, 8:-8] / (2 / 63)
    # Interpolation between points averages them: the spread lies below that of the points.
    assert 1.0 < float(inside.std()) < 2.0
    assert float(inside.mean().abs()) < 0.2


def test_weak_never_mirrors():
    assert AUGMENTATIONS["weak"].mirror_p == 0


def test_an_unknown_preset_is_refused():
    with pytest.raises(AugmintError, match="none, weak, strong"):
        named_augmentation("heavy")
