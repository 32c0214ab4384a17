import math
from itertools import product

import numpy as np
import pytest

from augmint.errors import AugmintError
from augmint.evaluation.metrics import dice, score_label


def blank(*shape):
    return np.zeros(shape, bool)


def brute_force(reference, prediction, spacing):
    """Directed surface distances by comparing all pairs of surface voxels."""

    def surface(mask):
        padded = np.pad(mask, 1)
        points = []
        for voxel in np.argwhere(mask):
            for axis in range(mask.ndim):
                for step in (-1, 1):
                    neighbour = voxel + 1
                    neighbour[axis] += step
                    if not padded[tuple(neighbour)]:
                        points.append(tuple(voxel))
        return np.array(sorted(set(points))) * np.asarray(spacing)

    a, b = surface(reference), surface(prediction)
    pairs = np.linalg.norm(a[:, None] - b[None], axis=-1)
    return pairs.min(1), pairs.min(0)


def random_pair(rng, dims):
    shape = rng.integers(3, 8, dims)
    reference = rng.random(shape) < rng.uniform(0.1, 0.9)
    prediction = reference ^ (rng.random(shape) < rng.uniform(0.05, 0.5))
    reference.flat[rng.integers(reference.size)] = True
    prediction.flat[rng.integers(prediction.size)] = True
    return reference, prediction, rng.uniform(0.4, 3, dims)


def test_golden_two_by_two_squares_one_column_apart():
    reference, prediction = blank(4, 6), blank(4, 6)
    reference[1:3, 1:3] = True
    prediction[1:3, 2:4] = True
    score = score_label(reference, prediction, spacing=(1.0, 1.0), tolerance=0.5)
    assert score.status == "ok"
    assert score.dice == 0.5
    assert score.precision == 0.5
    assert score.recall == 0.5
    # Per direction: two voxels shared (0), two one column away (1).
    assert score.hd == 1.0
    assert score.hd95 == 1.0
    assert score.assd == 0.5
    assert score.surface_dice == 0.5


def test_golden_single_voxels_on_an_anisotropic_grid():
    reference, prediction = blank(5, 5, 5), blank(5, 5, 5)
    reference[0, 0, 0] = True
    prediction[3, 2, 1] = True
    score = score_label(reference, prediction, spacing=(1.0, 2.0, 12.0))
    assert score.hd == pytest.approx(13.0)  # sqrt(3^2 + 4^2 + 12^2)
    assert score.hd95 == pytest.approx(13.0)
    assert score.assd == pytest.approx(13.0)
    assert score.dice == score.precision == score.recall == score.surface_dice == 0.0


def test_precision_and_recall_tell_over_from_under_segmentation():
    reference, prediction = blank(4, 4), blank(4, 4)
    reference[:2] = True
    prediction[:] = True
    over = score_label(reference, prediction, spacing=(1, 1))
    under = score_label(prediction, reference, spacing=(1, 1))
    assert (over.precision, over.recall) == (0.5, 1.0)
    assert (under.precision, under.recall) == (1.0, 0.5)


def test_hd95_ignores_a_speck_that_hd_sees():
    reference = blank(60, 60)
    reference[5:35, 5:35] = True
    prediction = reference.copy()
    prediction[59, 59] = True
    score = score_label(reference, prediction, spacing=(1, 1))
    assert score.hd == pytest.approx(np.hypot(25, 25))
    assert score.hd95 == 0.0


def test_a_distance_equal_to_the_tolerance_is_within_it():
    reference, prediction = blank(3, 40), blank(3, 40)
    reference[1, 1] = True
    prediction[1, 21] = True
    score = score_label(reference, prediction, spacing=(0.1, 0.1), tolerance=2.0)
    assert score.surface_dice == 1.0


def test_both_empty_has_no_figures():
    score = score_label(blank(4, 4), blank(4, 4), spacing=(1, 1))
    assert score.status == "both_empty"
    assert score.dice is score.precision is score.recall is None
    assert score.hd is score.hd95 is score.assd is score.surface_dice is None


def test_a_false_positive_costs_the_diagonal_and_has_no_recall():
    prediction = blank(3, 4, 6)
    prediction[1, 1, 1] = True
    score = score_label(blank(3, 4, 6), prediction, spacing=(1.0, 1.0, 2.0))
    assert score.status == "false_positive"
    assert (score.dice, score.precision, score.recall, score.surface_dice) == (0, 0, None, 0)
    assert score.hd == score.hd95 == score.assd == 13.0  # sqrt(3^2 + 4^2 + 12^2)


def test_a_miss_costs_the_diagonal():
    reference = blank(3, 4)
    reference[1, 1] = True
    score = score_label(reference, blank(3, 4), spacing=(1, 1))
    assert score.status == "missed"
    assert (score.dice, score.precision, score.recall, score.surface_dice) == (0, 0, 0, 0)
    assert score.hd == score.hd95 == score.assd == 5.0


def test_slice_by_slice_distances_never_cross_slices():
    reference, prediction = blank(6, 6, 2), blank(6, 6, 2)
    reference[1, 1, 0] = reference[1, 1, 1] = True
    prediction[1, 1, 0] = prediction[4, 5, 1] = True
    volume = score_label(reference, prediction, spacing=(1, 1, 1))
    sliced = score_label(reference, prediction, spacing=(1, 1, 1), slice_axis=2)
    assert volume.assd < sliced.assd
    assert sliced.hd == 5.0
    assert sliced.assd == 2.5  # 0, 5 and back


def test_a_slice_found_in_one_only_costs_the_in_plane_diagonal():
    reference, prediction = blank(3, 7, 4), blank(3, 7, 4)
    reference[1, 1, 1:3] = True
    prediction[1, 1, 1] = True
    score = score_label(reference, prediction, spacing=(1, 1, 1), slice_axis=0)
    diagonal = np.hypot(7, 4)
    assert score.hd == 1.0  # in a plane across axis 0 both are present
    score = score_label(reference, prediction, spacing=(1, 1, 1), slice_axis=2)
    diagonal = np.hypot(3, 7)
    assert score.hd == pytest.approx(diagonal)
    assert score.assd == pytest.approx(diagonal / 3)  # surfaces: 0, diagonal and 0 back
    assert score.surface_dice == pytest.approx(2 / 3)


def test_a_missed_case_scored_in_plane_has_the_in_plane_diagonal():
    reference = blank(3, 4, 50)
    reference[1, 1, 1] = True
    score = score_label(reference, blank(3, 4, 50), spacing=(1, 1, 1), slice_axis=2)
    assert score.hd == 5.0


def test_whole_volume_dice_counts_false_positives_on_empty_slices():
    """29 slices of 1,000 found voxels; 5,947 extra on them and 1,887 elsewhere."""
    reference, prediction = blank(40, 40, 90), blank(40, 40, 90)
    organ = reference.reshape(1600, 90)
    found = prediction.reshape(1600, 90)
    organ[:1000, 30:59] = True
    found[:1000, 30:59] = True
    extra = np.flatnonzero(~organ[:, 30:59])[:5947]
    found[1000:, 30:59] = np.isin(np.arange(1600 * 29).reshape(1600, 29)[1000:], extra)
    found[:629, :3] = True
    assert found.sum() == 29_000 + 5_947 + 1_887
    score = score_label(reference, prediction, spacing=(1, 1, 1))
    assert score.dice == pytest.approx(0.881, abs=5e-4)
    assert score.recall == 1.0
    slices = reference.any(axis=(0, 1))
    there = score_label(reference[..., slices], prediction[..., slices], spacing=(1, 1, 1))
    assert there.dice == pytest.approx(0.907, abs=5e-4)


@pytest.mark.parametrize("dims", [2, 3])
def test_distances_agree_with_brute_force_on_random_masks(dims):
    rng = np.random.default_rng(dims)
    for _ in range(60):
        reference, prediction, spacing = random_pair(rng, dims)
        score = score_label(reference, prediction, spacing=spacing, tolerance=1.0)
        forth, back = brute_force(reference, prediction, spacing)
        pooled = np.concatenate([forth, back])
        assert score.hd == pytest.approx(pooled.max())
        assert score.hd95 == pytest.approx(max(np.percentile(forth, 95), np.percentile(back, 95)))
        assert score.assd == pytest.approx(pooled.mean())
        assert score.surface_dice == pytest.approx((pooled <= 1.0).mean())


DEGENERATE = {
    "single voxel": lambda m, rng: m.__setitem__(tuple(rng.integers(m.shape)), True),
    "corner voxel": lambda m, rng: m.__setitem__((0,) * m.ndim, True),
    "full array": lambda m, rng: m.__setitem__(..., True),
    "thin plane": lambda m, rng: m.__setitem__(3, True),
    "thin line": lambda m, rng: m.__setitem__((2,) * (m.ndim - 1), True),
    "half, to the border": lambda m, rng: m.__setitem__(slice(4, None), True),
    "solid block": lambda m, rng: m.__setitem__((slice(2, 6),) * m.ndim, True),
    "shell": lambda m, rng: (
        m.__setitem__((slice(1, 6),) * m.ndim, True),
        m.__setitem__((slice(2, 5),) * m.ndim, False),
    ),
    "many components": lambda m, rng: m.__setitem__((slice(None, None, 2),) * m.ndim, True),
    "specks": lambda m, rng: m.flat.__setitem__(rng.integers(m.size, size=5), True),
    "empty slices": lambda m, rng: m.__setitem__((..., slice(None, None, 3)), True),
}


def degenerate(name, shape, seed=0):
    mask = blank(*shape)
    DEGENERATE[name](mask, np.random.default_rng(seed))
    return mask


def pairs(dims, count=100):
    """Random pairs, and each degenerate mask against each: hundreds in all."""
    rng = np.random.default_rng(10 + dims)
    for _ in range(count):
        yield random_pair(rng, dims)
    shape = (9, 8, 7)[:dims]
    for number, (one, other) in enumerate(product(DEGENERATE, repeat=2)):
        spacing = np.ones(dims) if number % 2 else rng.uniform(0.3, 4, dims)
        yield degenerate(one, shape, 1), degenerate(other, shape, 2), spacing


def with_monai(function, prediction, reference, **arguments):
    import torch

    pair = [torch.from_numpy(m)[None, None].float() for m in (prediction, reference)]
    return function(*pair, include_background=True, **arguments).item()


@pytest.mark.parametrize("dims", [2, 3])
def test_all_figures_agree_with_monai(dims):
    from monai import metrics as monai

    for reference, prediction, spacing in pairs(dims, 50):
        score = score_label(reference, prediction, spacing=spacing, tolerance=1.234)
        pair, where = (prediction, reference), {"spacing": [float(s) for s in spacing]}
        expected = {
            "dice": with_monai(monai.compute_dice, *pair),
            "hd": with_monai(monai.compute_hausdorff_distance, *pair, **where),
            "hd95": with_monai(monai.compute_hausdorff_distance, *pair, percentile=95, **where),
            "assd": with_monai(
                monai.compute_average_surface_distance, *pair, symmetric=True, **where
            ),
            "surface_dice": with_monai(
                monai.compute_surface_dice, *pair, class_thresholds=[1.234], **where
            ),
        }
        for metric, value in expected.items():
            assert getattr(score, metric) == pytest.approx(value, rel=1e-5), metric


@pytest.mark.parametrize("dims", [2, 3])
def test_all_figures_agree_with_scipy(dims):
    from scipy.ndimage import binary_erosion, distance_transform_edt
    from scipy.spatial import distance
    from scipy.spatial.distance import directed_hausdorff

    for reference, prediction, spacing in pairs(dims):
        score = score_label(reference, prediction, spacing=spacing, tolerance=1.234)
        edges = [m & ~binary_erosion(m, border_value=0) for m in (reference, prediction)]
        points = [np.argwhere(edge) * spacing for edge in edges]
        directed = [directed_hausdorff(*some)[0] for some in (points, points[::-1])]
        assert score.hd == pytest.approx(max(directed))
        maps = [distance_transform_edt(~edge, sampling=spacing) for edge in edges]
        forth, back = maps[1][edges[0]], maps[0][edges[1]]
        pooled = np.concatenate([forth, back])
        assert score.hd95 == pytest.approx(max(np.percentile(d, 95) for d in (forth, back)))
        assert score.assd == pytest.approx(pooled.mean())
        assert score.surface_dice == pytest.approx((pooled <= 1.234).mean())
        assert score.dice == pytest.approx(1 - distance.dice(reference.ravel(), prediction.ravel()))


@pytest.mark.parametrize("dims", [2, 3])
def test_dice_and_hausdorff_agree_with_surface_distance(dims):
    """Its surface is that of the voxels' corners, half a voxel's diagonal from their centres.

    Each corner of its surface belongs to a surface voxel, and the other way round, so the two
    Hausdorff distances differ by one voxel's diagonal at most.
    """
    import surface_distance as peer

    for reference, prediction, spacing in pairs(dims):
        score = score_label(reference, prediction, spacing=spacing)
        assert score.dice == peer.compute_dice_coefficient(reference, prediction)
        measured = peer.compute_surface_distances(reference, prediction, spacing)
        hd = peer.compute_robust_hausdorff(measured, 100)
        assert abs(score.hd - hd) <= np.linalg.norm(spacing) * (1 + 1e-9)


@pytest.mark.parametrize("dims", [2, 3])
def test_nested_boxes_have_the_same_hausdorff_distance_everywhere(dims):
    """From the corner of the outer box to that of the inner one, whatever a surface is made of."""
    import surface_distance as peer
    from monai.metrics import compute_hausdorff_distance

    rng = np.random.default_rng(dims)
    for _ in range(20):
        spacing = rng.uniform(0.5, 2, dims)
        low, high = rng.integers(1, 3, dims), rng.integers(1, 3, dims)
        outer, inner = blank(*[16] * dims), blank(*[16] * dims)
        outer[(slice(1, 15),) * dims] = True
        inner[tuple(slice(1 + a, 15 - b) for a, b in zip(low, high))] = True
        expected = np.linalg.norm(np.maximum(low, high) * spacing)
        assert score_label(outer, inner, spacing=spacing).hd == pytest.approx(expected)
        measured = peer.compute_surface_distances(outer, inner, spacing)
        assert peer.compute_robust_hausdorff(measured, 100) == pytest.approx(expected)
        where = {"spacing": [float(s) for s in spacing]}
        hd = with_monai(compute_hausdorff_distance, inner, outer, **where)
        assert hd == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_between_concentric_balls_the_weights_of_surface_distance_do_not_matter(dims):
    """It weighs each piece of surface by its area; here each surface voxel counts once.

    Between balls of one centre every distance is the difference of the radii, so that the two
    agree with the truth: centres to half a voxel, corners, which lie on both sides of a surface,
    to a voxel.
    """
    import surface_distance as peer

    grid = np.stack(np.meshgrid(*[np.arange(48)] * dims, indexing="ij"), -1)
    for centre, size in product((23.5, 23.0, 22.7), (1.0, 0.4)):
        away = np.linalg.norm(grid - centre, axis=-1)
        reference, prediction = away < 20, away < 13
        spacing = (size,) * dims
        measured = peer.compute_surface_distances(reference, prediction, spacing)
        score = score_label(reference, prediction, spacing=spacing)
        assert score.assd == pytest.approx(7 * size, abs=0.5 * size)
        for average in peer.compute_average_surface_distance(measured):
            assert average == pytest.approx(7 * size, abs=size)
        assert score.hd95 == pytest.approx(7 * size, abs=size)
        assert peer.compute_robust_hausdorff(measured, 95) == pytest.approx(7 * size, abs=size)
        for tolerance, share in ((5 * size, 0), (8.5 * size, 1)):
            score = score_label(reference, prediction, spacing=spacing, tolerance=tolerance)
            assert score.surface_dice == share
            assert peer.compute_surface_dice_at_tolerance(measured, tolerance) == share


def test_between_single_voxels_surface_distance_measures_other_places():
    """Centres lie 3 apart; of the corners that it measures between, some lie 2 apart."""
    import surface_distance as peer

    reference, prediction = blank(5, 9), blank(5, 9)
    reference[2, 2] = prediction[2, 5] = True
    score = score_label(reference, prediction, spacing=(1, 1))
    measured = peer.compute_surface_distances(reference, prediction, (1, 1))
    assert (score.hd, score.assd) == (3, 3)
    assert peer.compute_robust_hausdorff(measured, 100) == 3
    assert peer.compute_average_surface_distance(measured) == pytest.approx((2.5, 2.5))


def test_where_one_mask_is_empty_monai_has_no_figure():
    """MONAI: Dice of a false positive nan, distances infinite; a mean over cases needs numbers."""
    from monai import metrics as monai

    something, nothing = degenerate("solid block", (9, 8)), blank(9, 8)
    for reference, prediction in ((nothing, something), (something, nothing)):
        score = score_label(reference, prediction, spacing=(1, 1))
        assert (score.dice, score.surface_dice) == (0, 0)
        assert score.hd == score.hd95 == score.assd == math.hypot(9, 8)
        theirs = with_monai(monai.compute_hausdorff_distance, prediction, reference)
        assert theirs == score.hd or not math.isfinite(theirs)
    theirs = with_monai(monai.compute_dice, something, nothing)
    assert theirs == 0 or math.isnan(theirs)


def test_one_is_dice_of_the_other():
    rng = np.random.default_rng(8)
    reference, prediction, spacing = random_pair(rng, 3)
    score = score_label(reference, prediction, spacing=spacing)
    assert dice(reference, prediction) == score.dice
    assert dice(reference & ~reference, prediction & ~prediction) is None


@pytest.mark.parametrize("dims", [2, 3])
def test_a_mask_scores_perfectly_against_itself(dims):
    for name in DEGENERATE:
        mask = degenerate(name, (9, 8, 7)[:dims])
        score = score_label(mask, mask, spacing=(0.5,) * dims, tolerance=0)
        assert (score.dice, score.precision, score.recall, score.surface_dice) == (1, 1, 1, 1)
        assert (score.hd, score.hd95, score.assd) == (0, 0, 0)


def test_more_background_changes_nothing():
    for reference, prediction, spacing in list(pairs(3, 10))[::5]:
        wide = [np.pad(m, ((0, 4), (3, 0), (2, 2))) for m in (reference, prediction)]
        one = score_label(reference, prediction, spacing=spacing)
        two = score_label(*wide, spacing=spacing)
        assert one == two


def test_turned_and_mirrored_masks_score_alike():
    for reference, prediction, spacing in list(pairs(3, 10))[::5]:
        one = score_label(reference, prediction, spacing=spacing)
        turned = [m.transpose(2, 0, 1)[::-1] for m in (reference, prediction)]
        two = score_label(*turned, spacing=spacing[[2, 0, 1]])
        for metric in ("dice", "hd", "hd95", "assd", "surface_dice"):
            assert getattr(one, metric) == pytest.approx(getattr(two, metric), abs=1e-12)


def test_distances_grow_with_the_spacing():
    for reference, prediction, spacing in list(pairs(2, 10))[::5]:
        one = score_label(reference, prediction, spacing=spacing, tolerance=1.5)
        two = score_label(reference, prediction, spacing=spacing * 4, tolerance=6)
        for metric in ("hd", "hd95", "assd"):
            assert 4 * getattr(one, metric) == pytest.approx(getattr(two, metric))
        assert one.surface_dice == two.surface_dice


def test_a_volume_of_one_slice_scores_in_plane_as_the_slice():
    for reference, prediction, _ in pairs(2, 20):
        flat = score_label(reference, prediction, spacing=(1, 1))
        volume = [m[:, :, None] for m in (reference, prediction)]
        assert score_label(*volume, spacing=(1, 1, 1), slice_axis=2) == flat


def test_scores_are_symmetric_but_for_precision_and_recall():
    rng = np.random.default_rng(3)
    reference, prediction, spacing = random_pair(rng, 3)
    one = score_label(reference, prediction, spacing=spacing)
    two = score_label(prediction, reference, spacing=spacing)
    assert (one.precision, one.recall) == (two.recall, two.precision)
    for metric in ("dice", "hd", "hd95", "assd", "surface_dice"):
        assert getattr(one, metric) == pytest.approx(getattr(two, metric))


def test_other_shapes_are_refused():
    with pytest.raises(AugmintError, match="differ in shape"):
        score_label(blank(4, 4), blank(4, 5), spacing=(1, 1))
    with pytest.raises(AugmintError, match="one spacing each"):
        score_label(blank(4, 4), blank(4, 4), spacing=(1, 1, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spacing": (1, 0, 1)}, "spacing must be positive"),
        ({"spacing": (1, float("nan"), 1)}, "spacing must be positive"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"slice_axis": -1}, "slice axis -1"),
        ({"slice_axis": 3}, "slice axis 3"),
    ],
)
def test_measures_that_make_no_sense_are_refused(arguments, message):
    mask = blank(3, 3, 3)
    with pytest.raises(AugmintError, match=message):
        score_label(mask, mask, **{"spacing": (1, 1, 1), **arguments})


def test_a_map_of_several_labels_or_probabilities_is_no_mask():
    mask = blank(3, 3)
    with pytest.raises(AugmintError, match=r"prediction: a mask of one label.*2"):
        score_label(mask, mask + 2, spacing=(1, 1))
    with pytest.raises(AugmintError, match=r"reference: a mask of one label.*0\.5"):
        score_label(mask + 0.5, mask, spacing=(1, 1))
    assert score_label(mask + 1, mask + 1.0, spacing=(1, 1)).dice == 1
