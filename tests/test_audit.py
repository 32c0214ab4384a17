"""The audit from end to end: what is planted is found, and what cannot be told is said."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from audited import LABELS, noisy, pair_of, write_dataset, write_manifest, write_run
from augmint.audit import audit, copying, in_words, page, run, words
from augmint.audit.adherence import choose_judges
from augmint.audit.copying import Search, held_rate, measure_copies
from augmint.audit.images import measure_images
from augmint.audit.intervals import difference, mean, share, share_difference
from augmint.audit.masks import measure_validity
from augmint.audit.material import _group, gather
from augmint.audit.parties import read_parties
from augmint.audit.shapes import best_dice, ks, measure_shapes, sizes_of
from augmint.case import Grid
from augmint.data.dataset import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.errors import AugmintError
from augmint.prepare import prepare
from augmint.presets import preset_named
from augmint.progress import Talk
from augmint.quality.copies import SAME, Calibration, clopper_pearson
from augmint.quality.memorisation import Match
from augmint.quality.validity import fit_limits_to, judge_case
from augmint.quality.validity_rules import choose_rules
from augmint.segment import segment

QUIET = Talk(quiet=True)
TINY = preset_named("tiny")
PATIENTS = [f"phantom_mr_A_{k:03d}" for k in range(1, 9)]
SEEN, HELD = PATIENTS[:3], PATIENTS[3:]


@pytest.fixture(scope="session")
def real(tmp_path_factory):
    """Eight patients at end-diastole; the generator saw the first three."""
    out = tmp_path_factory.mktemp("audit") / "Dataset901_Phantoms"
    make_phantoms("cine-mr", out=out, patients=8, slices=3, size=48)
    whole = open_dataset(out)
    return whole.select(cases=[i.case_id for i in whole.items if i.case_id.endswith("_ED")])


@pytest.fixture(scope="session")
def ours(real, tmp_path_factory):
    """Two noisy images for each seen patient; one mask with a second LV; one case rejected."""
    folder = tmp_path_factory.mktemp("audit_ours") / "Dataset902_Synthetic"
    cases, sources = {}, {}
    for k, patient in enumerate(SEEN):
        for copy in range(2):
            stored, mask, grid = pair_of(real, f"{patient}_ED")
            name = f"{patient}_ED__s0_c{copy}"
            cases[name] = noisy(stored, 10 * k + copy, 0.4), mask, grid
            sources[name] = f"{patient}_ED", patient
    first, *_, last = cases
    cases[first] = cases[first][0], with_second_lv(cases[first][1]), cases[first][2]
    apart = {last: cases.pop(last)}
    write_dataset(folder, cases)
    write_manifest(folder, sources, rejected=apart)
    write_run(folder, SEEN)
    write_dataset(folder / "rejected", apart)
    write_manifest(folder / "rejected", {last: sources[last]}, rejected=apart)
    return folder


def with_second_lv(mask):
    """A blob of LV in a corner, far from the heart, in the middle slice."""
    changed = np.array(mask)
    changed[2:6, 2:6, changed.shape[2] // 2] = LABELS["LV"]
    return changed


def plain_folder(folder, real, patients, share=0.0):
    """Somebody else's dataset: images of these patients, named as they were, no manifest."""
    cases = {}
    for patient in patients:
        stored, mask, grid = pair_of(real, f"{patient}_ED")
        cases[f"{patient}_ED"] = noisy(stored, 0, share) if share else stored, mask, grid
    return write_dataset(folder, cases)


def material_of(synthetic, real, **options):
    return gather(read_parties(synthetic, real, **options), TINY, None, QUIET)


def no_keep(name, make):
    return run.plain(make())


def strict(path):
    def refuse(word):
        raise AssertionError(f"{word} in {path}")

    return json.loads(path.read_text(), parse_constant=refuse)


@pytest.fixture(scope="session")
def audited(ours, real, tmp_path_factory):
    out = tmp_path_factory.mktemp("audited") / "AUDIT"
    return audit(ours, real, out, preset="tiny", judge_steps=2, talk=QUIET)


# The whole command.


def test_the_folder_holds_what_is_promised(audited):
    assert {p.name for p in audited.iterdir()} == {
        "audit.json", "copies.csv", "report.html", "sheets",
    }  # fmt: skip
    sheets = {p.name for p in (audited / "sheets").iterdir()}
    assert {"copies.png", "copies_own.png", "invalid.png", "samples.png", "shapes.png"} == sheets


def test_audit_json_is_plain_and_says_what_was_asked(audited):
    facts = strict(audited / "audit.json")
    assert facts["schema_version"] == 1
    assert list(facts["parts"]) == ["validity", "adherence", "copies", "images", "shapes"]
    assert facts["request"]["preset"] == "tiny"
    assert facts["request"]["generator_patients"] == SEEN
    assert facts["data"]["accepted"] == 5
    assert facts["data"]["rejected"] == 1
    assert facts["data"]["held_out_patients"] == 5
    assert facts["versions"]["torch"]


def test_the_page_has_the_sentences_and_needs_no_network(audited):
    import html

    facts = strict(audited / "audit.json")
    page = (audited / "report.html").read_text()
    words = in_words(facts)
    assert len(words) == 5
    assert facts["words"] == words
    assert all(html.escape(sentence) in page for sentence in words)
    assert "http" not in page
    assert page.count("data:image/png;base64,") == 5
    assert all(sentence.endswith(".") and "nan" not in sentence.lower() for sentence in words)


def test_the_mask_with_a_second_lv_is_found_and_pictured(audited):
    part = strict(audited / "audit.json")["parts"]["validity"]
    assert part["synthetic"]["of"] == 6
    assert part["synthetic"]["broken"]["LV components"] == 1
    assert part["accepted"]["of"] == 5
    assert part["real_are"] == "held-out"
    assert part["real"]["of"] == 5
    (found,) = [i for i in part["invalid"] if "LV: 2 components" in i["why"]]
    assert found["case"] == f"{SEEN[0]}_ED__s0_c0"


def test_the_judge_is_independent_with_five_unseen_patients(audited):
    part = strict(audited / "audit.json")["parts"]["adherence"]
    assert part["independent"]
    assert part["real_are"] == {"patients": 5, "cases": 5}
    assert set(part["labels"]) == {"RV", "MYO", "LV"}
    figure = part["labels"]["LV"]
    assert figure["synthetic"]["cases"] == 6
    assert figure["accepted"]["cases"] == 5
    low, high = figure["difference"]["interval"]
    assert low <= figure["difference"]["difference"] <= high
    assert part["accepted_share"]["share"] == pytest.approx(5 / 6)


def test_likeness_to_the_source_is_told_apart(audited):
    part = strict(audited / "audit.json")["parts"]["copies"]
    assert part["images"] == 15
    assert part["calibrated_on"]["held_out_patients"] == 5
    assert part["calibrated_on"]["seen_patients"] == 3
    assert all(pair["synthetic"].startswith(pair["real"][:16]) for pair in part["closest_own"])
    assert not any(pair["synthetic"].startswith(pair["real"][:16]) for pair in part["closest"])
    assert part["rejected"]["images"] == 3
    assert 0 <= part["membership"]["interval"][0] <= part["membership"]["auc"]


def test_copies_csv_holds_flagged_pairs_alone(audited):
    with (audited / "copies.csv").open(newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["synthetic", "real", "similarity", "threshold"]
    assert all(float(similarity) > float(threshold) for *_, similarity, threshold in rows[1:])


def test_images_and_shapes_stand_beside_real_ones(audited):
    parts = strict(audited / "audit.json")["parts"]
    assert parts["images"]["extractor"]["name"] == "texture statistics, no weights"
    assert len(parts["images"]["extractor"]["sha256"]) == 64
    assert "4 are needed" in parts["images"]["missing"]
    learned = parts["images"]["learned"]
    assert learned["missing"] == parts["images"]["missing"]
    assert "2 judges" in learned["extractor"]["name"]
    assert learned["kernel_distance_of_all"] != parts["images"]["kernel_distance_of_all"]
    told = strict(audited / "audit.json")
    assert sum("cannot be halved" in line for line in told["limitations"]) == 1
    assert "by what the judge sees it is" in told["words"][3]
    figures = parts["shapes"]["quantities"]
    assert {"LV area (mm2)", "LV volume (ml)", "LV-RV distance (mm)"} <= set(figures)
    assert all(0 <= f["ks"] <= 1 for f in figures.values())
    assert parts["shapes"]["nearest"]["synthetic"]["p95"] == pytest.approx(1, abs=1e-6)
    assert parts["shapes"]["nearest"]["synthetic, other patients"]["p50"] < 0.99


def test_an_unfinished_audit_goes_on_where_it_was(ours, real, tmp_path, monkeypatch):
    out, seen = tmp_path / "AUDIT", []

    def part(name, value):
        def measured(*given, **named):
            seen.append(name)
            if name == "images" and seen.count("images") == 1:
                raise KeyboardInterrupt
            return value

        return measured

    monkeypatch.setattr(run, "measure_adherence", part("adherence", ADHERENCE))
    monkeypatch.setattr(run, "choose_judges", part("judges", None))
    monkeypatch.setattr(run, "measure_copies", part("copies", COPIES))
    monkeypatch.setattr(run, "measure_images", part("images", IMAGES))
    monkeypatch.setattr(run, "measure_learned", part("learned", LEARNED))
    options = dict(preset="tiny", judge_steps=2, talk=QUIET)
    with pytest.raises(KeyboardInterrupt):
        audit(ours, real, out, **options)
    assert not out.exists()
    with pytest.raises(AugmintError, match="--continue"):
        audit(ours, real, out, **options)
    with pytest.raises(AugmintError, match="judge_steps"):
        audit(ours, real, out, **{**options, "judge_steps": 3}, resume=True)
    audit(ours, real, out, resume=True, **options)
    # Judges that were fitted are read again.
    assert seen == ["judges", "adherence", "copies", "images", "images", "judges", "learned"]
    assert (out / "report.html").exists()
    with pytest.raises(AugmintError, match="never overwritten"):
        audit(ours, real, out, **options)


@pytest.fixture
def stopped(ours, real, tmp_path, monkeypatch):
    """An audit that was stopped after the first part, and what it was asked."""
    folder = tmp_path / "SYNTHETIC"
    shutil.copytree(ours, folder)
    rules, out = tmp_path / "rules.yaml", tmp_path / "AUDIT"
    rules.write_text("name: one\nrules:\n  - components: {of: LV}\n")
    judge = segment(
        real.select(patients=HELD[:2]), tmp_path / "JUDGE", preset="tiny", steps=1, talk=QUIET
    )
    asked = dict(preset="tiny", rules=rules, judge=judge, talk=QUIET)

    def kill(*given, **named):
        raise KeyboardInterrupt

    for name in ("choose_judges", "measure_adherence"):
        monkeypatch.setattr(run, name, kill)
    with pytest.raises(KeyboardInterrupt):
        audit(folder, real, out, **asked)
    return folder, out, asked


@pytest.mark.parametrize("changed", ["rules", "judge", "manifest.csv", "run.json"])
def test_a_continued_audit_notices_what_was_changed_meanwhile(stopped, real, changed):
    folder, out, asked = stopped
    if changed == "rules":
        asked["rules"].write_text("name: one\nrules:\n  - components: {of: RV}\n")
        key = "rules_fingerprint"
    elif changed == "judge":
        weights = asked["judge"] / "checkpoints" / "best" / "network.safetensors"
        tensors = load_file(weights)
        save_file({k: v + 1 for k, v in tensors.items()}, weights)
        key = "judge_sha256"
    else:
        path = folder / changed
        path.write_text(path.read_text() + "\n")
        key = "record_sha256"
    with pytest.raises(AugmintError, match=f"was begun with {key}"):
        audit(folder, real, out, resume=True, **asked)


def test_the_seconds_of_a_continued_audit_are_those_of_all_its_sessions(
    stopped, real, monkeypatch
):  # fmt: skip
    folder, out, asked = stopped
    spent = out.with_name("AUDIT.partial") / ".work" / "seconds.json"
    assert json.loads(spent.read_text()) > 0
    spent.write_text("1000")
    for name, value in (
        ("choose_judges", None), ("measure_adherence", ADHERENCE), ("measure_copies", COPIES),
        ("measure_images", IMAGES), ("measure_learned", LEARNED),
    ):  # fmt: skip
        monkeypatch.setattr(run, name, lambda *given, value=value, **named: value)
    audit(folder, real, out, resume=True, **asked)
    assert 1000 < strict(out / "audit.json")["seconds"] < 1100


ADHERENCE = {
    "judge": "nobody", "independent": True, "labels": {}, "accepted_share": None, "worst": [],
}  # fmt: skip
COPIES = {"missing": "not looked for", "flagged": [], "membership": None, "sources_known": True}
IMAGES = {"missing": "not compared", "ms_ssim_real": None, "ms_ssim_synthetic": None}
LEARNED = {"missing": "not compared"}


# Who is who.


def test_our_own_dataset_says_whom_the_generator_saw(ours, real):
    parties = read_parties(ours, real)
    assert parties.seen == tuple(SEEN)
    assert parties.held == tuple(HELD)
    assert parties.gate == frozenset(SEEN)
    assert parties.gated
    assert parties.sources_known
    assert len(parties.made) == 6
    assert len(parties.accepted) == 5


def test_without_the_rejected_cases_nothing_is_said_of_all(ours, real, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(ours, folder, ignore=shutil.ignore_patterns("rejected"))
    parties = read_parties(folder, real)
    assert parties.are == "accepted"
    assert len(parties.made) == len(parties.accepted) == 5
    assert sum(ok for ok, _ in parties.verdicts) == 5
    assert len(parties.verdicts) == 6
    assert "1 of 1 cases that the gates rejected are not in" in parties.limitations[0]
    # A manifest without verdicts, and counts in run.json.
    facts = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**facts, "counts": {"rejected": 3}}))
    text = (folder / "manifest.csv").read_text().splitlines()
    (folder / "manifest.csv").write_text("".join(r.rpartition(",")[0] + "\n" for r in text))
    counted = read_parties(folder, real)
    assert counted.are == "accepted"
    assert counted.verdicts == ()
    assert "3 of 3" in counted.limitations[0]


def test_the_words_of_accepted_cases_alone_do_not_speak_of_all(audited, tmp_path):
    facts = strict(audited / "audit.json")
    assert "before any gate" in in_words(facts)[1]
    facts["data"]["synthetic_are"] = "accepted"
    words = in_words(facts)
    assert not any("before any gate" in sentence for sentence in words)
    assert "accepted synthetic masks" in words[0]
    assert "The gates accepted 83.3 %" in words[1]
    page.write_page(tmp_path, facts)
    html = (tmp_path / "report.html").read_text()
    assert "synthetic, accepted" in html
    assert "before gates" not in html


def test_where_nothing_was_accepted_rejected_cases_are_audited(ours, real, tmp_path):
    """From the folder itself, and from its folder `rejected`."""
    folder = tmp_path / "OUT"
    cases = {f"{p}_ED__s0_c0": pair_of(real, f"{p}_ED") for p in SEEN[:2]}
    sources = {name: (name[:-7], name[:-10]) for name in cases}
    write_dataset(folder / "rejected", cases)
    write_dataset(folder, {f"{SEEN[0]}_ED": pair_of(real, f"{SEEN[0]}_ED")})
    for where in (folder, folder / "rejected"):
        write_manifest(where, sources, rejected=cases)
    write_run(folder, SEEN)
    for given in (folder, folder / "rejected"):
        parties = read_parties(given, real)
        assert parties.are == "all"
        assert parties.accepted == frozenset()
        assert parties.kept == set(cases)
        assert parties.seen == tuple(SEEN)
        assert "accepted no case" in parties.limitations[0]
    out = audit(folder / "rejected", real, tmp_path / "A", preset="tiny", judge_steps=1, talk=QUIET)
    facts = strict(out / "audit.json")
    assert (facts["data"]["accepted"], facts["data"]["rejected"]) == (0, 2)
    assert facts["request"]["synthetic"].endswith("rejected")
    assert facts["parts"]["validity"]["accepted"] is None
    assert facts["parts"]["adherence"]["accepted_share"]["share"] == 0
    assert facts["parts"]["copies"]["images"] == 6
    assert facts["parts"]["copies"]["rejected"] is None
    assert "rejected synthetic images" in facts["words"][2]
    html = (out / "report.html").read_text()
    assert "2 synthetic cases, all of them rejected" in html
    assert "synthetic, accepted" not in html


def test_a_folder_of_rejected_cases_is_audited_by_the_record_above(ours, real):
    parties = read_parties(ours / "rejected", real)
    assert parties.are == "rejected"
    assert parties.seen == tuple(SEEN)
    assert len(parties.made) == 1
    assert sum(ok for ok, _ in parties.verdicts) == 5


def test_a_plain_folder_is_taken_as_synthetic_and_all_patients_as_seen(real, tmp_path):
    folder = plain_folder(tmp_path / "foreign", real, SEEN)
    parties = read_parties(folder, real)
    assert parties.seen == tuple(PATIENTS)
    assert not parties.held
    assert not parties.sources_known
    assert not parties.gated
    assert "--generator-patients" in parties.limitations[0]
    named = read_parties(folder, real, generator_patients=SEEN)
    assert named.held == tuple(HELD)
    assert not named.limitations
    assert len(read_parties(folder, real, generator_patients=2).seen) == 2


def test_patients_are_not_named_against_the_run(ours, real):
    with pytest.raises(AugmintError, match="leave out --generator-patients"):
        read_parties(ours, real, generator_patients=SEEN)


def test_the_real_dataset_itself_is_nothing_to_audit(real):
    with pytest.raises(AugmintError, match="holds no synthetic case"):
        read_parties(real, real)


def test_labels_must_be_the_same_by_name_not_by_number(real, tmp_path):
    other = {"background": 0, "RV": 1, "MYO": 2, "cavity": 3}
    stored, mask, grid = pair_of(real, f"{SEEN[0]}_ED")
    folder = write_dataset(tmp_path / "a", {"x": (stored, mask, grid)}, labels=other)
    with pytest.raises(AugmintError, match="--label-map"):
        read_parties(folder, real)
    swapped = {"background": 0, "RV": 1, "MYO": 3, "LV": 2}
    table = np.array([0, 1, 3, 2])
    folder = write_dataset(tmp_path / "b", {"x": (stored, table[mask], grid)}, labels=swapped)
    dataset, item = read_parties(folder, real).made[0]
    assert np.array_equal(dataset.load(item).mask.numpy(), mask)


def test_channels_must_be_as_many(real, tmp_path):
    stored, mask, grid = pair_of(real, f"{SEEN[0]}_ED")
    two = np.concatenate([stored, stored])
    folder = write_dataset(tmp_path / "two", {"x": (two, mask, grid)})
    with pytest.raises(AugmintError, match="2 channel"):
        read_parties(folder, real)


def test_the_generators_patients_must_be_among_the_real_ones(ours, real):
    with pytest.raises(AugmintError, match="none of the 3 patients"):
        read_parties(ours, real.select(patients=HELD))
    partly = read_parties(ours, real.select(patients=[SEEN[0], *HELD]))
    assert "2 of the 3 patients" in partly.limitations[0]


def test_one_fold_is_audited_alone(real, tmp_path):
    folder = tmp_path / "folds"
    cases = {p: pair_of(real, f"{p}_ED") for p in SEEN[:2]}
    write_dataset(folder, cases)
    write_manifest(folder, {p: (f"{p}_ED", p) for p in cases})
    text = (folder / "manifest.csv").read_text().splitlines()
    lines = [text[0], *(line.replace(",,", f",{k},") for k, line in enumerate(text[1:]))]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    folds = [
        {"fold": k, "generator_patients": [p], "gate_patients": [p]} for k, p in enumerate(SEEN[:2])
    ]
    (folder / "run.json").write_text(json.dumps({"folds": folds}))
    every = read_parties(folder, real)
    assert every.seen == tuple(SEEN[:2])
    assert "--fold" in every.limitations[0]
    one = read_parties(folder, real, fold=1)
    assert one.seen == (SEEN[1],)
    assert one.accepted == {SEEN[1]}
    with pytest.raises(AugmintError, match="of fold 7"):
        read_parties(folder, real, fold=7)


def test_sources_of_kept_pixels_count_as_seen(real, tmp_path):
    folder = tmp_path / "warped"
    write_dataset(folder, {"x": pair_of(real, f"{HELD[0]}_ED")})
    write_manifest(folder, {"x": (f"{HELD[0]}_ED", HELD[0])}, method="warped_pairs")
    write_run(folder, [], gated=False)
    assert read_parties(folder, real).seen == (HELD[0],)


def test_faulty_options_are_found_before_any_work(ours, real, tmp_path):
    kidney = tmp_path / "kidney.yaml"
    kidney.write_text("rules:\n  - area: {of: LV}\n  - needs: {of: LV, with: kidney}\n")
    for options, message in (
        ({"copy_false_alarms": 0.7}, "below 0.5"),
        ({"judge_steps": 0}, "--judge-steps"),
        ({"rules": tmp_path / "none.yaml"}, "none.yaml"),
        ({"judge": tmp_path / "none"}, "no trained segmenter"),
        ({"preset": "huge"}, "unknown preset"),
        ({"rules": kidney}, "speaks of LV, kidney.*no label is named 'kidney'.*RV, MYO, LV"),
    ):
        with pytest.raises(AugmintError, match=message):
            audit(ours, real, tmp_path / "out", talk=QUIET, **options)
    assert not (tmp_path / "out.partial").exists()


# Copies.


def test_copies_of_training_images_are_flagged_whoever_made_them(real, tmp_path):
    """Under the names of real patients, and without a manifest."""
    folder = plain_folder(tmp_path / "foreign", real, [*SEEN[:1], HELD[0]])
    material = material_of(folder, real, generator_patients=SEEN)
    found = copies_of(material, tmp_path)
    flagged = {row[0]: row[1] for row in found["flagged"]}
    train = {name for name in flagged if name.startswith(SEEN[0])}
    assert len(train) == 3
    assert all(flagged[name] == name for name in train)
    assert all(row[2] > row[3] == found["threshold"] for row in found["flagged"])
    # Images of a patient that the generator never saw are no copies of train.
    assert not any(name.startswith(HELD[0]) for name in flagged)
    assert found["others"]["copies"] == 3
    assert found["others"]["images"] == 6
    assert (found["others"]["cases"], found["others"]["of_cases"]) == (1, 2)
    assert "own" not in found
    assert (tmp_path / "sheets" / "copies.png").exists()


def test_a_copy_of_the_source_is_flagged_as_nearly_identical(real, tmp_path):
    folder = tmp_path / "ours"
    write_dataset(folder, {"x": pair_of(real, f"{SEEN[0]}_ED")})
    write_manifest(folder, {"x": (f"{SEEN[0]}_ED", SEEN[0])})
    write_run(folder, SEEN)
    found = copies_of(material_of(folder, real), tmp_path)
    assert found["others"]["copies"] == 0
    assert found["own_nearly_identical"]["copies"] == 3
    assert [row[3] for row in found["flagged"]] == [SAME] * 3


DRAWN = {"masks": "generated"}


def test_a_drawn_mask_has_no_patient_and_its_image_is_compared_with_everybody(real, tmp_path):
    """A copy of the case that the manifest names for its grid is a copy as any other."""
    folder = tmp_path / "ours"
    cases = {"drawn": pair_of(real, f"{SEEN[0]}_ED"), "warped": pair_of(real, f"{SEEN[1]}_ED")}
    write_dataset(folder, cases)
    sources = {"drawn": (f"{SEEN[0]}_ED", SEEN[0]), "warped": (f"{SEEN[1]}_ED", SEEN[1])}
    write_manifest(folder, sources, details={"drawn": DRAWN, "warped": {"masks": "warped"}})
    write_run(folder, SEEN)
    material = material_of(folder, real)
    found = copies_of(material, tmp_path)
    assert found["others"]["copies"] == 3
    assert found["others"]["cases"] == 1
    assert found["own_nearly_identical"]["copies"] == 3
    above = {(row[0].split("#")[0], row[3]) for row in found["flagged"]}
    assert above == {("drawn", found["threshold"]), ("warped", SAME)}
    apart = best_dice(material.made.planes(), material.real.planes(), material, apart=True)
    drawn = [name.startswith("drawn") for name in material.made.planes().names]
    assert apart[drawn] == pytest.approx(1, abs=1e-6)
    assert (apart[np.logical_not(drawn)] < 0.999).all()


def test_where_all_masks_are_drawn_nobody_is_told_apart(real, tmp_path):
    folder = tmp_path / "ours"
    write_dataset(folder, {"x": pair_of(real, f"{SEEN[0]}_ED")})
    write_manifest(folder, {"x": (f"{SEEN[0]}_ED", SEEN[0])}, details={"x": DRAWN})
    write_run(folder, SEEN)
    material = material_of(folder, real)
    search = Search(material, False, "cpu", QUIET)
    assert not search.owned
    assert {picture.patient for picture in search.made.pictures()} == {""}
    assert set(measure_shapes(material, tmp_path, seed=0)["nearest"]) == {
        "synthetic", "real", "synthetic, less real",
    }  # fmt: skip


def test_lenders_are_spread_over_all_seen_patients(real, tmp_path, monkeypatch):
    folder = plain_folder(tmp_path / "foreign", real, SEEN[:1])
    search = Search(material_of(folder, real), False, "cpu", QUIET)
    asked = []
    monkeypatch.setattr(copying, "LENDERS", 5)
    monkeypatch.setattr(Search, "index", None)
    monkeypatch.setattr(
        copying, "calibrate", lambda index, pictures, **named: asked.extend(pictures)
    )
    search.calibration(0.01)
    assert {p.patient for p in asked} == {PATIENTS[k] for k in (0, 2, 4, 5, 7)}


def test_too_few_patients_for_a_threshold_are_said(real, tmp_path):
    few = real.select(patients=SEEN)
    folder = plain_folder(tmp_path / "foreign", real, SEEN[:1])
    found = copies_of(material_of(folder, few), tmp_path)
    assert "5 are needed" in found["missing"]
    assert found["flagged"] == []
    assert found["closest"][0]["similarity"] > SAME


def copies_of(material, folder):
    search = Search(material, False, "cpu", QUIET)
    search.membership = lambda seed: None
    return measure_copies(search, folder, no_keep, false_alarms=0.01, seed=0)


def test_a_held_out_patient_is_judged_by_the_others():
    tops = {f"p{k}": 0.30 + 0.001 * k for k in range(7)} | {"odd": 0.9}
    matches = tuple(Match(f"{p}#z000", p, "r", value) for p, value in tops.items())
    found = Calibration(0.95, 0.01, "", tops, len(matches), matches)
    told = held_rate(found, set(tops), 0)
    assert told["copies"] == 1
    assert told["images"] == 8
    assert held_rate(found, set(), 0) is None


# Masks and shapes.


def validity_of(material, folder, rules=None):
    chosen = choose_rules(rules, material.facts.labels)
    return measure_validity(material, chosen, folder, seed=0)


def test_labels_without_rules_are_not_judged(real, tmp_path):
    named = {"background": 0, "kidney": 1}
    stored, mask, grid = pair_of(real, f"{SEEN[0]}_ED")
    pair = {"x": (stored, (mask > 0).astype(int), grid)}
    folders = [write_dataset(tmp_path / name, pair, labels=named) for name in "ab"]
    told = validity_of(material_of(*folders), tmp_path)
    assert "kidney" in told["missing"]
    assert "--rules" in told["missing"]


def test_a_size_that_was_asked_for_has_no_limit(real, tmp_path):
    told = {}
    for name, details in (("asked", {"asked_LV": "0.99", "asked_other": "1"}), ("not", {})):
        folder = tmp_path / name
        stored, mask, grid = pair_of(real, f"{SEEN[0]}_ED")
        write_dataset(folder, {"x": (stored, np.where(mask == 2, 3, mask), grid)})
        write_manifest(folder, {"x": (f"{SEEN[0]}_ED", SEEN[0])}, details={"x": details})
        write_run(folder, SEEN)
        material = material_of(folder, real)
        told[name] = set(validity_of(material, tmp_path)["synthetic"]["broken"])
        assert any("asked for a LV area" in line for line in material.limitations) == bool(details)
    assert "LV area" in told["not"]
    assert "LV area" not in told["asked"]
    assert told["asked"] - {"LV area"}


def test_a_training_mask_that_went_the_way_of_a_synthetic_one_passes(real, tmp_path):
    """Shrunk onto a coarse grid and back its walls are not what they were."""
    folder = tmp_path / "same"
    training = real.select(patients=SEEN)
    coarse = replace(prepare(training, TINY).facts.grid, longest=None, spacing_mm=(4.5, 4.5))
    cases = {}
    for case in training:
        working = coarse.to_working(case, shape=coarse.window)
        back = coarse.to_native(working, case.grid)
        stored = pair_of(real, case.case_id)[0]
        cases[f"{case.case_id}__s0_c0"] = stored, back.mask.numpy(), case.grid
    write_dataset(folder, cases)
    write_manifest(folder, {n: (n[:-7], n[:-10]) for n in cases})
    write_run(folder, SEEN)
    parties = read_parties(folder, real)
    made = _group(parties.made, coarse, "", QUIET)
    seen = [(parties.real, i) for i in parties.real.items if i.patient_id in SEEN]
    again = _group(seen, coarse, "", QUIET, regridded=True)
    once = _group(seen, coarse, "", QUIET)
    assert torch.equal(made.masks, again.masks)
    assert not torch.equal(made.masks, once.masks)
    rules, labels = choose_rules(None, real.labels), real.labels
    limits = fit_limits_to(again.cases(), labels, rules)
    assert all(judge_case(case, labels, rules, limits).ok for case in made.cases())


def test_rules_of_ones_own_are_asked(real, tmp_path, ours):
    material = material_of(ours, real)
    rules = tmp_path / "rules.yaml"
    rules.write_text("name: one\nrules:\n  - components: {of: LV}\n")
    told = validity_of(material, tmp_path, rules)
    assert told["rules"] == "one"
    assert told["synthetic"]["share"] == pytest.approx(5 / 6)
    assert told["real"]["share"] == 1


def test_with_few_held_out_patients_those_of_the_fit_speak_in_folds(ours, real, tmp_path):
    material = material_of(ours, real.select(patients=[*SEEN, HELD[0]]))
    told = validity_of(material, tmp_path)
    assert told["real_are"] == "out of fold"
    assert told["real"]["patients"] == 3
    assert told["difference"]


def test_with_few_held_out_patients_a_mask_is_judged_without_its_source(real, tmp_path):
    """Copies of real masks fare as these do."""
    folder = tmp_path / "ours"
    cases = {}
    for k, patient in enumerate(SEEN):
        stored, mask, grid = pair_of(real, f"{patient}_ED")
        # Everybody has an RV of a size that no other has.
        mask = np.where(mask == 1, (np.arange(48) % (k + 2) == 0)[:, None, None], mask)
        cases[f"{patient}_ED"] = stored, mask, grid
    data = write_dataset(tmp_path / "data", cases)
    told = {}
    for name, details in (("sources", {}), ("drawn", DRAWN)):
        write_dataset(folder := tmp_path / name, {f"{n}__s0_c0": c for n, c in cases.items()})
        sources = {f"{n}__s0_c0": (n, n) for n in cases}
        write_manifest(folder, sources, details=dict.fromkeys(sources, details))
        write_run(folder, list(cases))
        told[name] = validity_of(material_of(folder, open_dataset(data)), tmp_path)
    found = told["sources"]
    assert found["real"]["share"] < 1
    assert found["synthetic"]["share"] == found["real"]["share"]
    assert found["difference"]["difference"] == 0
    assert told["drawn"]["synthetic_favoured"]
    assert told["drawn"]["difference"] is None
    assert "favours the synthetic ones" in words._validity(told["drawn"], "synthetic")


def test_sizes_of_a_drawn_mask(ours, real):
    group = material_of(ours, real).real.of(patients={SEEN[0]})
    group.masks[:] = 0
    group.masks[1, 4:8, 4:9] = LABELS["LV"]
    group.masks[1, 4:8, 12:14] = LABELS["RV"]
    step = group.canvas.spacing_mm[0]
    depth = next(iter(group.depths.values()))
    found = {name: values for name, (values, _) in sizes_of(group, LABELS_ONLY).items()}
    assert found["LV area (mm2)"] == pytest.approx([20 * step**2])
    assert found["LV volume (ml)"] == pytest.approx([20 * step**2 * depth / 1000])
    # From column 8 to column 12.
    assert found["LV-RV distance (mm)"] == pytest.approx([4 * step])


LABELS_ONLY = {n: i for n, i in LABELS.items() if i}


def test_ks_of_known_sets():
    assert ks(np.arange(10.0), np.arange(10.0)) == 0
    assert ks(np.arange(10.0), np.arange(10.0) + 100) == 1
    assert ks(np.array([1.0, 2, 3, 4]), np.array([3.0, 4, 5, 6])) == 0.5


def test_the_nearest_mask_of_a_copy_has_a_dice_of_1(ours, real):
    material = material_of(ours, real)
    train = material.seen.planes()
    train = train.take([i for i, m in enumerate(train.masks) if m.any()])
    assert best_dice(train, train, material) == pytest.approx(1, abs=1e-6)
    apart = best_dice(train, train, material, apart=True)
    assert (apart < 0.999).all()
    assert np.isnan(best_dice(train.take([0]), train.take([0]), material, apart=True)).all()


def test_shapes_far_off_are_named(real, tmp_path):
    folder = tmp_path / "shrunk"
    cases = {}
    for patient in SEEN:
        stored, mask, grid = pair_of(real, f"{patient}_ED")
        cases[f"small_{patient}"] = (
            stored,
            np.where(mask == LABELS["LV"], LABELS["MYO"], mask),
            grid,
        )
        small = cases[f"small_{patient}"][1]
        x, y, _ = np.argwhere(mask == LABELS["LV"]).mean(0).round().astype(int)
        small[x : x + 2, y : y + 2] = LABELS["LV"]
    write_dataset(folder, cases)
    material = material_of(folder, real, generator_patients=SEEN)
    figures = measure_shapes(material, tmp_path, seed=0)["quantities"]["LV area (mm2)"]
    assert figures["ks"] > 0.9 > figures["ks_of_real_halves"]["p95"]
    assert figures["difference_of_means"]["interval"][1] < 0


# Images and agreement.


def test_images_of_another_kind_lie_farther_off_than_real_ones(real, tmp_path):
    near = plain_folder(tmp_path / "near", real, HELD)
    far = plain_folder(tmp_path / "far", real, HELD, share=0.5)
    told = {}
    for folder in (near, far):
        material = material_of(folder, real, generator_patients=[*SEEN, *HELD[:2]])
        told[folder.name] = measure_images(material, tmp_path, seed=0)["kernel_distance"]
    assert told["far"]["synthetic"] > 3 * told["near"]["synthetic"]
    assert told["far"]["share_of_real_splits_below"] == 1


def test_with_few_unseen_patients_the_judge_is_not_independent(ours, real, tmp_path):
    material = material_of(ours, real.select(patients=[*SEEN, HELD[0]]))
    judges = judges_of(material, None, tmp_path, steps=1)
    assert not judges.independent
    assert "not independent" in judges.words
    assert frozenset().union(*judges.blind) == {*SEEN, HELD[0]}
    assert not judges.blind[0] & judges.blind[1]


def test_a_given_judge_says_whom_it_saw(ours, real, tmp_path):
    made = segment(
        real.select(patients=[SEEN[0], HELD[0]]), tmp_path / "RUN", preset="tiny", steps=1,
        talk=QUIET,
    )  # fmt: skip
    judges = judges_of(material_of(ours, real), made, tmp_path, steps=None)
    assert not judges.independent
    assert "saw 1 patient" in judges.words
    assert judges.blind[0] == set(PATIENTS) - {SEEN[0], HELD[0]}


def judged_by(run, ours, real, folder, *, kind="residual_unet"):
    """The judges, where the gate was of a kind."""
    moved = folder / "moved"
    shutil.copytree(ours, moved)
    if kind:
        (moved / "run" / "gate").mkdir(parents=True)
        facts = json.dumps({"segmenter": {"network": kind}})
        (moved / "run" / "gate" / "gate.json").write_text(facts)
    return judges_of(material_of(moved, real), run, folder, steps=None if run else 1)


@pytest.fixture(scope="session")
def unseen_judge(real, tmp_path_factory):
    out = tmp_path_factory.mktemp("judge") / "RUN"
    return segment(real.select(patients=HELD[:2]), out, preset="tiny", steps=1, talk=QUIET)


@pytest.mark.parametrize(
    ("kind", "independent", "told"),
    [
        ("residual_unet", True, "RUN, unet"),
        ("unet", False, "the gate is a network of its kind, unet"),
        ("", False, "nothing says what network the gate is"),
    ],
)
def test_a_given_judge_is_of_another_kind_than_the_gate(
    unseen_judge, ours, real, tmp_path, kind, independent, told
):  # fmt: skip
    judges = judged_by(unseen_judge, ours, real, tmp_path, kind=kind)
    assert judges.independent == independent
    assert told in judges.words


def test_judges_of_the_gates_kind_are_not_independent(ours, real, tmp_path):
    judges = judged_by(None, ours, real, tmp_path, kind="attention_unet")
    assert not judges.independent
    assert "the gate is an attention_unet" in judges.words


def test_patients_of_another_dataset_are_other_people(ours, real, tmp_path):
    cases = {f"{p}_ED": pair_of(real, f"{p}_ED") for p in SEEN[:2]}
    other = open_dataset(write_dataset(tmp_path / "other", cases), patient_regex=r"(.*)_ED")
    assert set(other.patients) == set(SEEN[:2])
    assert other.name != real.name
    made = segment(other, tmp_path / "RUN", preset="tiny", steps=1, talk=QUIET)
    judges = judged_by(made, ours, real, tmp_path)
    assert judges.independent
    assert judges.blind[0] == set(PATIENTS)


def judges_of(material, given, folder, steps):
    return choose_judges(
        material, given, folder, preset=TINY, steps=steps, seed=0, device=torch.device("cpu"),
        talk=QUIET,
    )  # fmt: skip


# One grid.


def test_frames_are_compared_with_slices_of_volumes(real, tmp_path):
    """Somebody's pictures of single slices, which have no spacing."""
    plane = list(real.load(real.items[0]).slices())[1]
    grid = Grid(plane.grid.shape[::-1], np.eye(3), False)
    stored = (plane.image.mT.numpy() * 100 + 100).astype(np.uint8)
    folder = write_dataset(
        tmp_path / "frames", {"x": (stored, plane.mask.mT.numpy(), grid)}, ending=".png"
    )
    material = material_of(folder, real)
    assert material.by_slice
    assert "no spacing" in material.limitations[0]
    told = validity_of(material, tmp_path)
    assert told["unit"] == "slice"
    assert told["synthetic"]["of"] == 1
    # The slice is turned as the working grid turns volumes.
    dice = best_dice(material.made.planes(), material.real.planes(), material)
    assert dice == pytest.approx(1, abs=1e-6)


# Words.


def test_words_claim_no_likeness_that_was_not_shown(audited):
    facts = strict(audited / "audit.json")
    shapes = in_words(facts)[4]
    known = facts["parts"]["shapes"]["quantities"]
    assert f"of {len(known)} sizes" in shapes
    assert "No difference between synthetic and real masks is shown" in shapes
    assert "spread as" not in shapes
    shown = "By texture no difference between synthetic and real"
    for below, begins in ((0.5, shown), (1, "By texture synthetic images lie farther")):
        figure = dict.fromkeys(
            ("synthetic", "synthetic_deviation", "real", "real_deviation"), 0.1
        ) | {"share_of_real_splits_below": below, "difference_over_splits": [-1, 1]}  # fmt: skip
        kinds = ("kernel_distance", "precision", "recall")
        facts["parts"]["images"] = dict.fromkeys(kinds, figure) | IMAGES
        assert in_words(facts)[3].startswith(begins)


def test_the_promise_on_unseen_patients_says_what_it_assumes(audited):
    facts = strict(audited / "audit.json")
    part, data = facts["parts"]["copies"], facts["data"]
    assert part["normal_below"] == 99
    few = "if the likeness of patients is normally distributed (from 99 patients on"
    assert few in "".join(page._copies(audited, part, data))
    part["calibrated_on"]["seen_patients"] = 99
    assert few not in "".join(page._copies(audited, part, data))


def test_a_bound_that_allows_nothing_has_no_unit():
    bound = {"low": None, "high": 0.0, "unit": "mm2"}
    assert page._allowed({"LV holes": bound}, "LV holes") == "none"
    assert page._allowed({"LV holes": bound | {"high": 5.0}}, "LV holes") == "up to 5 mm2"


# Intervals.


def test_a_share_has_the_patients_interval():
    alike = share([True] * 12, list("aabbccddeeff"))
    assert alike["share"] == 1
    assert alike["interval"] == list(clopper_pearson(6, 6))
    mixed = share([True, True, False, False], list("aabb"))
    assert mixed["interval"] == [0, 1]
    assert mixed["patients"] == 2


def test_shares_of_all_and_none_differ_with_a_width():
    every, none = share([True] * 4, list("abcd")), share([False] * 5, list("efghi"))
    apart = share_difference(every, none)
    assert apart["difference"] == 1
    low = 1 - np.hypot(1 - clopper_pearson(4, 4)[0], clopper_pearson(0, 5)[1])
    assert apart["interval"] == pytest.approx([low, 1])


def test_means_and_differences_count_patients_not_cases():
    assert mean([0, 0, 0, 1], list("aaab"))["mean"] == 0.5
    apart = difference([0.0, 0, 0, 1], list("aaab"), [0.25, 0.25], list("cd"))
    assert apart["difference"] == 0.25
    assert apart["interval"] == pytest.approx([-0.25, 0.75])
    assert difference([1.0], ["a"], [0.0, 1.0], list("bc")) is None
