import json
from dataclasses import dataclass, replace

import pytest
import torch

from augmint.errors import AugmintError
from augmint.presets import preset_named
from augmint.segment import segmenter_config
from augmint.segmentation.augmentation import AUGMENTATIONS, augment, augment_views
from augmint.segmentation.loss import dice_ce
from augmint.segmentation.mixing import Mixing, mixed_loss, partners, patch_mask
from augmint.segmentation.samples import Stock, draw_pairs, draw_samples
from augmint.segmentation.training import SegmenterConfig, fit_segmenter, step_generator

TINY = SegmenterConfig(
    width=8, steps=6, batch_size=2, warmup=2, save_every=3, validate_every=2, precision="fp32"
)
TWO_VIEWS = ("image", "logit", "loss")


@dataclass(frozen=True)
class Samples:
    images: torch.Tensor
    masks: torch.Tensor
    annotated: tuple[frozenset[int], ...]
    patient_ids: tuple[str, ...]
    source_ids: tuple[str, ...] = ()


def toy(count=2, *, size=32, shift=0):
    """Noisy images of a bright square (1) and a dark bar (2), elsewhere in each."""
    generator = torch.Generator().manual_seed(shift)
    masks = torch.zeros(count, size, size, dtype=torch.uint8)
    for i in range(count):
        top = 4 + (7 * i + shift) % 12
        masks[i, top : top + 9, 4:14] = 1
        masks[i, top : top + 12, 20:26] = 2
    levels = torch.tensor([0.0, 0.6, -0.7])
    noise = 0.1 * torch.randn(count, 1, size, size, generator=generator)
    names = tuple(f"p{i}" for i in range(count))
    images = (levels[masks.long()][:, None] + noise).half()
    return Samples(images, masks, (frozenset({1, 2}),) * count, names, names)


def copies_of(real, sources, level=0.0):
    """Other images on the masks of some real samples."""
    return Samples(
        -real.images[sources] + level,
        real.masks[sources],
        tuple(real.annotated[i] for i in sources),
        tuple(real.patient_ids[i] for i in sources),
        tuple(real.source_ids[i] for i in sources),
    )


def same_weights(one, two):
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters()))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class InterruptionError(Exception):
    pass


# --- patches


def test_patches_are_squares_of_their_side_and_cut_at_the_far_end():
    real = patch_mask(3, (40, 20), 16, 0.5, seeded(0))
    assert real.shape == (3, 1, 40, 20)
    for sample in real[:, 0]:
        for top in (0, 16, 32):
            for left in (0, 16):
                assert len(sample[top : top + 16, left : left + 16].unique()) == 1
    assert len({tuple(s.flatten().tolist()) for s in real}) > 1  # each sample has its own


def test_neighbouring_patches_are_drawn_apart():
    real = patch_mask(200, (16, 16), 8, 0.5, seeded(0))[:, 0, ::8, ::8].flatten(1).float()
    assert len(real.unique(dim=0)) == 16
    assert patch_mask(1, (4, 6, 5), 2, 0.5, seeded(1)).shape == (1, 1, 4, 6, 5)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 1.0])
def test_lambda_is_the_share_of_real_patches(share):
    real = patch_mask(40, (64, 64), 4, share, seeded(2))
    assert float(real.float().mean()) == pytest.approx(share, abs=0.02 if 0 < share < 1 else 0)


def test_patches_as_large_as_the_image_choose_between_whole_samples():
    real = patch_mask(50, (12, 16), 16, 0.5, seeded(3)).flatten(1)
    assert bool((real.all(1) | ~real.any(1)).all())
    assert 0 < int(real.all(1).sum()) < 50


# --- the loss


def views_of(count=3):
    generator = seeded(7)
    first, second = (torch.randn(count, 1, 16, 16, generator=generator) for _ in range(2))
    mask = torch.randint(0, 3, (count, 16, 16), generator=generator)
    return first, second, mask, torch.ones(count, 3, dtype=torch.bool)


def forward(image):
    """A small network that is not linear and looks at one pixel at a time."""
    return torch.cat([image, image.sin() * 3, image**2 - 1], 1)


@pytest.mark.parametrize("mode", TWO_VIEWS)
def test_lambda_1_is_the_real_loss_and_0_the_synthetic_one(mode):
    first, second, mask, known = views_of()
    for share, view in ((1.0, first), (0.0, second)):
        loss = mixed_loss(forward, [first, second], mask, known, Mixing(mode, share, 4), seeded(0))
        torch.testing.assert_close(loss, dice_ce(forward(view), mask, known), rtol=0, atol=0)


def test_averaged_losses_are_weighted_by_lambda():
    first, second, mask, known = views_of()
    loss = mixed_loss(forward, [first, second], mask, known, Mixing("loss", 0.3, 4), seeded(0))
    ours, theirs = (dice_ce(forward(v), mask, known) for v in (first, second))
    torch.testing.assert_close(loss, 0.3 * ours + 0.7 * theirs)


@pytest.mark.parametrize(("mode", "passes"), [("image", 1), ("logit", 2), ("loss", 2)])
def test_what_passes_through_the_network(mode, passes):
    first, second, mask, known = views_of()
    seen = []

    def watched(image):
        seen.append(image)
        return forward(image)

    mixed_loss(watched, [first, second], mask, known, Mixing(mode, 0.5, 4), seeded(0))
    assert len(seen) == passes
    if mode == "image":
        real = patch_mask(3, (16, 16), 4, 0.5, seeded(0))
        assert torch.equal(seen[0][real], first[real])
        assert torch.equal(seen[0][~real], second[~real])
        assert bool(real.any() and (~real).any())
    else:
        assert torch.equal(seen[0], first)
        assert torch.equal(seen[1], second)


def test_mixed_logits_are_those_of_either_pass():
    """A network that sees one pixel cannot tell mixed logits from those of a mixed image."""
    first, second, mask, known = views_of()
    one, other = (
        mixed_loss(forward, [first, second], mask, known, Mixing(m, 0.5, 4), seeded(0))
        for m in ("image", "logit")
    )
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_both_passes_teach():
    first, second, mask, known = views_of()
    for mode in ("logit", "loss"):
        views = [first.clone().requires_grad_(), second.clone().requires_grad_()]
        mixed_loss(forward, views, mask, known, Mixing(mode, 0.5, 4), seeded(0)).backward()
        assert all(float(v.grad.abs().sum()) > 0 for v in views)


# --- augmentation


def test_both_views_move_alike_and_are_tinted_apart():
    mask = toy(4).masks.long()
    image = mask[:, None].float() / 2 - 0.5
    moves = replace(
        AUGMENTATIONS["none"], rotation_p=1.0, scaling_p=1.0, translation_p=1.0, mirror_p=0.5,
        deformation_p=1.0,
    )  # fmt: skip
    (one, other), moved = augment_views([image, image], mask, moves, seeded(4))
    assert torch.equal(one, other)
    assert not torch.equal(one, image)
    assert not torch.equal(moved, mask)
    # The mask moved with them: the second class is brightest.
    for sample, labels in zip(one[:, 0], moved):
        assert float(sample[labels == 2].mean()) > 0.2 > float(sample[labels == 1].mean())
    tint = AUGMENTATIONS["gamma"]
    (one, other), still = augment_views([image, image], mask, replace(tint, gamma_p=1), seeded(4))
    assert torch.equal(still, mask)
    assert not torch.equal(one, other)
    assert not torch.equal(one, image)


def test_one_view_is_augmented_as_ever():
    data = toy(4)
    image, mask = data.images.float(), data.masks.long()
    strong = AUGMENTATIONS["strong"]
    (one,), moved = augment_views([image], mask, strong, seeded(5))
    alone, mask_alone = augment(image, mask, strong, seeded(5))
    assert torch.equal(one, alone)
    assert torch.equal(moved, mask_alone)


# --- pairs


def test_partners_share_their_source_and_its_mask():
    real = toy(3)
    assert partners(real, copies_of(real, [2, 0, 2])) == [[1], [], [0, 2]]
    assert partners(real, None) == [[], [], []]


def test_a_warped_mask_and_a_source_elsewhere_are_refused():
    real = toy(3)
    made = copies_of(real, [0, 1, 2])
    warped = replace(made, masks=torch.stack([made.masks[0], made.masks[1], made.masks[2].T]))
    with pytest.raises(AugmintError, match=r"1 of 3 .*another mask.*'p2'.*reference_shift"):
        partners(real, warped)
    with pytest.raises(AugmintError, match=r"1 of 3 .*not trained on.*'q'.*mix to sample"):
        partners(real, replace(made, source_ids=("p0", "q", "p2")))


def test_pairs_are_the_real_samples_of_a_real_fit_with_a_copy_of_each():
    real = toy(3)
    made = copies_of(real, [0, 1, 0])
    made.images[2] += 1
    stocks = [Stock(s, 3, "cpu") for s in (real, made)]
    found = set()
    for step in range(30):
        (first, second), mask, known = draw_pairs(
            stocks, partners(real, made), 4, step_generator(0, step)
        )
        (alone,), alone_mask, _ = draw_samples(stocks[:1], 4, 0.5, step_generator(0, step))
        assert torch.equal(first, alone)
        assert torch.equal(mask, alone_mask)
        assert bool(known.all())
        for one, other in zip(first, second):
            i = next(k for k in range(3) if torch.equal(one, real.images[k].float()))
            own = {0: [0, 2], 1: [1], 2: []}[i]
            if own:
                (j,) = [k for k in own if torch.equal(other, made.images[k].float())]
                found.add(j)
            else:
                assert torch.equal(one, other)
    assert found == {0, 1, 2}


# --- the fit


@pytest.mark.parametrize(
    ("fields", "loss"),
    [
        ({}, 0.9428132772445679),
        ({"augmentation": "bigaug", "randomisation_probability": 0.3}, 0.949700117111206),
        ({"augmentation": "deepstack", "synthetic_probability": 0.2}, 0.9532774686813354),
        ({"augmentation": "deepstack", "mix_lambda": 0.8}, 0.9532774686813354),
    ],
)
def test_without_mixing_fits_are_what_they_were(tmp_path, fields, loss):
    """Losses of before there was any mixing."""
    fit_segmenter(replace(TINY, **fields), toy(), toy(3, shift=5), num_classes=3, folder=tmp_path)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["loss"] == pytest.approx(loss, rel=1e-5)


def test_mixing_changes_what_is_learnt_and_modes_differ():
    real = toy()
    made = copies_of(real, [0, 1])
    fits = [
        fit_segmenter(replace(TINY, steps=3, mix=mix), real, made, num_classes=3)
        for mix in ("sample", *TWO_VIEWS)
    ]
    for i, one in enumerate(fits):
        assert not any(same_weights(one, other) for other in fits[:i])


def test_lambda_1_on_images_is_a_fit_on_real_samples():
    """Without augmentation: views take draws of their own there."""
    real = toy()
    config = replace(TINY, steps=3, augmentation="none")
    alone = fit_segmenter(config, real, num_classes=3)
    mixed = replace(config, mix="image", mix_lambda=1.0)
    assert same_weights(alone, fit_segmenter(mixed, real, copies_of(real, [0, 1]), num_classes=3))
    other = replace(config, mix="image", mix_lambda=0.0)
    assert same_weights(
        fit_segmenter(other, real, copies_of(real, [0, 1]), num_classes=3),
        fit_segmenter(config, copies_of(real, [0, 1]), num_classes=3),
    )


def test_the_control_mixes_real_images_and_needs_no_synthetic_one():
    real = toy()
    config = replace(TINY, steps=3, mix="logit", mix_with="augmented", augmentation="gamma")
    alone = fit_segmenter(config, real, num_classes=3)
    assert same_weights(alone, fit_segmenter(config, real, copies_of(real, [0, 1]), num_classes=3))
    one_view = replace(config, mix="sample", mix_with="synthetic")
    assert not same_weights(alone, fit_segmenter(one_view, real, num_classes=3))


@pytest.mark.parametrize("mode", TWO_VIEWS)
def test_an_interrupted_fit_continues_exactly(tmp_path, mode):
    real = toy()
    made = copies_of(real, [0, 1, 1], level=0.2)
    config = replace(TINY, mix=mode, patch=8)
    whole = fit_segmenter(config, real, made, num_classes=3)

    def stop(done):
        if done == 4:
            raise InterruptionError

    with pytest.raises(InterruptionError):
        fit_segmenter(config, real, made, num_classes=3, folder=tmp_path, progress=stop)
    resumed = fit_segmenter(config, real, made, num_classes=3, folder=tmp_path, resume=True)
    assert same_weights(whole, resumed)
    with pytest.raises(AugmintError, match="another configuration"):
        fit_segmenter(
            replace(config, patch=4), real, made, num_classes=3, folder=tmp_path, resume=True
        )


def test_volumes_are_mixed_too():
    image = torch.randn(2, 1, 8, 8, 8, generator=seeded(0))
    masks = (image[:, 0] > 0).long()
    real = Samples(image, masks, (frozenset({1}),) * 2, ("a", "b"), ("a", "b"))
    config = replace(TINY, steps=2, mix="logit", patch=4)
    assert fit_segmenter(config, real, copies_of(real, [1, 0]), num_classes=2) is not None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mix": "image"}, "mixing needs synthetic cases"),
        ({"mix": "image", "mix_lambda": 1.2}, "mix_lambda"),
        ({"patch": 0}, "at least 1 pixel"),
        ({"mix_with": "augmented"}, "set mix to image, logit or loss"),
        (
            {"mix": "loss", "mix_with": "augmented", "randomisation_probability": 0.5},
            "randomisation_probability to 0",
        ),
    ],
)
def test_what_cannot_be_mixed_is_refused(fields, message):
    with pytest.raises(AugmintError, match=message):
        fit_segmenter(replace(TINY, **fields), toy(), num_classes=3)


def test_settings_are_read_and_checked_before_anything_is_fitted():
    tiny = preset_named("tiny")
    config = segmenter_config(tiny, 2, 0, {"mix": "logit", "mix_lambda": "0.6", "patch": "32"})
    assert config.mixing == Mixing("logit", 0.6, 32)
    assert segmenter_config(tiny, 2, 0, {}).mixing is None
    with pytest.raises(AugmintError, match="field mix cannot be 'pixels'"):
        segmenter_config(tiny, 2, 0, {"mix": "pixels"})
    with pytest.raises(AugmintError, match="mix_lambda"):
        segmenter_config(tiny, 2, 0, {"mix_lambda": -1})
