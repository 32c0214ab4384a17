import pytest
import torch

from augmint.data.dataset import open_dataset
from augmint.errors import AugmintError
from augmint.imaging.edges import LARGEST_SHARE, image_edges, mask_edges
from augmint.imaging.gradients import dilated, recorded


def grid(*shape):
    return torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij")


def disc(side=48, radius=12.0, inside=0.4, outside=-0.4):
    rows, columns = grid(side, side)
    soft = torch.sigmoid(2 * (radius - (rows - side / 2).hypot(columns - side / 2)))
    return (outside + (inside - outside) * soft)[None, None]


def fan(side=64):
    """Inside of a fan that opens downwards."""
    rows, columns = grid(side, side)
    off = columns - (side - 1) / 2
    return ((off.abs() < 0.6 * rows) & (rows.hypot(off) < 0.95 * side))[None, None]


def noise(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# Images


def test_the_edge_of_a_disc_is_a_thin_closed_circle_in_its_place():
    edges = image_edges(disc(), sensitivity=1.0)[0, 0]
    rows, columns = edges.nonzero(as_tuple=True)
    radii = (rows - 24.0).hypot(columns - 24.0)
    assert float((radii - 12).abs().max()) < 1.5
    angles = torch.atan2(rows - 24.0, columns - 24.0).sort().values
    assert float(angles.diff().max()) < 0.3
    assert len(rows) < 1.6 * 2 * torch.pi * 12


@pytest.mark.parametrize("sensitivity", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(2, 1, 40, 48), (1, 2, 33, 32), (1, 1, 18, 20, 16)])
def test_at_most_a_tenth_of_the_pixels_is_edge_whatever_the_image(shape, sensitivity):
    edges = image_edges((0.4 * noise(shape)).clamp(-1, 1), sensitivity=sensitivity)
    assert edges.shape == (shape[0], 1, *shape[2:])
    assert set(edges.unique().tolist()) <= {0.0, 1.0}
    assert bool((edges.flatten(1).mean(1) <= sensitivity * LARGEST_SHARE + 1e-6).all())
    assert bool(edges.any()) == (sensitivity > 0)


def test_more_sensitivity_gives_more_edges():
    images = (0.4 * noise((1, 1, 64, 64))).clamp(-1, 1)
    counts = [float(image_edges(images, sensitivity=s).sum()) for s in (0.2, 0.5, 1.0)]
    assert counts == sorted(set(counts))


def test_contrast_and_brightness_do_not_move_edges():
    images = disc() + 0.02 * noise((1, 1, 48, 48))
    assert torch.equal(image_edges(images), image_edges(0.3 * images + 0.2))


def test_noise_adds_few_edges_away_from_the_disc():
    near = dilated(image_edges(disc(96, 24.0), sensitivity=0.3), times=2)
    noisy = image_edges(disc(96, 24.0) + 0.05 * noise((1, 1, 96, 96)), sensitivity=0.3)
    assert float((noisy * near).sum()) > 0.8 * float(noisy.sum())


def test_an_image_without_change_has_no_edges():
    assert not bool(image_edges(torch.full((1, 1, 16, 16), -1.0)).any())
    assert not bool(image_edges(torch.full((1, 1, 16, 16), 0.3)).any())


def test_the_border_of_a_fan_takes_no_pixels_from_what_lies_inside():
    inside = fan()
    tissue = 0.1 + 0.25 * noise((1, 1, 64, 64))
    images = torch.where(inside, tissue.clamp(-0.9, 0.9), -1.0)
    dim = torch.where(inside, (0.1 * tissue - 0.6).clamp(-0.9, 0.9), -1.0)
    core = 1 - dilated((~inside).float(), times=6)
    for sensitivity in (0.5, 1.0):
        bright_border, dim_border = (image_edges(x, sensitivity=sensitivity) for x in (images, dim))
        kept = float((bright_border * core).sum())
        assert kept > 20
        assert abs(float((dim_border * core).sum()) - kept) < 0.2 * kept


def test_the_black_surround_gives_no_room_and_no_edges():
    inside = fan()
    images = torch.where(inside, (0.3 * noise((1, 1, 64, 64))).clamp(-0.9, 0.9), -1.0)
    wide = torch.full((1, 1, 64, 192), -1.0)
    wide[..., 64:128] = images
    edges, padded = image_edges(images, sensitivity=0.5), image_edges(wide, sensitivity=0.5)
    assert not bool((edges * (1 - dilated(inside.float()))).any())
    assert float(padded.sum()) < 1.15 * float(edges.sum())


def test_what_was_recorded_includes_dark_cavities_but_no_surround_nor_specks():
    inside = fan()
    images = torch.where(inside, 0.2, -1.0)
    images[..., 30:40, 28:36] = -1.0
    images[..., 3, 60] = 1.0
    found = recorded(images)
    assert bool(found[..., 30:40, 28:36].all())
    assert not bool(found[..., 3, 60].any())
    assert float((found ^ inside).float().sum()) < 0.02 * float(inside.sum())


def test_edges_of_an_image_do_not_depend_on_its_batch_and_are_the_same_each_time():
    images = (0.4 * noise((3, 1, 32, 32))).clamp(-1, 1)
    together = image_edges(images)
    assert torch.equal(together[1:2], image_edges(images[1:2]))
    assert torch.equal(together, image_edges(images))


def test_the_steepest_channel_counts():
    flat = torch.zeros(1, 1, 48, 48)
    assert torch.equal(image_edges(torch.cat([flat, disc()], 1)), image_edges(disc()))


def test_a_ball_has_a_thin_shell():
    x, y, z = grid(20, 20, 20)
    radius = ((x - 10) ** 2 + (y - 10) ** 2 + (z - 10) ** 2).sqrt()
    ball = 0.4 * torch.tanh(6 - radius)[None, None]
    at = image_edges(ball, sensitivity=1.0)[0, 0].nonzero().float()
    assert len(at) > 200
    assert float(((at - 10).norm(dim=1) - 6).abs().max()) < 1.5


@pytest.mark.parametrize("sensitivity", [-0.1, 1.1, float("nan")])
def test_a_sensitivity_outside_its_range_is_refused(sensitivity):
    with pytest.raises(AugmintError, match="sensitivity"):
        image_edges(disc(), sensitivity=sensitivity)


def test_images_of_another_shape_or_not_finite_are_refused():
    with pytest.raises(AugmintError, match="B, C"):
        image_edges(torch.zeros(8, 8))
    with pytest.raises(AugmintError, match="finite"):
        image_edges(torch.full((1, 1, 8, 8), float("nan")))


def test_edges_of_real_hearts_and_brains_keep_to_their_share(real_data):
    for name in ("Dataset027_ACDC", "Dataset050_CAMUS", "Dataset004_Hippocampus"):
        dataset = open_dataset(real_data / name)
        middle = list(dataset.load(dataset.items[3]).slices())
        image = middle[len(middle) // 2].image[None]
        share = float(image_edges(image).mean())
        assert 0.01 < share <= LARGEST_SHARE, name


# Label maps


def squares():
    masks = torch.zeros(1, 20, 20, dtype=torch.long)
    masks[:, 4:16, 4:10] = 1
    masks[:, 4:16, 10:16] = 2
    return masks


def test_the_border_of_a_square_is_one_pixel_wide_on_either_side():
    masks = torch.zeros(1, 12, 12, dtype=torch.long)
    masks[:, 4:8, 4:8] = 1
    edges = mask_edges(masks, 2)[0, 0]
    wanted = torch.zeros(12, 12)
    wanted[3:9, 3:9] = 1
    wanted[5:7, 5:7] = 0
    for row, column in ((3, 3), (3, 8), (8, 3), (8, 8)):
        wanted[row, column] = 0  # touches the square at a corner alone
    assert torch.equal(edges, wanted)


def test_edges_do_not_depend_on_the_numbers_of_classes():
    masks = squares()
    renumbered = torch.tensor([3, 0, 5])[masks]
    assert torch.equal(mask_edges(masks, 3), mask_edges(renumbered, 6))


def test_every_border_between_classes_is_found_and_nothing_along_the_frame():
    masks = torch.tensor([1, 2, 3]).repeat_interleave(4).expand(1, 8, 12).contiguous()
    edges = mask_edges(masks, 4)[0, 0]
    assert edges[0].tolist() == [0, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0]
    assert bool((edges == edges[0]).all())


def test_borders_of_volumes():
    masks = torch.zeros(2, 8, 8, 8, dtype=torch.long)
    masks[:, :, :, 4:] = 1
    edges = mask_edges(masks, 2)
    assert edges.shape == (2, 1, 8, 8, 8)
    assert edges.sum((0, 1, 2, 3)).tolist() == [0, 0, 0, 128, 128, 0, 0, 0]


@pytest.mark.parametrize(
    ("masks", "match"),
    [
        (torch.zeros(4, 4, dtype=torch.long), "B, "),
        (torch.zeros(1, 4, 4), "class indices"),
        (torch.full((1, 4, 4), 3), "0 to 2, got 3 to 3"),
        (torch.full((1, 4, 4), -1), "0 to 2"),
    ],
)
def test_wrong_masks_are_refused(masks, match):
    with pytest.raises(AugmintError, match=match):
        mask_edges(masks, 3)
