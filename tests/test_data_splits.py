from dataclasses import replace

import pytest

from augmint.data.dataset import open_dataset
from augmint.data.splits import (
    DomainSplit,
    check_leak,
    check_protocol,
    check_synthetic,
    draw_patients,
    folds,
    hold_back,
    leave_one_domain_out,
    patients_seen,
    without_labels,
)
from augmint.errors import AugmintError
from test_data_dataset import make_nnunet, write_csv

PATIENTS = [f"patient{i:03d}" for i in range(20)]


@pytest.mark.parametrize("k", [2, 3, 5, 20])
def test_folds_partition_the_patients_evenly(k):
    made = folds(PATIENTS, k, seed=0)
    assert len(made) == k
    assert sorted(p for fold in made for p in fold.validation) == PATIENTS
    assert max(len(f.validation) for f in made) - min(len(f.validation) for f in made) <= 1
    for fold in made:
        assert not set(fold.train) & set(fold.validation)
        assert set(fold.train) | set(fold.validation) == set(PATIENTS)


def test_folds_depend_on_the_seed_and_not_on_the_order():
    assert folds(PATIENTS, 5, seed=1) == folds(PATIENTS[::-1], 5, seed=1)
    assert folds(PATIENTS, 5, seed=1) != folds(PATIENTS, 5, seed=2)
    blocks = {tuple(PATIENTS[i : i + 4]) for i in range(0, 20, 4)}
    assert not blocks & {fold.validation for fold in folds(PATIENTS, 5, seed=1)}


@pytest.mark.parametrize("k", [0, 1, 21])
def test_an_impossible_number_of_folds_is_refused(k):
    with pytest.raises(AugmintError, match=r"folds of 20 patient\(s\)"):
        folds(PATIENTS, k, seed=0)


def vendor_dataset(tmp_path, counts):
    names, rows = [], []
    for vendor, count in counts.items():
        for number in range(count):
            for frame in (1, 2):
                names.append(f"{vendor}{number}_{frame}")
                patient = f"{vendor}{number}"
                rows.append({"case": names[-1], "patient": patient, "domain": vendor})
    root = make_nnunet(tmp_path / "D", names)
    write_csv(root / "cases.csv", rows)
    return open_dataset(root)


def test_folds_spread_each_domain_evenly(tmp_path):
    dataset = vendor_dataset(tmp_path, {"A": 6, "B": 3, "C": 3})
    for seed in range(5):
        made = folds(dataset, 3, seed)
        for fold in made:
            assert sorted(p[0] for p in fold.validation) == ["A", "A", "B", "C"]


def test_draws_are_nested_and_random():
    small, large = draw_patients(PATIENTS, 5, seed=0), draw_patients(PATIENTS, 10, seed=0)
    assert set(small) < set(large)
    assert small == draw_patients(PATIENTS[::-1] + PATIENTS, 5, seed=0)
    assert len({draw_patients(PATIENTS, 5, seed) for seed in range(10)}) > 8
    assert draw_patients(PATIENTS, 20, seed=0) == tuple(PATIENTS)
    for n in (0, 21):
        with pytest.raises(AugmintError, match="cannot be drawn"):
            draw_patients(PATIENTS, n, seed=0)


def test_hold_back_keeps_both_sides():
    kept, held = hold_back(PATIENTS, fraction=0.2, seed=0)
    assert (len(kept), len(held)) == (16, 4)
    assert sorted(kept + held) == PATIENTS
    assert len(hold_back(PATIENTS, n=7, seed=0)[1]) == 7
    assert len(hold_back(["a", "b"], fraction=0.1, seed=0)[1]) == 1
    with pytest.raises(AugmintError, match="cannot be held back"):
        hold_back(["a"], fraction=0.5, seed=0)
    with pytest.raises(AugmintError, match="cannot be held back"):
        hold_back(PATIENTS, n=20, seed=0)
    with pytest.raises(AugmintError, match="between 0 and 1"):
        hold_back(PATIENTS, fraction=1.0, seed=0)
    with pytest.raises(AugmintError, match="either the fraction or the number"):
        hold_back(PATIENTS, seed=0)


def test_leaving_a_vendor_out_holds_all_its_patients(tmp_path):
    dataset = vendor_dataset(tmp_path, {"A": 3, "B": 2})
    splits = {split.domain: split for split in leave_one_domain_out(dataset)}
    assert set(splits) == {"A", "B"}
    assert splits["B"].held.patients == ("B0", "B1")
    assert splits["B"].train.patients == ("A0", "A1", "A2")
    assert len(splits["B"].train) == 6


def test_leaving_a_view_out_also_splits_the_patients(tmp_path):
    names = [f"patient{p:04d}_{view}_ED" for p in range(10) for view in ("2CH", "4CH")]
    dataset = open_dataset(make_nnunet(tmp_path / "D", names))
    for split in leave_one_domain_out(dataset, shared_fraction=0.4, seed=0):
        assert split.held.domains == (split.domain,)
        assert split.domain not in split.train.domains
        assert len(split.held.patients) == 4
        assert not set(split.held.patients) & set(split.train.patients)
        assert len(split.held) + len(split.train) == 10


def test_leaving_a_domain_out_needs_two(tmp_path):
    dataset = vendor_dataset(tmp_path, {"A": 2})
    with pytest.raises(AugmintError, match="needs two or more, got A"):
        list(leave_one_domain_out(dataset))


def test_a_patient_on_both_sides_is_a_leak():
    check_leak(["a", "b"], ["c"], seen=["a"])
    with pytest.raises(AugmintError, match=r"trained on: b; split by patient"):
        check_leak(["a", "b"], ["b", "c"])
    with pytest.raises(AugmintError, match=r"seen by a fitted network: c"):
        check_leak(["a", "b"], ["c"], seen=iter(["a", "c"]))


def run_with(*folds_seen):
    return {
        "folds": [
            {"fold": k, "generator_patients": g, "gate_patients": q, "validation_patients": v}
            for k, g, q, v in folds_seen
        ]
    }


def made(case, patient, fold=""):
    return {"case": case, "synthetic": "1", "patient": patient, "fold": fold, "accepted": "1"}


def test_synthetic_cases_of_the_right_fold_pass():
    run = run_with((0, ["b", "c"], ["b", "c"], ["a"]), (1, ["a", "c"], ["a", "c"], ["b"]))
    check_synthetic([made("x", "b", "0"), made("y", "c", "0")], run, ["a"])
    with pytest.raises(AugmintError, match=r"1 synthetic case\(s\) such as 'z'.*: a; generate"):
        check_synthetic([made("x", "b", "0"), made("z", "c", "1")], run, ["a"])


def test_rows_not_yet_written_to_a_manifest_are_checked_alike():
    run = run_with((0, ["b"], ["b"], ["a"]), (1, ["a"], ["a"], ["b"]))
    row = {"case": "x", "synthetic": 1, "patient": "b", "fold": 0, "accepted": True}
    check_synthetic([row], run, ["a"])
    with pytest.raises(AugmintError, match="leak"):
        check_synthetic([{**row, "fold": 1, "patient": "c"}], run, ["a"])
    check_synthetic([{**row, "fold": 1, "accepted": 0}], run, ["a"])


@pytest.mark.parametrize(("generator", "gate"), [(["a", "t"], ["a"]), (["a"], ["a", "t"])])
def test_a_generator_or_gate_that_saw_a_test_patient_is_a_leak(generator, gate):
    run = run_with((None, generator, gate, []))
    check_synthetic([made("x", "a")], run, ["u"])
    with pytest.raises(AugmintError, match=r"saw 1 validation or test patient\(s\): t"):
        check_synthetic([made("x", "a")], run, ["t"])


def test_a_synthetic_case_made_from_a_test_patient_is_a_leak():
    run = run_with((None, ["a"], ["a"], []))
    with pytest.raises(AugmintError, match="'x' was made from the validation or test patient t"):
        check_synthetic([made("x", "t")], run, ["t"])


def test_real_and_rejected_rows_are_passed_over():
    run = run_with((None, ["a"], ["a"], []))
    rows = [{**made("x", "t"), "synthetic": "0"}, {**made("y", "t"), "accepted": "0"}]
    check_synthetic(rows, run, ["t"])


@pytest.mark.parametrize(
    "run",
    [{}, {"folds": []}, run_with((0, ["a"], ["a"], [])), {"folds": [{"fold": None}]}],
)
def test_a_run_that_does_not_say_what_it_saw_is_refused(run):
    with pytest.raises(AugmintError, match=r"does not say which patients.*without folds"):
        check_synthetic([made("x", "a")], run, ["t"])


def test_patients_seen_are_those_of_generator_and_gate():
    assert patients_seen(run_with((2, ["a"], ["b"], ["c"])), 2) == {"a", "b"}


def test_labels_that_must_not_be_seen_cannot_be_read(tmp_path):
    dataset = vendor_dataset(tmp_path, {"A": 2})
    bare = without_labels(dataset)
    assert [i.case_id for i in bare.items] == [i.case_id for i in dataset.items]
    assert (bare.patients, bare.domains) == (dataset.patients, dataset.domains)
    for path in (dataset.root / "labelsTr").iterdir():
        path.unlink()
    assert all(case.mask is None for case in bare)


@pytest.mark.parametrize("protocol", ["generalisation", "adaptation"])
def test_a_fit_sees_images_of_the_target_under_adaptation_alone(tmp_path, protocol):
    dataset = vendor_dataset(tmp_path, {"A": 3, "B": 2})
    split = next(s for s in leave_one_domain_out(dataset, protocol=protocol) if s.domain == "B")
    if protocol == "generalisation":
        with pytest.raises(AugmintError, match="nothing of 'B' may be seen"):
            split.adaptation_images()
        return
    seen = split.adaptation_images()
    assert seen.patients == split.held.patients == ("B0", "B1")
    assert not any(item.masks for item in seen.items)
    assert all(item.masks for item in split.held.items)


def test_nobody_is_on_both_sides_of_a_domain_split(tmp_path):
    dataset = vendor_dataset(tmp_path, {"A": 2, "B": 2})
    train, held = (dataset.select(patients=p) for p in (["A0", "A1"], ["A1", "B0"]))
    with pytest.raises(AugmintError, match="trained on: A1"):
        DomainSplit("B", train, held)
    other = replace(held, name="another")  # where A1 is another person
    assert DomainSplit("B", train, other).held is other


def test_no_label_of_a_test_is_read_and_no_image_unless_it_may_be():
    def check(protocol, labels=(), images=()):
        check_protocol(
            protocol, {"T": {"a", "b"}}, labels={"S": {"a"}, "T": labels}, images={"T": images},
            what="the fit",
        )  # fmt: skip

    check("generalisation", labels={"c"}, images={"c"})
    check("adaptation", labels={"c"}, images={"a", "b"})
    for protocol in ("generalisation", "adaptation"):
        with pytest.raises(AugmintError, match=r"the fit reads labels of 1 test patient.* of T: b"):
            check(protocol, labels={"b", "c"})
    with pytest.raises(AugmintError, match=r"reads images of 2.*nothing of a test may be seen"):
        check("generalisation", images={"a", "b"})
