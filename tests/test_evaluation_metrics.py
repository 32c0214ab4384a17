import numpy as np
import pytest

from augmint.errors import AugmintError
from augmint.evaluation.metrics import score_label


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


@pytest.mark.parametrize("dims", [2, 3])
def test_distances_agree_with_monai_on_random_masks(dims):
    import torch
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance

    rng = np.random.default_rng(10 + dims)
    for _ in range(100):
        reference, prediction, spacing = random_pair(rng, dims)
        score = score_label(reference, prediction, spacing=spacing)
        pair = [torch.from_numpy(m)[None, None].float() for m in (prediction, reference)]
        arguments = {"include_background": True, "spacing": [float(s) for s in spacing]}
        hd = compute_hausdorff_distance(*pair, **arguments).item()
        hd95 = compute_hausdorff_distance(*pair, percentile=95, **arguments).item()
        assd = compute_average_surface_distance(*pair, symmetric=True, **arguments).item()
        assert score.hd == pytest.approx(hd, rel=1e-5)
        assert score.hd95 == pytest.approx(hd95, rel=1e-5)
        assert score.assd == pytest.approx(assd, rel=1e-5)


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
