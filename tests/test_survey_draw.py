import io
import json
import zlib
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image

from augmint.case import Case, Grid, IntensityMap, Provenance
from augmint.data.dataset import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.errors import AugmintError
from augmint.generate import generate
from augmint.imaging.working import WorkingGrid, center
from augmint.progress import Talk
from augmint.survey.draw import SIDE, as_if_written, picture_of, png_of, sector_of, working_grid

KINDS = {
    "apical-ultrasound": {"size": 48},
    "cine-mr": {"size": 48, "slices": 3},
}


@dataclass(frozen=True)
class Unchanged:
    """A perfect generator: it hands out the real window that it was given."""

    def networks(self, facts):
        return {}

    def generate(self, networks, orders, facts, *, seed):
        for case, copy in orders:
            window = facts.grid.window
            if facts.grid.dims == 2 and case.dims == 3:
                image = center(case.image.movedim(-1, 1), window, -1.0).movedim(1, -1)
                mask = center(case.mask.movedim(-1, 0), window, 0).movedim(0, -1)
            else:
                image, mask = center(case.image, window, -1.0), center(case.mask, window, 0)
            yield replace(
                case, image=image, mask=mask, case_id=f"{case.case_id}__s{seed}_c{copy}",
                grid=Grid(tuple(mask.shape), np.eye(mask.ndim + 1), False),
                provenance=Provenance(case.case_id, "test_survey_draw:Unchanged", copy=copy),
            )  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unchanged")
    make_phantoms(request.param, out=folder / "real", patients=2, **KINDS[request.param])
    generate(
        "test_survey_draw:Unchanged", folder / "real", folder / "made", copies=1, preset="demo",
        talk=Talk(quiet=True),
    )  # fmt: skip
    return open_dataset(folder / "made"), open_dataset(folder / "real")


def test_frames_of_a_perfect_generator_and_real_ones_are_drawn_the_same_to_the_last_bit(made):
    """Whatever else happens to generated frames on their way happens to real ones, too."""
    synthetic, real = made
    grid = working_grid(synthetic)
    sources = {i.case_id: i for i in real.items}
    stored = []
    for item in [i for i in synthetic.items if i.synthetic]:
        source = real.load(sources[item.provenance.source_case])
        new = synthetic.load(item)
        old = as_if_written(source, grid, synthetic.modality)
        for where in (0.1, 0.6):
            shown = picture_of(new, grid, where)
            assert np.array_equal(picture_of(old, grid, where), shown)
            stored.append(np.array_equal(picture_of(source, grid, where), shown))
            assert shown.std() > 10
    # Without that way they would differ.
    assert not all(stored)


def test_pictures_have_one_size_in_bytes_and_hold_no_metadata():
    rng = np.random.default_rng(0)
    pictures = [
        np.zeros((SIDE, SIDE), np.uint8),
        rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8),
        np.tile(np.arange(SIDE, dtype=np.uint8), (SIDE, 1)),
    ]
    files = [png_of(p) for p in pictures]
    assert len({len(f) for f in files}) == 1
    assert len({len(zlib.compress(f)) for f in files}) == 3
    for picture, file in zip(pictures, files):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(file))), picture)
        assert set(chunks(file)) == {b"IHDR", b"IDAT", b"IEND"}


def chunks(png):
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, found = 8, []
    while at < len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        found.append(png[at + 4 : at + 8])
        at += size + 12
    return found


def test_a_volume_is_drawn_upright_whatever_its_working_grid():
    """A bright corner at small x and large y is at the left and at the bottom."""
    image = torch.full((1, 24, 16, 5), -1.0)
    image[:, :6, 12:, 2] = 1.0
    grid = Grid((24, 16, 5), np.diag([1.0, 1, 4, 1]), True)
    case = Case(image, None, frozenset(), grid, IntensityMap((0.0,), (1.0,)), "v", "v")
    flat = WorkingGrid(2, (32, 32), (24, 24), spacing_mm=(1.0, 1.0))
    solid = WorkingGrid(3, (32, 32, 8), (24, 24, 8), spacing_mm=(1.0, 1.0, 4.0))
    pictures = [picture_of(case, one, 0.5) for one in (flat, solid, None)]
    assert np.array_equal(pictures[0], pictures[1])
    for picture in pictures:
        assert picture.shape == (SIDE, SIDE)
        rows, columns = np.nonzero(picture > 128)
        assert columns.max() < SIDE / 2 < rows.min()


def test_the_working_grid_is_that_of_the_fold(made, tmp_path):
    synthetic, _ = made
    grids = [WorkingGrid(2, (32, 32), (n, n), longest=32) for n in (16, 24)]
    for number, grid in enumerate(grids):
        run = tmp_path / "run" / f"fold_{number}"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(json.dumps({"facts": {"grid": grid.to_json()}}))
    elsewhere = replace(synthetic, root=tmp_path)
    assert [working_grid(elsewhere, k) for k in (0, 1)] == grids
    assert working_grid(elsewhere) is None
    (tmp_path / "run" / "fold_0" / "config.yaml").write_text("facts: 3")
    with pytest.raises(AugmintError, match="no working grid in it"):
        working_grid(elsewhere, 0)


def test_a_run_that_was_fitted_elsewhere_tells_its_grid_and_a_shard_has_none(made, tmp_path):
    synthetic, _ = made
    grid = WorkingGrid(2, (32, 32), (16, 16), longest=32)
    run = tmp_path / "fitted"
    run.mkdir()
    (run / "config.yaml").write_text(json.dumps({"facts": {"grid": grid.to_json()}}))
    elsewhere = replace(synthetic, root=tmp_path)
    record = tmp_path / "run.json"
    record.write_text(json.dumps({"request": {"command": "generate", "run": str(run)}}))
    assert working_grid(elsewhere) == grid
    request = {"run": "warped_pairs", "preset": "demo", "dims": None, "shard": [0, 2]}
    record.write_text(json.dumps({"request": request}))
    assert working_grid(elsewhere) is None
    record.write_text("{")
    assert working_grid(elsewhere) is None


@pytest.mark.parametrize("volume", [False, True])
def test_a_fan_is_cut_out_of_real_frames_as_sharply_as_out_of_generated_ones(tmp_path, volume):
    """The way through the working grid blurs its edge; methods that change it cut it anew."""
    out = make_phantoms("apical-ultrasound", out=tmp_path / "real", patients=1, size=128)
    dataset = open_dataset(out)
    case = dataset.load(dataset.items[0])
    if volume:  # x first, one slice
        grid = Grid((*case.grid.shape[::-1], 1), np.eye(4), False)
        image, mask = case.image.mT.unsqueeze(-1), case.mask.T.unsqueeze(-1)
        case = replace(case, image=image, mask=mask, grid=grid)
    grid = WorkingGrid(2, (48, 48), (48, 48), longest=48)
    visible = sector_of(case)
    assert visible.shape == case.grid.shape
    soft = as_if_written(case, grid, "ultrasound").image[0]
    sharp = as_if_written(case, grid, "ultrasound", visible=visible).image[0]
    assert (sharp[~visible] == -1).all()
    assert (soft[~visible] > -0.9).sum() > 50
    assert torch.allclose(sharp[visible], soft[visible], atol=0.05)


def test_a_frame_without_a_fan_has_no_sector():
    grid = Grid((32, 32), np.eye(3), False)
    noise = torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    case = Case(noise, None, frozenset(), grid, IntensityMap((0.0,), (1.0,)), "n", "n")
    assert sector_of(case) is None
