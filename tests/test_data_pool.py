from dataclasses import replace

import numpy as np
import pytest
import torch

from augmint.case import Case, Grid, IntensityMap, Provenance
from augmint.data.pool import build_pool, slice_position
from augmint.errors import AugmintError
from augmint.imaging.working import WorkingGrid


def case_of(shape, name="c", patient="p", spacing=None, mask=True):
    seed = sum(map(ord, name))
    image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    affine = np.diag([*(spacing or [1.0] * len(shape)), 1.0])
    return Case(
        image=image,
        mask=(image[0] > 0).long() if mask else None,
        annotated=frozenset({1}),
        grid=Grid(shape, affine, spacing is not None),
        intensity=IntensityMap((0.0,), (255.0,), "uint8"),
        case_id=name,
        patient_id=patient,
    )


FLAT = WorkingGrid(2, (16, 16), (16, 16), longest=16)


def test_volumes_become_their_slices_and_frames_stay_whole():
    cases = [case_of((16, 16), "a", "p1"), case_of((16, 16, 3), "b", "p2", (1.0, 1.0, 5.0))]
    pool = build_pool(cases, FLAT)
    assert len(pool) == 4
    assert pool.case_ids == ("a", "b#z000", "b#z001", "b#z002")
    assert pool.patient_ids == ("p1", "p2", "p2", "p2")
    assert pool.positions.tolist() == [0, -1, 0, 1]
    assert pool.annotated == (frozenset({1}),) * 4
    assert pool.images.shape == (4, 1, 16, 16)
    assert (pool.images.dtype, pool.masks.dtype) == (torch.float16, torch.uint8)
    torch.testing.assert_close(pool.images[2].float(), cases[1].image[..., 1].mT, atol=1e-3, rtol=0)
    assert torch.equal(pool.masks[3].long(), cases[1].mask[..., 2].mT)


def test_volumes_stay_whole_under_a_grid_for_volumes():
    grid = WorkingGrid(3, (8, 8, 8), (8, 8, 8), spacing_mm=(1.0, 1.0, 1.0))
    pool = build_pool([case_of((8, 8, 8), "v", spacing=(1.0, 1.0, 1.0))], grid)
    assert pool.images.shape == (1, 1, 8, 8, 8)
    assert pool.case_ids == ("v",)
    assert pool.positions.tolist() == [0]


def test_a_synthetic_slice_knows_the_real_slice_that_it_was_made_from():
    real = case_of((16, 16, 3), "b", "p2", (1.0, 1.0, 5.0))
    made = replace(real, case_id="b__s0_c1", provenance=Provenance("b", "reference_shift"))
    pool = build_pool([real, made], FLAT)
    assert pool.case_ids[3:] == ("b__s0_c1#z000", "b__s0_c1#z001", "b__s0_c1#z002")
    assert pool.source_ids[3:] == pool.source_ids[:3] == pool.case_ids[:3]
    assert pool.crop((8, 8)).select(["p2"]).source_ids == pool.source_ids
    frame = replace(case_of((16, 16), "f"), case_id="f__s0_c0", provenance=Provenance("f", "m"))
    assert build_pool([frame], FLAT).source_ids == ("f",)


def test_unlabelled_samples_are_marked():
    pool = build_pool([case_of((12, 16), mask=False), case_of((16, 16), "d")], FLAT)
    assert bool((pool.masks[0] == 255).all())
    assert int(pool.masks[1].max()) == 1


def test_patients_are_selected_whole():
    pool = build_pool(
        [case_of((16, 16), n, p) for n, p in (("a", "p1"), ("b", "p2"), ("c", "p1"))], FLAT
    )
    chosen = pool.select(["p1"])
    assert chosen.case_ids == ("a", "c")
    assert set(chosen.patient_ids) == {"p1"}
    assert torch.equal(chosen.images, pool.images[[0, 2]])
    assert len(pool.select([])) == 0


def test_a_crop_is_the_centre_of_image_and_mask():
    pool = build_pool([case_of((16, 16))], FLAT)
    part = pool.crop((8, 12))
    assert torch.equal(part.images, pool.images[:, :, 4:12, 2:14])
    assert torch.equal(part.masks, pool.masks[:, 4:12, 2:14])


def test_the_window_of_a_pool_is_the_window_of_the_working_grid():
    # Odd sizes: a pool cropped to the window must show what a prediction shows.
    grid = replace(FLAT, canvas=(32, 32), window=(16, 16), longest=21)
    case = case_of((21, 19))
    cut = build_pool([case], grid).crop(grid.window)
    direct = grid.to_working(case, shape=grid.window)
    assert torch.equal(cut.masks[0].long(), direct.mask)
    torch.testing.assert_close(cut.images[0].float(), direct.image, atol=1e-3, rtol=0)


def test_nothing_is_an_error():
    with pytest.raises(AugmintError, match="at least one case"):
        build_pool([], FLAT)


def test_positions_run_from_end_to_end():
    assert [slice_position(z, 5) for z in range(5)] == [-1, -0.5, 0, 0.5, 1]
    assert slice_position(0, 1) == 0
