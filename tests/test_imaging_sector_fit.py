"""The fan of a frame: drawn fans in trouble, phantoms of known fan, frames marked by eye."""

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy import ndimage
from scipy.optimize import least_squares

from augmint.case import Case, Grid, IntensityMap
from augmint.data import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.imaging.sector import Sector
from augmint.imaging.sector_fit import SectorFit, fit_sector
from augmint.imaging.working import WorkingGrid

SHAPE = (160, 160)
Drawn = tuple[Sector, np.ndarray]


def random_fan(
    rng: np.random.Generator, shape: tuple[int, int] = SHAPE, *, convex: bool = False
) -> Sector:
    """A fan, most often lopsided, that lies within a frame of this shape."""
    aspect, tilt = rng.uniform(0.7, 1.8), rng.uniform(-12, 12)
    half = rng.uniform(20, 38) if convex else rng.uniform(22, 50)
    near = rng.uniform(0.25, 0.6) if convex else rng.uniform(0, 0.12)
    left, right = math.radians(tilt - half), math.radians(tilt + half)
    margin = rng.uniform(1, 15)
    top = near * math.cos(max(-left, right))
    tall, wide = 1 - top, (math.sin(right) - math.sin(left)) / aspect
    far = min((shape[0] - 2 * margin) / tall, (shape[1] - 2 * margin) / wide)
    row = margin - top * far + rng.uniform(0, 1) * (shape[0] - 2 * margin - tall * far)
    column = margin - math.sin(left) * far / aspect
    column += rng.uniform(0, 1) * (shape[1] - 2 * margin - wide * far)
    return Sector(row, column, tilt - half, tilt + half, near * far, far, aspect)


def speckle(rng: np.random.Generator, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    noise = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
    return np.clip(120 + 40 * noise / noise.std(), 20, 255).round()


def draw(fan: Sector, rng: np.random.Generator, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Grey levels 0 to 255, black beside the fan."""
    return np.where(fan.mask(shape).numpy(), speckle(rng, shape), 0.0)


def fit(frame: np.ndarray, aspect: float | None = None) -> SectorFit:
    return fit_sector(torch.from_numpy(frame).float() / 127.5 - 1, aspect=aspect)


def iou(a: Sector, b: Sector | None, shape: tuple[int, ...]) -> float:
    if b is None:
        return 0.0
    first, second = a.mask(shape), b.mask(shape)
    return float((first & second).sum() / (first | second).sum())


def plain(rng: np.random.Generator) -> Drawn:
    fan = random_fan(rng)
    return fan, draw(fan, rng)


def convex(rng: np.random.Generator) -> Drawn:
    fan = random_fan(rng, convex=True)
    return fan, draw(fan, rng)


def cut_by_the_frame(rng: np.random.Generator) -> Drawn:
    fan = random_fan(rng)
    fan = replace(fan, far=fan.far * rng.uniform(1.05, 1.4))
    return fan, draw(fan, rng)


def small_in_black(rng: np.random.Generator) -> Drawn:
    fan = random_fan(rng, (90, 90)).moved((1, 1), (rng.uniform(5, 65), rng.uniform(5, 65)))
    return fan, draw(fan, rng)


def dark(rng: np.random.Generator) -> Drawn:
    """Attenuated with depth to the last grey levels, never quite black."""
    fan = random_fan(rng)
    radius = fan.polar(*(torch.arange(160.0)[:, None], torch.arange(160.0)[None]))[0].numpy()
    grey = 60 * np.exp(-3 * radius / fan.far) * rng.rayleigh(0.8, SHAPE)
    return fan, np.where(fan.mask(SHAPE).numpy(), np.maximum(grey, 1).round(), 0.0)


def black_pixels(rng: np.random.Generator) -> Drawn:
    fan, frame = plain(rng)
    frame[rng.random(SHAPE) < rng.uniform(0.02, 0.1)] = 0
    return fan, frame


def black_cavity(rng: np.random.Generator) -> Drawn:
    """A black disc that touches a side or the far edge, and black pixels."""
    fan, frame = black_pixels(rng)
    angle = rng.choice([fan.left, fan.middle, fan.right])
    radius = fan.far if angle == fan.middle else fan.near + rng.uniform(0.4, 0.8) * fan.far
    row, column = fan.cartesian(torch.tensor(radius), torch.tensor(math.radians(angle)))
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    frame[np.hypot(y - float(row), x - float(column)) < rng.uniform(6, 13)] = 0
    return fan, frame


def text(rng: np.random.Generator) -> Drawn:
    fan, frame = plain(rng)
    picture = Image.fromarray(frame.astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for words in ("S5-1 29Hz", "16 cm", "V", "HR 64 bpm"):
        pen.text(
            (rng.integers(0, 120), rng.integers(0, 150)), words, fill=int(rng.integers(120, 255))
        )
    return fan, np.array(picture).astype(float)


def curve_at_the_bottom(rng: np.random.Generator) -> Drawn:
    """An electrocardiogram across the frame: flat with spikes, over the far edge."""
    fan, frame = plain(rng)
    row = int(min(fan.row + fan.far - 4, 150))
    frame[row : row + 2] = 220
    for column in range(12, 150, 35):
        frame[row - 18 : row + 6, column : column + 2] = 220
    return fan, frame


def grey_bar(rng: np.random.Generator) -> Drawn:
    fan = random_fan(rng, (160, 140))
    frame = draw(fan, rng)
    frame[30:110, 150:156] = np.linspace(255, 0, 80)[:, None]
    return fan, frame


def grey_background(rng: np.random.Generator) -> Drawn:
    fan, frame = plain(rng)
    return fan, np.where(fan.mask(SHAPE).numpy(), np.maximum(frame, 45), 30.0)


def noisy_background(rng: np.random.Generator) -> Drawn:
    fan, frame = plain(rng)
    noise = (30 + 2 * rng.normal(size=SHAPE)).round()
    return fan, np.where(fan.mask(SHAPE).numpy(), np.maximum(frame, 60), noise)


def padded_grey_background(rng: np.random.Generator) -> Drawn:
    fan = random_fan(rng, (120, 160)).moved((1, 1), (20, 0))
    back = np.zeros(SHAPE)
    back[20:140] = (30 + 2 * rng.normal(size=(120, 160))).round()
    return fan, np.where(fan.mask(SHAPE).numpy(), np.maximum(speckle(rng), 60), back)


def dark_sequence(rng: np.random.Generator) -> Drawn:
    """Eight frames, each black over half of the fan and more."""
    fan = random_fan(rng)
    frames = np.stack([draw(fan, rng) for _ in range(8)])
    frames[ndimage.gaussian_filter(rng.normal(size=frames.shape), (0, 8, 8)) > 0] = 0
    frames[rng.random(frames.shape) < 0.4] = 0
    return fan, frames


def lossy(rng: np.random.Generator) -> Drawn:
    fan, frame = plain(rng)
    stored = io.BytesIO()
    Image.fromarray(frame.astype(np.uint8)).save(stored, "JPEG", quality=80)
    return fan, np.array(Image.open(stored)).astype(float)


TROUBLES: list[tuple[Callable[[np.random.Generator], Drawn], float]] = [
    (plain, 0.997),
    (convex, 0.995),
    (cut_by_the_frame, 0.99),
    (small_in_black, 0.985),
    (dark, 0.99),
    (black_pixels, 0.99),
    (black_cavity, 0.985),
    (text, 0.985),
    (curve_at_the_bottom, 0.975),
    (grey_bar, 0.99),
    (grey_background, 0.99),
    (noisy_background, 0.99),
    (padded_grey_background, 0.99),
    (dark_sequence, 0.99),
    (lossy, 0.985),
]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("make", "least"), TROUBLES, ids=[m.__name__ for m, _ in TROUBLES])
def test_drawn_fan_is_found(
    make: Callable[[np.random.Generator], Drawn], least: float, seed: int
) -> None:
    fan, frame = make(np.random.default_rng(seed))
    got = fit(frame)
    assert got.sector is not None, got.reason
    assert got.reason == ""
    assert iou(fan, got.sector, SHAPE) >= least


def test_parameters_of_a_clear_fan() -> None:
    for seed in range(4):
        fan, frame = plain(np.random.default_rng(seed))
        got = fit(frame).sector
        assert got is not None
        assert got.row == pytest.approx(fan.row, abs=1.0)
        assert got.column == pytest.approx(fan.column, abs=0.7)
        assert got.far == pytest.approx(fan.far, abs=1.0)
        # A tip one or two pixels wide hardly shows where it ends.
        assert got.near == pytest.approx(fan.near, abs=3.0)
        assert got.aspect == pytest.approx(fan.aspect, rel=0.03)
        assert (got.left, got.right) == pytest.approx((fan.left, fan.right), abs=1.0)


def test_a_known_aspect_is_kept() -> None:
    fan, frame = plain(np.random.default_rng(5))
    got = fit(frame, fan.aspect).sector
    assert got is not None
    assert got.aspect == fan.aspect
    assert iou(fan, got, SHAPE) >= 0.997
    # A wrong one cannot explain the curved far edge.
    assert iou(fan, fit(frame, fan.aspect * 1.5).sector, SHAPE) < 0.99


def test_a_far_edge_out_of_sight_leaves_the_aspect_at_one() -> None:
    fan = Sector(3.0, 80.0, -25.0, 25.0, 8.0, 400.0)
    got = fit(draw(fan, np.random.default_rng(0))).sector
    assert got is not None
    assert got.aspect == 1.0
    assert got.box is not None
    assert iou(fan, got, SHAPE) >= 0.99
    assert (got.left, got.right) == pytest.approx((-25, 25), abs=0.7)


@pytest.mark.parametrize("vendor", ["A", "B", "C"])
def test_phantoms_of_known_fan(vendor: str, tmp_path: Path) -> None:
    make_phantoms("apical-ultrasound", out=tmp_path / "p", vendor=vendor, patients=2, size=224)
    dataset = open_dataset(tmp_path / "p")
    small = WorkingGrid(2, (128, 128), (128, 128), longest=128)
    for item in dataset.items[::3]:
        case = dataset.load(item)
        k = {name: float(v) for name, v in item.columns.items() if name.startswith("fan_")}
        fan = Sector(
            k["fan_apex_row"], k["fan_apex_column"], k["fan_left_deg"], k["fan_right_deg"],
            k["fan_near_px"], k["fan_far_px"],
        )  # fmt: skip
        got = fit_sector(case.image[0]).sector
        assert got is not None
        assert iou(fan, got, case.grid.shape) >= 0.99
        assert got.aspect == pytest.approx(1, abs=0.02)
        worked = fit_sector(small.to_working(case).image[0]).sector
        assert iou(fan.moved((128 / 224, 128 / 224)), worked, (128, 128)) >= 0.985


def test_a_padded_working_frame() -> None:
    fan = random_fan(np.random.default_rng(2), (120, 160))
    frame = draw(fan, np.random.default_rng(2), (120, 160))
    image = torch.from_numpy(frame).float()[None] / 127.5 - 1
    case = Case(
        image, None, frozenset(), Grid((120, 160), np.eye(3), False),
        IntensityMap((0.0,), (255.0,), "uint8"), "one", "one",
    )  # fmt: skip
    worked = WorkingGrid(2, (128, 128), (128, 128), longest=128).to_working(case)
    moved = fan.moved((0.8, 0.8), (16, 0))
    assert iou(moved, fit_sector(worked.image[0]).sector, (128, 128)) >= 0.98


def test_a_linear_probe_has_a_box() -> None:
    rng = np.random.default_rng(0)
    frame = np.zeros(SHAPE)
    frame[12:140, 30:131] = speckle(rng, (128, 101))
    frame[rng.random(SHAPE) < 0.03] = 0
    got = fit(frame)
    assert got.sector is None
    assert got.box == (12, 30, 140, 131)
    assert "rectangle" in got.reason


@pytest.mark.parametrize("level", [0.0, 30.0, 255.0])
def test_a_constant_frame_has_nothing(level: float) -> None:
    got = fit(np.full(SHAPE, level))
    assert got.sector is None
    assert got.box is None
    assert got.overlap == 0
    assert "nothing stands out" in got.reason


def other(name: str) -> np.ndarray:
    rng = np.random.default_rng(1)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    if name == "speckle everywhere":
        return speckle(rng)
    if name == "disc":
        return np.where(np.hypot(y - 80, x - 80) < 60, speckle(rng), 0.0)
    if name == "triangle on its base, tip down":
        return np.where((abs(x - 80) < 0.6 * (150 - y)) & (y > 15), speckle(rng), 0.0)
    # A body: wavering outline that touches the frame, dark air in the corners.
    waver = 70 + 9 * np.sin(5 * np.arctan2(y - 80, x - 80)) + 6 * np.sin(9 * np.arctan2(x - 80, y))
    return np.where(np.hypot((y - 80) * 0.8, x - 80) < waver, speckle(rng), 2 * rng.random(SHAPE))


@pytest.mark.parametrize(
    "name", ["speckle everywhere", "disc", "triangle on its base, tip down", "body"]
)
def test_what_is_no_fan_says_why(name: str) -> None:
    got = fit(other(name))
    assert got.sector is None
    assert got.reason


def test_hearts_of_other_scanners_have_no_fan(real_data: Path) -> None:
    dataset = open_dataset(real_data / "Dataset060_Sunnybrook")
    for item in dataset.items[::76]:
        assert fit_sector(dataset.load(item).image[0]).sector is None, item.case_id


MARKS = json.loads((Path(__file__).parent / "camus_fans.json").read_text())


def edge_distances(fan: Sector, marks: dict[str, list[list[float]]]) -> np.ndarray:
    """Signed distance of each mark from its own edge, pixel rows."""
    out = []
    for edge, points in marks.items():
        at = torch.tensor(points, dtype=torch.float64)
        radius, angle = fan.polar(at[:, 0], at[:, 1])
        out.append(
            {
                "left": radius * torch.sin(angle - math.radians(fan.left)),
                "right": radius * torch.sin(math.radians(fan.right) - angle),
                "far": fan.far - radius,
                "near": radius - fan.near,
            }[edge]
        )
    return torch.cat(out).numpy()


def through_marks(marks: dict[str, list[list[float]]]) -> Sector:
    """The fan nearest to the marks alone."""

    def fan(p: np.ndarray) -> Sector:
        return Sector(*p[:2], *(p[2:4] * 20), max(0.0, p[4]), *p[5:])

    start = np.array([0.0, 111.5, -2.0, 2.0, 0.5, 223.0, 1.2])
    best = least_squares(lambda p: edge_distances(fan(p), marks), start, loss="soft_l1")
    return fan(best.x)


def test_frames_marked_by_eye(real_data: Path) -> None:
    assert len(MARKS) == 40
    folder = real_data / "Dataset050_CAMUS" / "imagesTr"
    distances = []
    for name, marks in MARKS.items():
        frame = np.array(Image.open(folder / f"{name}_0000.png").convert("L")).astype(float)
        got = fit(frame)
        assert got.sector is not None, f"{name}: {got.reason}"
        assert iou(through_marks(marks), got.sector, frame.shape) >= 0.975, name
        distances.append(np.abs(edge_distances(got.sector, marks)))
    away = np.concatenate(distances)
    assert np.median(away) < 0.5
    assert np.percentile(away, 95) < 1.2
    assert away.max() < 1.8
