import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from augmint.data import splits
from augmint.errors import AugmintError
from augmint.quality import seams as module
from augmint.quality.seams import control_images, draw_partners, seam_auc, seam_points

SIZE = 40
FAST = {"patch": 12, "per_frame": 4, "folds": 2, "steps": 40, "precision": "fp32"}


def speckle(count, seed):
    """Log-compressed Rayleigh speckle, (count, 1, 40, 40) in [-1, 1]."""
    noise = np.random.default_rng(seed).normal(size=(count, 2, SIZE, SIZE))
    parts = gaussian_filter(noise, (0, 0, 1.0, 1.0))
    level = np.log(np.hypot(parts[:, 0], parts[:, 1]) + 1e-2)
    level = (level - level.mean()) / level.std() / 3
    return torch.from_numpy(np.clip(level, -1, 1)[:, None]).float()


def vertical(count, seed):
    """Seams on a column, another in every frame; what is right of it is new."""
    columns = np.random.default_rng(seed).integers(14, 26, count)
    seams = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
    new = seams.clone()
    for i, column in enumerate(columns):
        seams[i, :, column] = True
        new[i, :, column:] = True
    return seams, new


PATIENTS = [f"p{i // 2:02d}" for i in range(64)]
PARTNER = draw_partners(PATIENTS, 0)
LENDERS = [PARTNER[p] for p in PATIENTS]
REAL, OTHER = speckle(64, 1), speckle(64, 2)
SEAMS, NEW = vertical(64, 3)


def judged(filled, **options):
    return seam_auc(REAL, filled, SEAMS, LENDERS, PATIENTS, **FAST | options)


@pytest.fixture(scope="module")
def controls():
    images = control_images(OTHER, NEW)
    return {arm: judged(images[arm]) for arm in ("real", "blurred", "black")}


def test_one_law_on_both_sides_is_chance(controls):
    result = controls["real"]
    assert 0.35 <= result.auc <= 0.65
    assert result.interval[0] < result.auc < result.interval[1]
    assert result.interval[1] - result.interval[0] < 0.35


@pytest.mark.parametrize("arm", ["blurred", "black"])
def test_a_wrong_half_is_found(controls, arm):
    assert controls[arm].auc > 0.9
    assert controls[arm].interval[0] > 0.85


def test_the_auc_is_the_mean_of_the_folds(controls):
    result = controls["real"]
    assert len(result.by_fold) == 2
    assert result.auc == pytest.approx(np.mean(result.by_fold))
    assert result.groups == 16
    assert 64 < result.patches <= 64 * 4


def test_the_plainest_seams_are_named():
    # Every fourth frame only: its pair of folds holds clean frames too.
    filled = OTHER.clone()
    bad = [i for i in range(64) if i % 4 == 0]
    filled[bad] = control_images(OTHER, NEW)["black"][bad]
    by_frame = judged(filled, steps=60).by_frame
    clean = np.delete(np.array(by_frame), bad)
    assert np.mean([by_frame[i] for i in bad]) > 0.9
    assert 0.3 < np.nanmean(clean) < 0.7


def test_one_seed_one_result(controls):
    # Exactly, on one machine and number of threads.
    assert judged(OTHER) == controls["real"]
    assert judged(OTHER, seed=1).by_fold != controls["real"].by_fold


def test_no_group_of_patients_is_on_both_sides(monkeypatch):
    """Judges see nothing of those whom they score, nor of their partners."""
    seen = []

    def fit(patches, train, *rest):
        groups = np.array([min(PATIENTS[i], LENDERS[i]) for i in patches.frame])
        seen.append((set(groups[train]), set(groups[~train])))
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(1))

    monkeypatch.setattr(module, "_fit", fit)
    judged(OTHER, folds=4)
    assert len(seen) == 4
    for trained, scored in seen:
        assert trained
        assert scored
        assert not trained & scored
    assert set.union(*(scored for _, scored in seen)) == {
        min(pair) for pair in zip(PATIENTS, LENDERS)
    }


def test_patches_are_centred_on_the_seam_inside_the_sector_and_apart():
    rows, columns = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    sector = ((rows - 20) ** 2 + (columns - 20) ** 2 < 18**2)[None].expand(64, -1, -1)
    places = module._places(SEAMS, sector, 12, 3, 5, np.random.default_rng(0))
    assert {len(p) for p in places} <= {1, 2, 3}
    for i, corners in enumerate(places):
        for y, x in corners:
            assert SEAMS[i, y + 6, x + 6]
            assert sector[i, y : y + 12, x : x + 12].all()
        for a in range(len(corners)):
            for b in range(a):
                assert math.dist(corners[a], corners[b]) >= 5
    # The sector costs places: without it there is room for more.
    assert sum(map(len, module._places(SEAMS, None, 12, 99, 1, np.random.default_rng(0)))) > sum(
        map(len, module._places(SEAMS, sector, 12, 99, 1, np.random.default_rng(0)))
    )


def test_every_allowed_place_can_be_chosen():
    places = module._places(SEAMS[:1], None, 12, 999, 1, np.random.default_rng(0))
    assert sorted(y for y, _ in places[0].tolist()) == list(range(SIZE - 12 + 1))


def test_the_seam_is_the_rim_of_what_was_kept():
    sector = torch.ones(1, 8, 8, dtype=torch.bool)
    sector[:, :, 6:] = False
    kept = torch.zeros_like(sector)
    kept[:, :, 3:] = True
    seam = seam_points(kept, sector)
    assert seam[0].nonzero().tolist() == [[row, 3] for row in range(8)]
    assert not seam_points(sector, sector).any()


def test_both_sides_are_cut_at_the_same_places():
    picture = torch.arange(2 * SIZE * SIZE).reshape(2, 1, SIZE, SIZE).float()
    places = [np.array([[3, 4]]), np.array([[0, 28], [10, 10]])]
    patches = module._cut(picture, -picture, places, 12)
    assert torch.equal(patches.real, -patches.filled)
    assert patches.frame.tolist() == [0, 1, 1]
    assert torch.equal(patches.real[1, 0], picture[1, 0, 0:12, 28:40])


def test_frames_without_a_place_are_told_by_nan():
    seams = SEAMS.clone()
    seams[5] = False
    result = seam_auc(REAL, OTHER, seams, LENDERS, PATIENTS, **FAST | {"steps": 2})
    assert [i for i, v in enumerate(result.by_frame) if math.isnan(v)] == [5]


def test_wins_count_ties_half():
    wins = module._wins(np.array([2.0, 1.0]), np.array([1.0, 0.0, 3.0]))
    assert wins.tolist() == [[1, 1, 0], [0.5, 1, 0]]


def test_the_sums_by_group_give_the_auc_back():
    rng = np.random.default_rng(0)
    filled, real = rng.normal(size=30), rng.normal(size=30)
    wins = module._wins(filled, real)
    sums, count = module._by_group(wins, np.array(list("abc") * 10))
    assert sums.sum() / count.sum() ** 2 == pytest.approx(wins.mean())
    low, high = module._interval([(sums, count)], rng)
    assert low < wins.mean() < high


def test_the_interval_covers_the_spread_between_patients():
    """Patients differ in how plain their seams are; patches of one are alike."""
    rng = np.random.default_rng(4)
    truth = 0.5 + 0.5 * math.erf(0.5)  # P(N(1, sqrt 1.5) > N(0, sqrt 0.5)), by variance 2
    hits = 0
    for _ in range(150):
        sums = []
        for _ in range(3):
            group = np.repeat(np.arange(8), 5)
            filled = rng.normal(1, 1, 8)[group] + rng.normal(0, 0.5**0.5, 40)
            real = rng.normal(0, 0.5**0.5, 40)
            sums.append(module._by_group(module._wins(filled, real), group))
        low, high = module._interval(sums, rng)
        hits += low <= truth <= high
    assert 0.85 <= hits / 150 <= 0.99


def test_partners_are_others_and_keep_groups_small():
    for count in (2, 3, 10, 11):
        names = [f"p{i}" for i in range(count)]
        partner = draw_partners(names, 0)
        assert sorted(partner) == sorted(partner.values()) == sorted(names)
        assert all(a != b for a, b in partner.items())
        group = module._linked(list(partner), list(partner.values()))
        assert len(set(group.values())) == count // 2
    assert draw_partners(names, 0) == draw_partners(names[::-1], 0)
    assert draw_partners(names, 0) != draw_partners(names, 1)


def test_linked_patients_share_a_group():
    group = module._linked(["a", "b", "x"], ["b", "c", "y"])
    assert group == {"a": "a", "b": "a", "c": "a", "x": "x", "y": "x"}


def test_controls_change_the_new_part_only():
    images = control_images(OTHER, NEW, shift=5)
    assert torch.equal(images["real"], OTHER)
    kept = ~NEW[:, None]
    for arm in ("blurred", "black", "shifted"):
        assert torch.equal(images[arm][kept], OTHER[kept])
        assert not torch.equal(images[arm], OTHER)
    assert images["black"][~kept].unique().tolist() == [-1]
    assert images["blurred"][~kept].std() < OTHER[~kept].std()
    assert torch.equal(
        images["shifted"][:, :, 5:][NEW[:, None, 5:]], OTHER[:, :, :-5][NEW[:, None, 5:]]
    )


def test_the_judge_is_small():
    assert 50_000 <= sum(p.numel() for p in module._judge(1).parameters()) <= 100_000


def test_training_leaves_the_global_generator_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    judged(OTHER, steps=2)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"filled_images": OTHER[:3]}, "alike"),
        ({"seams": SEAMS[:, :5]}, "alike"),
        ({"sectors": SEAMS[:3]}, "alike"),
        ({"patients_real": LENDERS[:3]}, "one for each frame"),
        ({"patients_real": PATIENTS}, "of one patient"),
        ({"filled_images": OTHER * float("nan")}, "NaN"),
        ({"patch": 41}, "8 px or more"),
        ({"patch": 4}, "8 px or more"),
        ({"folds": 9}, "two groups for each"),
        ({"folds": 1}, "2 folds or more"),
        ({"seams": SEAMS & False}, "no seam patch"),
        ({"sectors": SEAMS & False}, "no seam patch"),
    ],
)
def test_bad_input_is_told(change, words):
    arguments = {
        "real_images": REAL,
        "filled_images": OTHER,
        "seams": SEAMS,
        "patients_real": LENDERS,
        "patients_filled": PATIENTS,
    }
    with pytest.raises(AugmintError, match=words):
        seam_auc(**arguments | FAST | change)


def test_a_fold_without_any_place_is_told():
    group = module._linked(LENDERS, PATIENTS)
    held = splits.folds(set(group.values()), 2, 0)[1].validation
    seams = SEAMS.clone()
    seams[[i for i, p in enumerate(PATIENTS) if group[p] in held]] = False
    with pytest.raises(AugmintError, match="fold 0"):
        seam_auc(REAL, OTHER, seams, LENDERS, PATIENTS, **FAST)


def test_pairs_that_link_everyone_are_told():
    circle = dict(module._circle(sorted(set(PATIENTS))))
    with pytest.raises(AugmintError, match="draw_partners"):
        seam_auc(REAL, OTHER, SEAMS, [circle[p] for p in PATIENTS], PATIENTS, **FAST)


def test_shapes_of_controls_are_checked():
    with pytest.raises(AugmintError, match="their new parts"):
        control_images(OTHER, NEW[:3])


def test_a_single_patient_has_no_partner():
    with pytest.raises(AugmintError, match="two patients"):
        draw_partners(["a", "a"], 0)
