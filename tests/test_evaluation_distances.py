import numpy as np
import pytest
from scipy import ndimage

from augmint.evaluation import distances
from augmint.evaluation.distances import crop, surface, surface_distances


def compared(start, end, spacing):
    """The distance of each voxel of one mask to the nearest of the other, by all pairs."""
    a, b = np.argwhere(start) * spacing, np.argwhere(end) * spacing
    return np.linalg.norm(a[:, None] - b[None], axis=-1).min(axis=1)


def scattered(rng, dims):
    """Two sets of voxels, from a handful to dense, near each other and far."""
    shape = rng.integers(1, {2: 40, 3: 14}[dims], dims)
    pair = [rng.random(shape) < rng.choice([0.002, 0.03, 0.4]) for _ in range(2)]
    for mask in pair:
        mask.flat[rng.integers(mask.size)] = True
    return *pair, rng.uniform(0.2, 6, dims) if rng.random() < 0.7 else np.ones(dims)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("cost", "entries"), [(60, 2**16), (10**9, 2**16), (10**9, 40), (0, 2**16)],
    ids=["as chosen", "by rows", "by rows in small blocks", "by map"],
)  # fmt: skip
def test_every_way_to_search_is_exact(monkeypatch, dims, cost, entries):
    monkeypatch.setattr(distances, "TRANSFORM_COST", cost)
    monkeypatch.setattr(distances, "TABLE", entries)
    monkeypatch.setattr(distances, "PAIRS", entries)
    rng = np.random.default_rng(dims)
    for _ in range(60):
        start, end, step = scattered(rng, dims)
        found = distances._to_surface(start, end, step)
        np.testing.assert_allclose(found, compared(start, end, step), rtol=1e-12, atol=1e-12)


def test_searches_far_away_and_many_at_once_are_exact():
    """Past the reach of a neighbourhood, with few points and with more than a map is worth."""
    shell = np.zeros((40, 40, 6), bool)
    shell[5:35, 5:35] = True
    shell = surface(shell)
    middle = np.zeros_like(shell)
    middle[18:22, 18:22, 2:4] = True
    spacing = np.array([0.7, 0.7, 5.0])
    for start, end in ((shell, middle), (middle, shell)):
        found = distances._to_surface(start, end, spacing)
        np.testing.assert_allclose(found, compared(start, end, spacing), rtol=1e-12)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_a_surface_is_what_an_erosion_takes_away(dims):
    rng = np.random.default_rng(dims)
    for _ in range(50):
        mask = rng.random(rng.integers(1, 9, dims)) < rng.uniform(0, 1.2)
        assert np.array_equal(surface(mask), mask & ~ndimage.binary_erosion(mask, border_value=0))


def test_a_crop_keeps_all_voxels_and_surfaces():
    rng = np.random.default_rng(0)
    for _ in range(30):
        one, other = (np.zeros((9, 8, 7), bool) for _ in range(2))
        for mask in (one, other):
            low = rng.integers(0, 5, 3)
            window = tuple(slice(a, a + b) for a, b in zip(low, rng.integers(1, 5, 3)))
            mask[window] = rng.random(mask[window].shape) < 0.7
            mask[tuple(low)] = True
        cropped = crop(one, other)
        assert cropped[0].shape == cropped[1].shape
        assert [surface(m).sum() for m in cropped] == [surface(m).sum() for m in (one, other)]
        union = cropped[0] | cropped[1]
        for axis in range(3):
            assert union.take(0, axis).any()
            assert union.take(-1, axis).any()


def test_nothing_is_cropped_to_nothing():
    empty = np.zeros((4, 5), bool)
    assert [m.size for m in crop(empty, empty)] == [0, 0]
    assert [len(d) for d in surface_distances(empty, empty, spacing=(1, 1))] == [0, 0]


def test_slices_are_measured_each_on_its_own():
    rng = np.random.default_rng(5)
    one, other = (rng.random((7, 6, 5)) < 0.1 for _ in range(2))
    one[:, 2] = False
    for axis in range(3):
        forth, back = surface_distances(one, other, spacing=(1, 2, 3), slice_axis=axis)
        plane = [s for a, s in enumerate((1, 2, 3)) if a != axis]
        sides = [n * s for a, (n, s) in enumerate(zip(one.shape, (1, 2, 3))) if a != axis]
        expected = []
        for z in range(one.shape[axis]):
            a, b = one.take(z, axis), other.take(z, axis)
            if a.any() and b.any():
                expected.append(surface_distances(a, b, spacing=plane))
            else:
                lost = [np.full(surface(m).sum(), np.hypot(*sides)) for m in (a, b)]
                expected.append(tuple(lost))
        np.testing.assert_allclose(forth, np.concatenate([e[0] for e in expected]))
        np.testing.assert_allclose(back, np.concatenate([e[1] for e in expected]))
