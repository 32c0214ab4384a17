from itertools import pairwise

import pytest
import torch

from augmint.errors import AugmintError
from augmint.imaging.gradients import gaussian
from augmint.imaging.properties import (
    PROPERTIES,
    measure_properties,
    property_cuts,
    style_word,
    style_words,
)

ROWS, COLUMNS = torch.meshgrid(torch.arange(96.0), torch.arange(96.0), indexing="ij")


def anatomy(seed=0, width=0.8):
    """Overlapping soft discs of several grey levels, without noise."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.full((96, 96), -0.3)
    for row, column, radius, level in torch.rand(14, 4, generator=generator).tolist():
        distance = (ROWS - 96 * row).hypot(COLUMNS - 96 * column)
        soft = torch.sigmoid((8 + 18 * radius - distance) / width)
        image = image + soft * (level - 0.35 - image)
    return image[None, None]


def noise(seed=0):
    return torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(seed))


def measured(image):
    return {name: float(value) for name, value in measure_properties(image).items()}


def middle(image):
    return measured(image)["brightness"]


CHANGES = {
    "brightness": [lambda x, s=s: x + s for s in (-0.2, -0.1, 0.0, 0.1, 0.2)],
    "contrast": [lambda x, s=s: middle(x) + s * (x - middle(x)) for s in (0.3, 0.5, 0.7, 0.9, 1.1)],
    "noise": [lambda x, s=s: x + s * noise(9) for s in (0.0, 0.02, 0.04, 0.06, 0.08)],
    "sharpness": [lambda x, s=s: gaussian(x, s) for s in (2.0, 1.5, 1.0, 0.6, 0.1)],
}
# How far each may move under the changes of another, as a share of its own range under its own.
CROSS_TALK = 0.12


def span(values):
    return max(values) - min(values)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("changed", PROPERTIES)
def test_a_property_follows_its_change_and_the_others_hardly_move(changed, seed):
    base = anatomy(seed)
    grain = (0.0 if changed == "noise" else 0.02) * noise(seed)
    if changed == "sharpness":
        # Grain is put on a blurred image, not blurred with it: no measure of noise could tell that.
        series = [measured(change(base) + grain) for change in CHANGES[changed]]
    else:
        series = [measured(change(base + grain)) for change in CHANGES[changed]]
    own = [one[changed] for one in series]
    assert own == sorted(own)
    assert all(later > earlier for earlier, later in pairwise(own))
    for other in set(PROPERTIES) - {changed}:
        reach = span([measured(change(base))[other] for change in CHANGES[other]])
        moved = span([one[other] for one in series])
        assert moved < CROSS_TALK * reach, (other, moved, reach)


def test_scaling_an_image_with_its_grain_leaves_noise_and_sharpness():
    image = anatomy() + 0.03 * noise()
    full, half = measured(image), measured(0.5 * image)
    assert half["contrast"] == pytest.approx(0.5 * full["contrast"], rel=0.02)
    assert half["noise"] == pytest.approx(full["noise"], rel=0.02)
    assert half["sharpness"] == pytest.approx(full["sharpness"], rel=0.02)


def test_noise_is_the_deviation_of_the_grain_over_contrast():
    image = measured(anatomy() + 0.05 * noise())
    assert image["noise"] * image["contrast"] == pytest.approx(0.05, rel=0.15)


def test_noise_of_volumes():
    grain = torch.randn(1, 1, 24, 24, 24, generator=torch.Generator().manual_seed(0))
    ramp = torch.linspace(-0.5, 0.5, 24).expand(1, 1, 24, 24, 24)
    found = measured(ramp + 0.05 * grain)
    assert found["noise"] * found["contrast"] == pytest.approx(0.05, rel=0.15)


def test_black_around_an_image_counts_for_nothing():
    image = (anatomy() + 0.03 * noise()).clamp(-0.95, 1)
    wide = torch.full((1, 1, 128, 200), -1.0)
    wide[..., 16:112, 50:146] = image
    bare, framed = measured(image), measured(wide)
    for name in ("contrast", "noise", "sharpness"):
        assert framed[name] == pytest.approx(bare[name], rel=0.05)
    assert framed["brightness"] == pytest.approx(bare["brightness"], abs=0.02)


def test_figures_of_an_image_do_not_depend_on_its_batch():
    images = torch.cat([anatomy(0), anatomy(1) + 0.05 * noise()])
    together = measure_properties(images)
    assert list(together) == list(PROPERTIES)
    for name, values in measure_properties(images[1:]).items():
        assert torch.equal(together[name][1:], values)


def test_an_image_without_contrast_has_neither_noise_nor_sharpness():
    flat = measured(torch.full((1, 1, 16, 16), 0.25))
    assert flat["brightness"] == pytest.approx(0.25)
    assert (flat["noise"], flat["sharpness"]) == (0, 0)


def test_a_black_image_is_refused():
    images = torch.cat([anatomy(), torch.full((1, 1, 96, 96), -1.0)])
    with pytest.raises(AugmintError, match="image 1 is black"):
        measure_properties(images)


# Words


def test_words_are_cut_at_terciles_and_fall_on_thirds_of_the_training_set():
    values = torch.rand(300, generator=torch.Generator().manual_seed(0)).tolist()
    cuts = property_cuts({"contrast": values})
    words = [style_words({"contrast": v}, cuts)["contrast"] for v in values]
    assert {w: words.count(w) for w in set(words)} == {
        "low contrast": 100, "medium contrast": 100, "high contrast": 100,
    }  # fmt: skip
    order = ["low contrast", "medium contrast", "high contrast"]
    places = [order.index(w) for _, w in sorted(zip(values, words))]
    assert places == sorted(places)


def test_values_at_the_cuts_are_medium():
    assert style_word("noise", 1.0, (1.0, 2.0)) == "medium noise"
    assert style_word("noise", 2.0, (1.0, 2.0)) == "medium noise"
    assert style_word("noise", 0.5, (0.5, 0.5)) == "medium noise"


def test_wrong_cuts_values_and_missing_properties_are_refused():
    with pytest.raises(AugmintError, match="rising"):
        style_word("noise", 1.0, (2.0, 1.0))
    with pytest.raises(AugmintError, match="no number"):
        style_word("noise", float("nan"), (1.0, 2.0))
    with pytest.raises(AugmintError, match="no noise was measured"):
        style_words({"contrast": 1.0}, {"noise": (1.0, 2.0)})
    with pytest.raises(AugmintError, match="no image"):
        property_cuts({"noise": []})
