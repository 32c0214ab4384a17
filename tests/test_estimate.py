"""The plans of --dry-run: what they count, and how it adds up."""

import pytest

from augmint import estimate
from augmint.data import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.estimate import in_words, plan_augment, plan_fit
from augmint.prepare import prepare
from augmint.presets import preset_named
from augmint.progress import Talk

QUIET = Talk(quiet=True)
PATIENTS, SLICES = 6, 4
# Two phases of each patient.
IMAGES = 2 * PATIENTS * SLICES
INDEX, SEARCH = 0.5, 8.0


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "data"
    return open_dataset(
        make_phantoms("cine-mr", out=folder, patients=PATIENTS, slices=SLICES, size=32)
    )


@pytest.fixture
def clock(monkeypatch):
    """Time that passes by images indexed and searched alone."""
    now = [0.0]

    def index(pictures, **rest):
        now[0] += INDEX * len(pictures)

    def search(index, pictures):
        assert len(pictures) <= estimate.MEASURED_SEARCHES
        now[0] += SEARCH * len(pictures)

    monkeypatch.setattr(estimate, "index_pictures", index)
    monkeypatch.setattr(estimate, "nearest", search)
    monkeypatch.setattr(estimate.time, "perf_counter", lambda: now[0])


def planned(dataset, gates, **changes):
    arguments = {
        "method": "warped_pairs", "settings": {}, "copies": 2, "preset": "tiny", "patients": None,
        "num_folds": 0, "held_fraction": 0.0, "steps": None, "dims": None, "seed": 0,
        "device": "cpu", "talk": QUIET, "gates": gates, **changes,
    }  # fmt: skip
    return plan_augment(dataset, None, **arguments)


def test_the_search_for_copies_is_counted_where_it_is_asked_for(dataset, monkeypatch):
    monkeypatch.setattr(estimate, "MEASURED_SEARCHES", 2)
    plan = planned(dataset, ("copies",))
    minutes = plan["minutes"]
    assert minutes["copies"] > 0
    assert minutes["total"] == pytest.approx(sum(minutes.values()) - minutes["total"], abs=1e-3)
    told = in_words(plan)
    assert f"copies {minutes['copies']:.1f}" in told
    assert "search for copies" in told
    without = planned(dataset, ())
    assert "copies" not in without["minutes"]
    assert "search for copies" not in in_words(without)


@pytest.mark.parametrize("copies", [1, 3])
def test_every_image_is_indexed_and_searched_and_every_new_one_searched(dataset, clock, copies):
    prepared = prepare(dataset, preset_named("tiny"))
    found = estimate._measure_copies(prepared, copies, "cpu")
    assert found == pytest.approx(INDEX * IMAGES + SEARCH * IMAGES * (1 + copies))


def test_of_many_patients_some_alone_teach_the_threshold(dataset, clock, monkeypatch):
    monkeypatch.setattr("augmint.quality.gates.LENDERS", 3)
    prepared = prepare(dataset, preset_named("tiny"))
    found = estimate._measure_copies(prepared, 1, "cpu")
    assert found == pytest.approx(INDEX * IMAGES + SEARCH * IMAGES * (0.5 + 1))


def test_volumes_are_searched_slice_by_slice(dataset, clock):
    prepared = prepare(dataset, preset_named("tiny"), dims=3)
    slices = 2 * PATIENTS * prepared.facts.grid.window[-1]
    found = estimate._measure_copies(prepared, 1, "cpu")
    assert found == pytest.approx(INDEX * slices + SEARCH * slices * 2)


SHIFT = {"network": "tiny", "num_steps": 1}


def fit_of(dataset, method, **changes):
    return plan_fit(
        dataset, None, method=method, settings={}, preset="tiny", patients=None, steps=2,
        dims=None, seed=0, device="cpu", talk=QUIET, **changes,
    )["minutes"]  # fmt: skip


def test_a_calibration_is_its_segmenter_and_its_shifts(dataset, monkeypatch):
    monkeypatch.setattr(estimate, "_measure_fit", lambda *rest: ({}, 8.0))
    monkeypatch.setattr(estimate, "_measure_segmenter", lambda *rest: 0.0)
    batch = preset_named("tiny").batch_size
    for unlabelled in (False, True):
        monkeypatch.setattr(
            estimate, "evaluations_to_calibrate", lambda method, cases, unlabelled: 10 + unlabelled
        )
        told = fit_of(dataset, "reference_shift", unlabelled=unlabelled)
        seconds = (10 + unlabelled) * SLICES * 8.0 / batch / 3
        assert told["calibrate"] == pytest.approx(seconds / 60, abs=1e-3)
        assert told["total"] == pytest.approx(told["fit"] + told["calibrate"], abs=1e-3)
    monkeypatch.setattr(estimate, "_measure_segmenter", lambda *rest: 60.0)
    longer = fit_of(dataset, "reference_shift", unlabelled=True)
    steps = preset_named("tiny").gate_steps
    assert longer["calibrate"] - told["calibrate"] == pytest.approx(steps, abs=1e-3)


def test_methods_without_a_calibration_count_none(dataset):
    assert "calibrate" not in fit_of(dataset, "warped_pairs")


def test_source_like_images_are_counted_with_the_calibration_of_their_fit(dataset):
    minutes = planned(dataset, (), method="reference_shift", settings=SHIFT, steps=2)["minutes"]
    assert minutes["calibrate"] > 0
    assert minutes["generate"] > 0
