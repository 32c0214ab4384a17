import pytest

from augmint.data.dataset import open_dataset
from augmint.errors import AugmintError
from test_data_dataset import make_nnunet, write_csv


@pytest.mark.parametrize(
    ("names", "patients", "rule"),
    [
        (["patient001_frame01", "patient001_frame12"], {"patient001"}, "patientNNN"),
        (["patient0001_2CH_ED", "patient0011_4CH_ES"], {"patient0001", "patient0011"}, "patientN"),
        (["SC-HF-I-01_0048", "SC-HF-I-01_0068"], {"SC-HF-I-01"}, "SC-"),
        (["SC-HF-NI-03_1", "SC-N-02_1"], {"SC-HF-NI-03", "SC-N-02"}, "SC-"),
        (["A0S9V9_frame00", "A0S9V9_frame10", "B1D6E3_sa_ED"], {"A0S9V9", "B1D6E3"}, "M&Ms"),
        (["001_SA_ED", "001_LA_ES", "161_SA_ES"], {"001", "161"}, "M&Ms-2"),
        (["001_CT_ED", "ABCDEF_1"], {"001_CT_ED", "ABCDEF_1"}, "its own"),
        (["sub-01_ses-1_T1w", "sub-01_ses-2_T1w"], {"sub-01"}, "sub-"),
        (["hippocampus_001", "hippocampus_002"], {"hippocampus_001", "hippocampus_002"}, "its own"),
        (["patient001_a", "other"], {"patient001", "other"}, "1 of 2, others themselves"),
    ],
)
def test_built_in_rules_find_patients_in_names(tmp_path, names, patients, rule):
    dataset = open_dataset(make_nnunet(tmp_path / "D", names))
    assert set(dataset.patients) == patients
    assert rule in dataset.patient_rule


@pytest.mark.parametrize("regex", [r"^(p\d+)-", r"^p\d+"])
def test_expression_takes_its_group_or_the_whole_match(tmp_path, regex):
    root = make_nnunet(tmp_path / "D", ["p1-a", "p1-b", "p2-a"])
    dataset = open_dataset(root, patient_regex=regex)
    assert dataset.patients == ("p1", "p2")
    assert regex in dataset.patient_rule


def test_expression_that_misses_a_case_names_it(tmp_path):
    root = make_nnunet(tmp_path / "D", ["p1-a", "q2-a"])
    with pytest.raises(AugmintError, match="does not match q2-a"):
        open_dataset(root, patient_regex=r"^p\d+")
    with pytest.raises(AugmintError, match=r"patient expression '\(': "):
        open_dataset(root, patient_regex="(")


def test_cases_csv_names_patients_domains_and_columns(tmp_path):
    root = make_nnunet(tmp_path / "D", ["a1", "a2", "a3"])
    rows = [
        {"case": f"a{i}", "patient": f"P{i // 2}", "domain": f"vendor{i % 2}", "sex": "F"}
        for i in (1, 2, 3)
    ]
    write_csv(root / "cases.csv", rows)
    dataset = open_dataset(root)
    assert dataset.patients == ("P0", "P1")
    assert dataset.domains == ("vendor0", "vendor1")
    assert dataset.items[0].columns["sex"] == "F"
    assert "cases.csv" in dataset.patient_rule
    with pytest.raises(AugmintError, match="names the patients already"):
        open_dataset(root, patient_regex="a")


def test_cases_csv_without_patients_leaves_them_to_the_names(tmp_path):
    root = make_nnunet(tmp_path / "D", ["patient001_a", "patient001_b"])
    write_csv(
        root / "cases.csv",
        [{"case": f"patient001_{i}", "domain": "GE", "organ": "heart"} for i in "ab"],
    )
    dataset = open_dataset(root)
    assert dataset.patients == ("patient001",)
    assert dataset.domains == ("GE",)
    assert dataset.load(dataset.items[0]).text == ("MR", "heart")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("case,patient\na1,P1\n", "no row for a2; add them"),
        ("case,patient\na1,P1\na2,\n", "`patient` is empty for a2"),
        ("case,patient\na1,P1\na1,P1\na2,P2\n", "case 'a1' has two rows"),
        ("case,patient\na1,P1,x\na2,P2\n", "row 2: its columns are not those of the header"),
        ("name,patient\na1,P1\n", "every row needs a `case`"),
    ],
)
def test_a_faulty_cases_csv_is_refused(tmp_path, content, message):
    root = make_nnunet(tmp_path / "D", ["a1", "a2"])
    (root / "cases.csv").write_text(content)
    with pytest.raises(AugmintError, match=message):
        open_dataset(root)


def manifest_row(case, source, patient, **extra):
    return {
        "case": case,
        "synthetic": "1",
        "source_case": source,
        "patient": patient,
        "fold": "",
        "method": "mask_to_image",
        "seed": "3",
        "copy": "1",
        "evaluations": "6",
        "mask_to_image.strength": "0.5",
        **extra,
    }


def test_manifest_marks_synthetic_cases_and_names_their_patients(tmp_path):
    root = make_nnunet(tmp_path / "D", ["a1", "a1__s3_c1", "a2"])
    rows = [
        manifest_row("a1__s3_c1", "a1", "P1", fold="2"),
        manifest_row("gone__s0_c0", "a2", "P2"),
    ]
    write_csv(root / "manifest.csv", rows)
    write_csv(
        root / "cases.csv",
        [{"case": f"a{i}", "patient": f"P{i}", "domain": f"vendor{i}"} for i in (1, 2)],
    )
    dataset = open_dataset(root)
    by_name = {item.case_id: item for item in dataset.items}
    assert [item.synthetic for item in dataset.items] == [False, True, False]
    made = by_name["a1__s3_c1"]
    assert (made.patient_id, made.domain) == ("P1", "vendor1")
    provenance = dataset.load(made).provenance
    assert (provenance.source_case, provenance.method, provenance.fold) == (
        "a1",
        "mask_to_image",
        2,
    )
    assert (provenance.seed, provenance.copy, provenance.evaluations) == (3, 1, 6)
    assert provenance.details == {"strength": "0.5"}
    assert dataset.load(by_name["a1"]).provenance is None
    assert "manifest.csv" in dataset.patient_rule


@pytest.mark.parametrize(
    ("change", "message"),
    [({"patient": ""}, "has no `patient`"), ({"seed": "x"}, "invalid literal")],
)
def test_a_synthetic_case_without_its_origin_is_refused(tmp_path, change, message):
    root = make_nnunet(tmp_path / "D", ["a1", "a1__s3_c1"])
    write_csv(root / "manifest.csv", [{**manifest_row("a1__s3_c1", "a1", "P1"), **change}])
    with pytest.raises(AugmintError, match=message):
        open_dataset(root)
