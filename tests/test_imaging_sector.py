"""The sector's own geometry and its polar coordinates, against closed forms and brute force."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from augmint.data import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.imaging.sector import Sector, from_polar, places, to_polar
from augmint.imaging.working import resample_image

FANS = [
    Sector(4.3, 47.0, -33.0, 36.0, 7.0, 62.0, 1.3),
    Sector(-0.5, 60.2, -42.0, 28.0, 0.0, 70.0, 0.8),
    Sector(-40.0, 50.0, -30.0, 30.0, 48.0, 110.0, 1.0),
    Sector(2.0, 48.0, -62.0, 60.0, 3.0, 75.0, 1.73),
]
SHAPE = (80, 100)


@pytest.mark.parametrize("fan", FANS)
def test_polar_and_cartesian_are_converse(fan: Sector) -> None:
    rows, columns = places(SHAPE)
    back_rows, back_columns = fan.cartesian(*fan.polar(rows, columns))
    torch.testing.assert_close(back_rows, rows.expand(SHAPE), atol=1e-3, rtol=0)
    torch.testing.assert_close(back_columns, columns.expand(SHAPE), atol=1e-3, rtol=0)


def test_angles_grow_to_the_right_and_radii_count_rows() -> None:
    fan = Sector(10.0, 20.0, -30.0, 30.0, 0.0, 50.0, aspect=2.0)
    radius, angle = fan.polar(torch.tensor([40.0, 10.0]), torch.tensor([20.0, 25.0]))
    assert radius.tolist() == pytest.approx([30.0, 10.0])
    assert torch.rad2deg(angle).tolist() == pytest.approx([0.0, 90.0])


def outline(fan: Sector, step: float = 0.05) -> torch.Tensor:
    """Points (N, 2) along all four edges, row and unsqueezed column."""
    left, right = math.radians(fan.left), math.radians(fan.right)
    across = torch.arange(left, right, step / fan.far, dtype=torch.float64)
    along = torch.arange(fan.near, fan.far, step, dtype=torch.float64)
    pieces = [(torch.full_like(across, r), across) for r in (fan.near, fan.far)]
    pieces += [(along, torch.full_like(along, a)) for a in (left, right)]
    points = [torch.stack(fan.cartesian(r, a), -1) for r, a in pieces]
    return torch.cat(points) * torch.tensor([1.0, fan.aspect])


@pytest.mark.parametrize("fan", FANS)
def test_inside_is_the_distance_to_the_nearest_edge(fan: Sector) -> None:
    rows, columns = (p.double().expand(SHAPE) for p in places(SHAPE))
    inside = fan.inside(rows, columns).flatten()
    at = torch.stack([rows.flatten(), columns.flatten() * fan.aspect], -1)
    distance = torch.cdist(at, outline(fan)).amin(1)
    within = inside >= 0
    assert within.any()
    assert (~within).any()
    torch.testing.assert_close(inside[within], distance[within], atol=0.06, rtol=0)
    # Outside, a corner may be farther than the edges that meet there.
    assert (-inside[~within] <= distance[~within] + 0.06).all()
    middle = (fan.polar(rows, columns)[1].flatten() - math.radians(fan.middle)).abs()
    below = ~within & (middle < math.radians(fan.width) / 4) & (rows.flatten() > fan.row + fan.far)
    assert below.any() or fan.row + fan.far > SHAPE[0] - 1
    torch.testing.assert_close(-inside[below], distance[below], atol=0.06, rtol=0)


def test_a_box_cuts_the_sector() -> None:
    fan = Sector(-0.5, 49.5, -40.0, 40.0, 0.0, 90.0)
    cut = replace(fan, box=(10.0, 20.0, 60.0, 85.0))
    expected = fan.mask(SHAPE)
    expected[:10], expected[60:], expected[:, :20], expected[:, 85:] = False, False, False, False
    assert torch.equal(cut.mask(SHAPE), expected)
    # A pixel's outer border lies on the box's, half a row from the pixel's centre.
    assert float(cut.inside(torch.tensor(59.0), torch.tensor(50.0))) == pytest.approx(0.5)


@pytest.mark.parametrize("fan", FANS)
def test_area_of_the_mask(fan: Sector) -> None:
    fine = fan.moved((10.0, 10.0), (400.0, 500.0))
    got = float(fine.mask((1700, 2200)).sum()) / 100
    width = math.radians(fan.width)
    assert got == pytest.approx(width / 2 * (fan.far**2 - fan.near**2) / fan.aspect, rel=2e-3)


def test_a_margin_shrinks_the_mask() -> None:
    fan = FANS[0]
    assert int(fan.mask(SHAPE, margin=2.0).sum()) < int(fan.mask(SHAPE).sum())
    rows, columns = places(SHAPE)
    assert torch.equal(fan.mask(SHAPE, margin=2.0), fan.inside(rows, columns) >= 2)


@pytest.mark.parametrize("new", [(640, 500), (200, 260), (300, 1000)])
def test_moved_follows_resampling(new: tuple[int, int]) -> None:
    old = (400, 500)
    fan = replace(FANS[0], box=(0.0, 12.0, 58.0, 90.0)).moved((5.0, 5.0))
    seen = resample_image(fan.mask(old).float()[None] * 2 - 1, new)[0] > 0
    moved = fan.moved((new[0] / old[0], new[1] / old[1]))
    mask = moved.mask(new)
    assert float((mask & seen).sum() / (mask | seen).sum()) > 0.985
    # Proportions of the tissue stay: one frame's width over its height.
    assert moved.aspect * new[1] / new[0] == pytest.approx(fan.aspect * old[1] / old[0])


def test_moved_by_whole_pixels_is_a_shift() -> None:
    fan = replace(FANS[0], box=(6.0, 20.0, 60.0, 80.0))
    moved = fan.moved((1.0, 1.0), (7.0, 5.0))
    assert torch.equal(moved.mask((100, 110))[7:87, 5:105], fan.mask(SHAPE))


def test_first_and_last_polar_row_lie_on_the_radii_and_columns_on_the_sides() -> None:
    fan = FANS[0]
    rows, columns = (p.expand(SHAPE) for p in places(SHAPE))
    polar = to_polar(torch.stack([rows, columns]), fan, (9, 5))
    # Bicubic weights of torch bend a ramp by up to 0.05.
    for i, radius in ((0, fan.near), (-1, fan.far)):
        for j, angle in ((0, fan.left), (2, fan.middle), (-1, fan.right)):
            at = fan.cartesian(torch.tensor(radius), torch.tensor(math.radians(angle)))
            torch.testing.assert_close(polar[:, i, j], torch.stack(at), atol=0.06, rtol=0)


@pytest.mark.parametrize("fan", FANS[:2])
def test_round_trip_of_a_band_limited_frame(fan: Sector) -> None:
    rows, columns = places(SHAPE)
    wave = torch.sin(rows * 2 * math.pi / 16) * torch.cos(columns * 2 * math.pi / 20)
    back = from_polar(to_polar(wave[None], fan, (192, 192)), fan, SHAPE)
    mask = fan.mask(SHAPE)
    error = (back[0] - wave).abs()
    assert float(error[mask].mean()) < 0.003
    assert float(error[fan.mask(SHAPE, margin=1.5)].max()) < 0.05
    assert (back[0][~mask] == -1).all()


def test_round_trip_error_falls_with_the_polar_size() -> None:
    fan = FANS[0]
    rows, columns = places(SHAPE)
    wave = torch.sin(rows * 2 * math.pi / 9) * torch.cos(columns * 2 * math.pi / 9)
    errors = [
        float((from_polar(to_polar(wave[None], fan, size), fan, SHAPE)[0] - wave)[fan.mask(SHAPE)]
              .abs().mean())
        for size in ((48, 48), (96, 96), (192, 192))
    ]  # fmt: skip
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_round_trip_of_speckle(tmp_path: Path) -> None:
    make_phantoms("apical-ultrasound", out=tmp_path / "p", patients=1, size=128, seed=3)
    dataset = open_dataset(tmp_path / "p")
    item = dataset.items[0]
    case, k = dataset.load(item), item.columns
    fan = Sector(
        float(k["fan_apex_row"]), float(k["fan_apex_column"]), float(k["fan_left_deg"]),
        float(k["fan_right_deg"]), float(k["fan_near_px"]), float(k["fan_far_px"]),
    )  # fmt: skip
    back = from_polar(to_polar(case.image, fan, (256, 192)), fan, case.grid.shape)
    # Grey levels of 255. Edges mix with the black beside them, so two rows are left out.
    error = (back - case.image)[:, fan.mask(case.grid.shape, margin=2.0)].abs() * 127.5
    assert float(error.mean()) < 1.5
