import numpy as np
import pytest
from PIL import Image

from augmint.errors import AugmintError
from augmint.evaluation.bland_altman import (
    Panel,
    bland_altman,
    bland_altman_of_fits,
    plot_bland_altman,
    plot_panels,
    remark_on_limits,
)

# Peak expiratory flow in l/min by two meters: Bland and Altman, Lancet 1986;1:307, Table 1.
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


def test_the_figures_of_the_first_publication():
    found = bland_altman(MINI, WRIGHT)
    assert (found.num, round(found.bias, 1), round(found.sd, 1)) == (17, -2.1, 38.8)
    assert found.lower == pytest.approx(-2.118 - 1.96 * 38.765, abs=0.01)
    assert found.upper == pytest.approx(-2.118 + 1.96 * 38.765, abs=0.01)
    # Printed: -22.0 to 17.8.
    assert found.bias_interval == pytest.approx((-22.0, 17.8), abs=0.1)
    # Printed, about limits of 2 SD and by the approximation: -114.3 to -45.1; the exact interval
    # lies farther out.
    low, high = found.lower_interval
    assert low < -114.3
    assert high < -45.1
    assert low < found.lower < high


def test_many_pairs_bring_the_approximation_of_1999():
    rng = np.random.default_rng(0)
    reference = rng.normal(55, 10, 4000)
    found = bland_altman(reference, reference + rng.normal(-1, 4, 4000))
    error = found.sd * np.sqrt(1 / 4000 + 1.96**2 / 2 / 3999)
    for limit, interval in (
        (found.lower, found.lower_interval),
        (found.upper, found.upper_interval),
    ):
        assert interval == pytest.approx((limit - 1.96 * error, limit + 1.96 * error), abs=0.01)


@pytest.mark.parametrize("num", [4, 12])
def test_intervals_hold_the_true_figures_as_often_as_they_say(num):
    rng = np.random.default_rng(num)
    bias, sd, trials = 2.0, 5.0, 4000
    true = np.array([bias, bias - 1.959964 * sd, bias + 1.959964 * sd])
    held = np.zeros(3)
    for differences in rng.normal(bias, sd, (trials, num)):
        found = bland_altman(np.zeros(num), differences)
        ends = np.array([found.bias_interval, found.lower_interval, found.upper_interval])
        held += (ends[:, 0] < true) & (true < ends[:, 1])
    # Three standard errors of a share of 0.95 in 4,000 trials are 0.0103.
    np.testing.assert_allclose(held / trials, 0.95, atol=0.0104)


def test_a_constant_offset_is_bias_and_nothing_else():
    found = bland_altman([40, 50, 60], [43, 53, 63])
    assert (found.bias, found.sd, found.lower, found.upper) == (3, 0, 3, 3)
    assert found.bias_interval == found.lower_interval == found.upper_interval == (3, 3)


def test_swapping_the_methods_mirrors_the_figures():
    forth, back = bland_altman(WRIGHT, MINI), bland_altman(MINI, WRIGHT)
    assert forth.bias == pytest.approx(-back.bias)
    assert forth.lower == pytest.approx(-back.upper)
    assert forth.lower_interval == pytest.approx(tuple(-v for v in back.upper_interval[::-1]))


def test_more_confidence_and_more_coverage_are_wider():
    plain = bland_altman(WRIGHT, MINI)
    sure = bland_altman(WRIGHT, MINI, confidence=0.99)
    wide = bland_altman(WRIGHT, MINI, coverage=0.99)
    assert np.ptp(sure.bias_interval) > np.ptp(plain.bias_interval)
    assert np.ptp(sure.upper_interval) > np.ptp(plain.upper_interval)
    assert (sure.lower, sure.upper) == (plain.lower, plain.upper)
    assert wide.upper > plain.upper
    assert wide.bias_interval == plain.bias_interval


@pytest.mark.parametrize(
    ("reference", "measured", "words"),
    [
        ([1.0], [1.0], "two patients"),
        ([1.0, 2.0], [1.0], "two patients"),
        ([1.0, 2.0], [1.0, float("nan")], "finite"),
        ([[1.0, 2.0]], [[1.0, 2.0]], "two patients"),
    ],
)
def test_pairs_that_are_none_are_an_error(reference, measured, words):
    with pytest.raises(AugmintError, match=words):
        bland_altman(reference, measured)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_levels_are_shares(level):
    with pytest.raises(AugmintError, match="confidence must lie between 0 and 1"):
        bland_altman(WRIGHT, MINI, confidence=level)
    with pytest.raises(AugmintError, match="coverage must lie between 0 and 1"):
        bland_altman(WRIGHT, MINI, coverage=level)


def test_the_plot_is_one_png_and_returns_what_it_draws(tmp_path):
    path = tmp_path / "new" / "ef.png"
    assert plot_bland_altman(WRIGHT, MINI, path) == bland_altman(WRIGHT, MINI)
    assert [p.name for p in path.parent.iterdir()] == ["ef.png"]
    with Image.open(path) as image:
        assert image.format == "PNG"
        grey = np.asarray(image.convert("L"))
    assert grey.shape[0] > 400
    assert grey.std() > 5
    again = tmp_path / "again.png"
    plot_bland_altman(WRIGHT, MINI, again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("given", "across", "up"),
    [
        (
            {},
            "Mean of reference and prediction EF (%)",
            "Prediction - reference EF (percentage points)",
        ),
        (
            {"quantity": "EDV", "unit": "ml", "names": ("MR", "echo")},
            "Mean of MR and echo EDV (ml)",
            "Echo - MR EDV (ml)",
        ),
        (
            {"quantity": "EF", "unit": "%", "difference_unit": "points"},
            "Mean of reference and prediction EF (%)",
            "Prediction - reference EF (points)",
        ),
    ],
)
def test_axes_name_quantity_unit_and_direction(tmp_path, monkeypatch, given, across, up):
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    plot_bland_altman(WRIGHT, MINI, tmp_path / "plot.png", **given)
    (axes,) = drawn[0].axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == (across, up)
    (legend,) = drawn[0].subfigs[0].legends
    box, frame = legend.get_window_extent(), drawn[0].bbox
    assert frame.x0 <= box.x0 < box.x1 <= frame.x1
    assert frame.y0 <= box.y0 < box.y1 <= axes.get_window_extent().y0
    points = axes.collections[-1].get_offsets()
    np.testing.assert_allclose(points[:, 0], (np.array(WRIGHT) + MINI) / 2)
    np.testing.assert_allclose(points[:, 1], np.array(MINI) - WRIGHT)


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(AugmintError, match=r"written as \.png"):
        plot_bland_altman(WRIGHT, MINI, tmp_path / "plot.pdf")
    assert not list(tmp_path.iterdir())


def test_one_fit_or_equal_fits_are_the_figures_of_one():
    one = bland_altman(WRIGHT, MINI)
    assert bland_altman_of_fits(WRIGHT, MINI) == one
    several = bland_altman_of_fits(WRIGHT, np.tile(MINI, (3, 1)))
    assert several.lower == pytest.approx(one.lower)
    assert several.upper_interval == pytest.approx(one.upper_interval)
    assert several.num == 17


def test_limits_of_several_fits_are_means_of_those_of_each():
    rng = np.random.default_rng(0)
    fits = np.array(WRIGHT) + [[0], [10], [40]] + rng.normal(0, 20, (3, 17))
    each = [bland_altman(WRIGHT, fit) for fit in fits]
    found = bland_altman_of_fits(WRIGHT, fits)
    for name in ("bias", "sd", "lower", "upper"):
        assert getattr(found, name) == pytest.approx(np.mean([getattr(b, name) for b in each]))
    assert found.lower_interval[0] == pytest.approx(np.mean([b.lower_interval[0] for b in each]))


@pytest.mark.parametrize("shared", [0.5, 1.0])
def test_intervals_of_fits_hold_the_mean_limit_at_least_as_often_as_they_say(shared):
    rng, hits = np.random.default_rng(1), 0
    biases = np.array([[-2.0], [0], [1], [3]])
    true = biases.mean() - 1.959964
    for _ in range(300):
        errors = np.sqrt(shared) * rng.normal(size=12)
        errors = biases + errors + np.sqrt(1 - shared) * rng.normal(size=(4, 12))
        low, high = bland_altman_of_fits(np.zeros(12), errors).lower_interval
        hits += low <= true <= high
    assert hits / 300 > 0.92


def test_panels_are_drawn_side_by_side(tmp_path):
    panels = [Panel(WRIGHT, MINI, "EDV", "ml"), Panel(MINI, WRIGHT, "ESV", "ml")]
    found = plot_panels(panels, tmp_path / "two.png")
    assert found == (bland_altman(WRIGHT, MINI), bland_altman(MINI, WRIGHT))
    plot_panels(panels[:1], tmp_path / "one.png")
    with Image.open(tmp_path / "two.png") as two, Image.open(tmp_path / "one.png") as one:
        assert two.size == (2 * one.size[0], one.size[1])


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    from matplotlib.figure import Figure

    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    return drawn


def legend_of(figure):
    (legend,) = figure.subfigs[0].legends
    return [text.get_text() for text in legend.get_texts()]


def test_without_any_difference_the_axis_is_sensible_and_all_lines_are_seen(tmp_path, figures):
    plot_bland_altman(WRIGHT, WRIGHT, tmp_path / "same.png")
    (axes,) = figures[0].axes
    assert axes.get_ylim() == pytest.approx((-1, 1))
    assert legend_of(figures[0]) == [
        f"{name} 0.0 (0.0 to 0.0)" for name in ("bias", "upper limit", "lower limit")
    ]
    pixels = np.asarray(Image.open(tmp_path / "same.png").convert("RGB")).astype(int)
    middle = pixels[: len(pixels) // 2 + 60, 150:-20]
    red, blue = middle[..., 0], middle[..., 2]
    dark, warm, cool = middle.max(-1) < 60, red - blue > 100, blue - red > 100
    line = next(k for k in range(len(middle)) if cool[k].mean() > 0.5)
    near = slice(line, line + 6)
    assert cool[near].any()
    assert warm[near].any(0).mean() > 0.2
    assert dark[near].any(0).mean() > 0.1


def test_wide_differences_keep_their_own_axis(tmp_path, figures):
    plot_bland_altman(WRIGHT, MINI, tmp_path / "plot.png")
    (axes,) = figures[0].axes
    low, high = axes.get_ylim()
    found = bland_altman(WRIGHT, MINI)
    assert low < found.lower_interval[0] < found.upper_interval[1] < high
    assert low > 1.3 * found.lower_interval[0]
    assert axes.get_title().startswith("EF: 17 patients, 95% limits")


def test_titles_say_that_few_patients_give_rough_limits(tmp_path, figures):
    plot_bland_altman(WRIGHT[:4], MINI[:4], tmp_path / "four.png")
    assert figures[0].axes[0].get_title().startswith("EF: 4 patients: limits are rough")
    plot_bland_altman(WRIGHT[:2], MINI[:2], tmp_path / "two.png")
    title = figures[1].axes[0].get_title()
    assert title == "EF: 2 patients: too few patients for limits of agreement"
    assert [text.split()[0] for text in legend_of(figures[1])] == ["bias"]


@pytest.mark.parametrize(
    ("num", "said"),
    [(1, "1 patient: too few"), (2, "2 patients: too few"), (3, "rough"), (9, "rough"), (10, "")],
)
def test_remarks_on_limits_follow_the_number_of_patients(num, said):
    found = remark_on_limits(num)
    assert said in found
    assert bool(found) == bool(said)
