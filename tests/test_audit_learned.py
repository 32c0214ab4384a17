"""What a judge sees in real and synthetic images: who may look, and what it tells."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from audited import noisy, pair_of, write_dataset, write_manifest, write_run
from augmint.audit import page, words
from augmint.audit.adherence import WEIGHTS, choose_judges
from augmint.audit.learned import as_judged, measure_learned
from augmint.audit.material import gather
from augmint.audit.parties import read_parties
from augmint.data.dataset import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.imaging.working import WorkingGrid
from augmint.presets import preset_named
from augmint.progress import Talk
from augmint.segment import segment

QUIET = Talk(quiet=True)
TINY = preset_named("tiny")
CPU = torch.device("cpu")
PATIENTS = [f"phantom_mr_A_{k:03d}" for k in range(1, 15)]
SEEN, HELD = PATIENTS[:8], PATIENTS[8:]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Fourteen patients at end-diastole; the generator saw the first eight."""
    out = tmp_path_factory.mktemp("learned") / "Dataset901_Phantoms"
    make_phantoms("cine-mr", out=out, patients=14, slices=3, size=48)
    whole = open_dataset(out)
    return whole.select(cases=[i.case_id for i in whole.items if i.case_id.endswith("_ED")])


@pytest.fixture(scope="module")
def run(real, tmp_path_factory):
    """A judge of two patients that the generator never saw."""
    out = tmp_path_factory.mktemp("judge") / "RUN"
    return segment(real.select(patients=HELD[:2]), out, preset="tiny", steps=20, talk=QUIET)


def theirs(folder, real, patients, share=0.0):
    """Somebody else's dataset: images of these patients with noise, no manifest."""
    cases = {}
    for patient in patients:
        stored, mask, grid = pair_of(real, f"{patient}_ED")
        cases[f"x{patient[-3:]}"] = noisy(stored, 0, share) if share else stored, mask, grid
    return write_dataset(folder, cases)


def material_of(synthetic, real, **options):
    return gather(read_parties(synthetic, real, **options), TINY, None, QUIET)


def learned(material, run, folder, steps=None):
    judges = choose_judges(
        material, run, folder, preset=TINY, steps=steps, seed=0, device=CPU, talk=QUIET
    )
    return measure_learned(material, judges, seed=0, device=CPU), judges


@pytest.fixture(scope="module")
def told(real, run, tmp_path_factory):
    """Real images of others, and noise, beside those of the fit; by the given judge."""
    folder = tmp_path_factory.mktemp("made")
    found = {}
    for name, share in (("near", 0.0), ("far", 3.0)):
        made = theirs(folder / name, real, HELD[2:], share)
        material = material_of(made, real, generator_patients=SEEN)
        found[name] = learned(material, run, folder)[0]
    return found


def test_noise_lies_farther_from_real_images_than_other_patients_do(told):
    near, far = (told[name]["kernel_distance"] for name in ("near", "far"))
    assert far["synthetic"] > 3 * near["synthetic"]
    assert far["share_of_real_splits_below"] == 1
    assert far["difference_over_splits"][0] > near["difference_over_splits"][1] > 0
    assert near["real"] == far["real"]
    frechet = [told[name]["frechet_distance"]["synthetic"] for name in ("near", "far")]
    assert frechet[1] > frechet[0]
    assert all(0 <= told[n][k]["synthetic"] <= 1 for n in told for k in ("precision", "recall"))


def test_shuffled_pixels_are_the_far_end_of_the_scale(told):
    noise, near = told["near"]["kernel_distance_of_noise"], told["near"]["kernel_distance"]
    assert noise == told["far"]["kernel_distance_of_noise"]
    assert noise > near["synthetic"]
    assert noise > near["real"]


def test_a_judge_to_which_images_are_noise_says_nothing(real, run, tmp_path):
    """Where real images are noise, shuffling their pixels changes nothing."""
    made = theirs(tmp_path / "made", real, HELD[2:])
    material = material_of(made, real, generator_patients=SEEN)
    pool = material.real.pool
    noise = torch.rand(pool.images.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    material = replace(
        material, real=replace(material.real, pool=replace(pool, images=noise.half()))
    )
    found, _ = learned(material, run, tmp_path)
    assert set(found) == {"extractor", "missing"}
    assert "pixels shuffled" in found["missing"]


def test_a_blind_judge_says_nothing(real, run, tmp_path):
    blind = tmp_path / "BLIND"
    shutil.copytree(run, blind)
    weights = load_file(blind / WEIGHTS)
    save_file({k: torch.zeros_like(v) for k, v in weights.items()}, blind / WEIGHTS)
    made = theirs(tmp_path / "made", real, HELD[2:])
    found, _ = learned(material_of(made, real, generator_patients=SEEN), blind, tmp_path)
    assert "to the judge all real images are alike" in found["missing"]


def test_the_hash_is_that_of_the_weights(told, real, run, tmp_path):
    extractor = told["near"]["extractor"]
    assert extractor["name"] == "deepest features of the judge (unet)"
    assert extractor == told["far"]["extractor"]
    other = tmp_path / "OTHER"
    shutil.copytree(run, other)
    made = theirs(tmp_path / "made", real, HELD[2:])
    material = material_of(made, real, generator_patients=SEEN)
    assert learned(material, other, tmp_path)[0] == told["near"]
    tensors = load_file(other / WEIGHTS)
    save_file({k: v * 1.1 for k, v in tensors.items()}, other / WEIGHTS)
    changed = learned(material, other, tmp_path)[0]
    assert changed["extractor"]["weights_sha256"] != extractor["weights_sha256"]
    assert changed["extractor"]["sha256"] != extractor["sha256"]
    assert changed["kernel_distance"] != told["near"]["kernel_distance"]


def test_a_judge_that_saw_patients_of_the_fit_does_not_look(real, tmp_path):
    run = segment(
        real.select(patients=[SEEN[0], HELD[0]]), tmp_path / "RUN", preset="tiny", steps=1,
        talk=QUIET,
    )  # fmt: skip
    made = theirs(tmp_path / "made", real, HELD[2:])
    found, _ = learned(material_of(made, real, generator_patients=SEEN), run, tmp_path)
    assert list(found) == ["missing"]
    assert "no judge is left" in found["missing"]
    free, _ = learned(material_of(made, real, generator_patients=SEEN[1:]), run, tmp_path)
    assert "kernel_distance" in free


def test_a_judge_that_saw_the_source_of_a_synthetic_image_does_not_look(real, run, tmp_path):
    """Its mask, and the real image of that patient, are known to the judge."""
    folder = tmp_path / "ours"
    cases, sources = {}, {}
    for patient in (*SEEN, HELD[0]):
        stored, mask, grid = pair_of(real, f"{patient}_ED")
        cases[f"{patient}_ED__s0"] = noisy(stored, 1, 0.3), mask, grid
        sources[f"{patient}_ED__s0"] = f"{patient}_ED", patient
    write_dataset(folder, cases)
    write_run(folder, SEEN)
    for details, looks in (({}, False), ({"masks": "generated"}, True)):
        write_manifest(folder, sources, details=dict.fromkeys(sources, details))
        found, _ = learned(material_of(folder, real), run, tmp_path)
        assert ("kernel_distance" in found) == looks


def test_judges_fitted_here_look_side_by_side(real, tmp_path):
    made = theirs(tmp_path / "made", real, SEEN, 0.2)
    material = material_of(made, real, generator_patients=SEEN)
    found, judges = learned(material, None, tmp_path, steps=2)
    assert found["extractor"]["name"].startswith("deepest features of 2 judges, side by side")
    assert found["extractor"]["weights_sha256"] == list(judges.weights)
    assert len(set(judges.weights)) == 2
    assert frozenset().union(*judges.known) == set(HELD)
    # One of them would know a patient of the fit: the other looks alone.
    one = measure_learned(
        material, replace(judges, known=[frozenset(SEEN[:1]), judges.known[1]]), seed=0, device=CPU
    )
    assert one["extractor"]["weights_sha256"] == [judges.weights[1]]
    assert "missing" in measure_learned(
        material, replace(judges, known=[frozenset(SEEN[:1])] * 2), seed=0, device=CPU
    )


def test_where_too_few_patients_are_unseen_it_is_said(real, tmp_path):
    made = theirs(tmp_path / "made", real, SEEN)
    material = material_of(made, real.select(patients=[*SEEN, *HELD[:2]]), generator_patients=SEEN)
    found, _ = learned(material, None, tmp_path, steps=1)
    assert "keep 5 patients from generator and gate" in found["missing"]


@pytest.mark.parametrize(
    ("grid", "why"),
    [
        (WorkingGrid(3, (16, 16, 8), (16, 16, 8), spacing_mm=(2, 2, 2)), "both must be 2-D"),
        (WorkingGrid(2, (32, 32), (32, 32), longest=32), "the judge works in pixels"),
    ],
)
def test_a_judge_of_another_kind_of_grid_cannot_look(real, run, tmp_path, grid, why):
    material = material_of(theirs(tmp_path / "m", real, HELD[2:]), real, generator_patients=SEEN)
    _, judges = learned(material, run, tmp_path)
    found = measure_learned(material, replace(judges, grid=grid), seed=0, device=CPU)
    assert why in found["missing"]


def test_images_are_brought_to_the_judges_pixels():
    """A disc of 10 pixels radius on a grid of 2 mm is one of 5 on a grid of 4 mm."""
    at = torch.arange(40.0) - 20
    disc = (at[:, None] ** 2 + at**2 <= 100).float() * 2 - 1
    seen = as_judged(disc[None, None], WorkingGrid(2, (32, 32), (24, 24)), (0.5, 0.5))
    assert seen.shape == (1, 1, 24, 24)
    assert float((seen > 0).sum()) == pytest.approx(np.pi * 25, rel=0.05)
    assert seen[0, 0, 0, 0] == -1


# Words and page.


def figures(kind):
    """Of images near real ones or far from them, or near some of them alone."""
    one = dict.fromkeys(("synthetic", "synthetic_deviation", "real", "real_deviation"), 0.1) | {
        "share_of_real_splits_below": float(kind == "far"), "difference_over_splits": [-1.0, 1.0],
        "of_all": 0.1,
    }  # fmt: skip
    every = dict.fromkeys(("kernel_distance", "frechet_distance", "precision", "recall"), one)
    if kind == "alike":
        every["recall"] = one | {"difference_over_splits": [-0.5, -0.2]}
    return every | {"kernel_distance_of_noise": 2.0}


def part_of(texture, by_judge):
    """Figures of texture and judge."""
    return {**figures(texture), "learned": figures(by_judge), "ms_ssim_real": None,
            "ms_ssim_synthetic": None}  # fmt: skip


@pytest.mark.parametrize(
    ("texture", "by_judge", "first", "second"),
    [
        ("near", "near", "no difference", "likewise: kernel"),
        ("far", "far", "synthetic images lie farther", "likewise: kernel"),
        ("near", "far", "no difference", "synthetic images lie farther from real ones"),
        ("far", "near", "synthetic images lie farther", "no difference between synthetic and real"),
        ("near", "alike", "no difference", "synthetic images lie no farther"),
    ],
)
def test_words_tell_both(texture, by_judge, first, second):
    sentence = words._images(part_of(texture, by_judge), "synthetic")
    assert sentence.startswith(f"By texture {first}")
    assert f"; by what the judge sees {second}" in sentence
    assert ("but have a lower recall: kernel" in sentence) == (by_judge == "alike")


def test_words_tell_what_is_missing_once():
    part = part_of("near", "near")
    apart = words._images(part | {"learned": {"missing": "no judge is left"}}, "synthetic")
    assert "features of the judge were not compared: no judge is left" in apart
    texture = {"missing": "too few", "ms_ssim_real": None, "ms_ssim_synthetic": None}
    assert words._images(texture | {"learned": {"missing": "too few"}}, "synthetic") == "Too few."
    alone = words._images(texture | {"learned": figures("far")}, "synthetic")
    assert alone.startswith("Too few; by what the judge sees synthetic images lie farther")


def test_the_page_shows_both_and_pins_the_judge(told, tmp_path):
    part = part_of("near", "far") | {
        "extractor": {"name": "texture", "sigmas_px": [1.0], "sha256": "0" * 64},
        "learned": told["far"],
    }
    html = "".join(page._images(tmp_path, part, {}))
    assert html.count("<td>kernel distance<td>") == 2
    assert told["far"]["extractor"]["weights_sha256"][0][:12] in html
    missing = part | {"learned": {"missing": "no judge is left"}}
    assert "no judge is left." in "".join(page._images(tmp_path, missing, {}))
