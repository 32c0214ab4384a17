import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from augmint.data.dataset import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.errors import AugmintError
from augmint.generate import generate
from augmint.progress import Talk
from augmint.survey import survey
from augmint.survey.answers import open_key

QUIET = Talk(quiet=True)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """Real phantoms of two vendors and warped pairs of them."""
    folder = tmp_path_factory.mktemp("survey")
    make_phantoms("apical-ultrasound", out=folder / "real", patients=8, size=48)
    generate("warped_pairs", folder / "real", folder / "made", copies=2, preset="demo", talk=QUIET)
    return folder


@pytest.fixture(scope="module")
def made(cohort):
    return survey(cohort / "made", cohort / "real", cohort / "survey", images=24, talk=QUIET)


def frames_of(folder):
    page = (folder / "survey.html").read_text(encoding="utf-8")
    content = re.search(r'<script type="application/json" id="survey">(.*?)</script>', page)[1]
    found = json.loads(content)
    return found["survey"], {f["id"]: base64.b64decode(f["png"]) for f in found["frames"]}


def test_the_key_holds_as_many_real_as_generated_frames_alike_in_domain_view_and_phase(made):
    _, pictures = frames_of(made)
    key = json.loads((made / "key.json").read_text())
    frames = key["frames"]
    assert list(frames) == list(pictures)
    groups = {
        kind: sorted(
            (f["domain"], f["view"], f["phase"]) for f in frames.values() if f["kind"] == kind
        )
        for kind in ("real", "generated")
    }
    assert groups["real"] == groups["generated"]
    assert len(groups["real"]) == 12
    assert "Readers must not get this file" in key["secret"]


def test_no_patient_is_shown_both_ways(made):
    frames = json.loads((made / "key.json").read_text())["frames"].values()
    real = {f["patient"] for f in frames if f["kind"] == "real"}
    assert real.isdisjoint(f["patient"] for f in frames if f["kind"] == "generated")


def test_the_key_names_the_files(made, cohort):
    for frame in json.loads((made / "key.json").read_text())["frames"].values():
        home = cohort / ("made" if frame["kind"] == "generated" else "real")
        assert (home / frame["file"]).is_file()


def test_the_page_names_no_case_and_no_place(made, cohort):
    page = (made / "survey.html").read_text(encoding="utf-8")
    key = json.loads((made / "key.json").read_text())
    words = re.sub(r'"png":"[^"]+"', "", page)
    for frame in key["frames"].values():
        for field in ("case", "file", "patient"):
            assert frame[field] not in words
    for word in (str(cohort), "phantom", "warped", "__s0", "imagesTr", "2CH", '"kind"'):
        assert word not in words
    shown = re.findall(r'\{("id":"[0-9a-f]{8}",)("png":"[^"]+")\}', page)
    assert len(shown) == 24


def test_the_page_asks_nothing_of_any_network(made):
    page = (made / "survey.html").read_text(encoding="utf-8")
    assert "http://" not in page
    assert "https://" not in page
    assert not re.search(r"<link|<script src|@import|url\(|fetch\(|XMLHttpRequest", page)
    assert "default-src 'none'" in page


def test_pictures_are_alike_in_everything_but_their_pixels(made):
    _, pictures = frames_of(made)
    assert len({len(png) for png in pictures.values()}) == 1
    opened = [Image.open(io.BytesIO(png)) for png in pictures.values()]
    assert {(one.mode, one.size, tuple(one.info)) for one in opened} == {("L", (384, 384), ())}
    assert len({np.asarray(one).tobytes() for one in opened}) == len(pictures)


def test_names_and_their_order_tell_nothing_of_the_kind(cohort):
    """Over several surveys the place in the page and the kind go apart."""
    places = {"real": [], "generated": []}
    for seed in range(6):
        out = cohort / f"seed{seed}"
        survey(cohort / "made", cohort / "real", out, images=24, seed=seed, talk=QUIET)
        frames = open_key(out).frames
        assert all(re.fullmatch("[0-9a-f]{8}", name) for name in frames)
        for place, frame in enumerate(frames.values()):
            places[frame["kind"]].append(place)
    # 72 places of each kind: their means differ by 1.15 in standard deviation if by chance.
    assert abs(np.mean(places["real"]) - np.mean(places["generated"])) < 3.5


def test_one_seed_makes_the_same_bytes_and_another_one_another_survey(made, cohort):
    again = survey(cohort / "made", cohort / "real", cohort / "again", images=24, talk=QUIET)
    for name in ("survey.html", "key.json"):
        assert (again / name).read_bytes() == (made / name).read_bytes()
    other = survey(
        cohort / "made", cohort / "real", cohort / "other", images=24, seed=7, talk=QUIET
    )
    assert frames_of(other)[0] != frames_of(made)[0]
    assert sorted(p.name for p in made.iterdir()) == ["key.json", "survey.html"]


def test_volumes_show_the_slice_that_the_key_names(tmp_path):
    make_phantoms("cine-mr", out=tmp_path / "real", patients=4, size=32, slices=3)
    generate(
        "warped_pairs", tmp_path / "real", tmp_path / "made", copies=1, preset="demo", talk=QUIET
    )
    out = survey(tmp_path / "made", tmp_path / "real", tmp_path / "out", images=4, talk=QUIET)
    assert {f["slice"] for f in open_key(out).frames.values()} <= {f"{k} of 3" for k in (1, 2, 3)}
    assert len(frames_of(out)[1]) == 4


def test_without_a_known_working_grid_it_is_said_that_sharpness_may_tell(cohort, tmp_path, capsys):
    record = cohort / "made" / "run.json"
    before = record.read_text()
    record.unlink()
    try:
        out = survey(cohort / "made", cohort / "real", tmp_path / "out", images=4)
    finally:
        record.write_text(before)
    assert "by sharpness alone" in capsys.readouterr().err
    assert any("by sharpness alone" in note for note in open_key(out).notes)


def test_rejected_cases_are_shown_only_when_asked_for(tmp_path, cohort):
    """All accepted but one: with two copies of one source both must be drawn."""
    import shutil

    folder = tmp_path / "made"
    shutil.copytree(cohort / "made", folder)
    rejected = folder / "rejected"
    facts = json.loads((folder / "dataset.json").read_text())
    lines = (folder / "manifest.csv").read_text().splitlines()
    moved = next(i.case_id for i in open_dataset(folder).items if i.synthetic)
    for part, name in (("imagesTr", f"{moved}_0000.png"), ("labelsTr", f"{moved}.png")):
        (rejected / part).mkdir(parents=True)
        (folder / part / name).rename(rejected / part / name)
    (rejected / "dataset.json").write_text(json.dumps({**facts, "numTraining": 1}))
    rows = [line for line in lines if f",{moved}," in line]
    (rejected / "manifest.csv").write_text("\n".join([lines[0], *rows]) + "\n")
    others = [i.case_id for i in open_dataset(folder).items if i.synthetic]
    for name in others:
        (folder / "imagesTr" / f"{name}_0000.png").unlink()
        (folder / "labelsTr" / f"{name}.png").unlink()
    facts["numTraining"] -= 1 + len(others)
    (folder / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(AugmintError, match="marks no case as synthetic"):
        survey(folder, cohort / "real", tmp_path / "a", images=2, talk=QUIET)
    out = survey(folder, cohort / "real", tmp_path / "b", images=2, accepted_only=False, talk=QUIET)
    (frame,) = (f for f in open_key(out).frames.values() if f["kind"] == "generated")
    assert frame["case"] == moved
    assert frame["file"].startswith("rejected/")
    assert frame["view"]


@pytest.mark.parametrize("images", [0, 1, 7, -2])
def test_the_number_of_images_is_even(cohort, tmp_path, images):
    with pytest.raises(AugmintError, match="even number"):
        survey(cohort / "made", cohort / "real", tmp_path / "out", images=images)


def test_bad_input_leaves_nothing_behind(cohort, tmp_path):
    with pytest.raises(AugmintError, match="marks no case as synthetic"):
        survey(cohort / "real", cohort / "real", tmp_path / "out", images=4)
    with pytest.raises(AugmintError, match="images need"):
        survey(cohort / "made", cohort / "real", tmp_path / "out", images=400)
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    with pytest.raises(AugmintError, match="never overwritten"):
        survey(cohort / "made", cohort / "real", tmp_path / "out", images=4)
