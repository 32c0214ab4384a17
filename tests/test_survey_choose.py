import random
from collections import Counter
from pathlib import Path

import pytest

from augmint.case import Provenance
from augmint.data.dataset import Item
from augmint.errors import AugmintError
from augmint.survey.choose import choose_pairs


def item(patient, view="", phase="", *, domain="A", copy=None):
    source = f"{patient}_{view}_{phase}"
    made = copy is not None
    return Item(
        case_id=f"{source}__s0_c{copy}" if made else source,
        images=(Path("x.png"),),
        masks=(Path("y.png"),),
        patient_id=patient,
        domain=domain,
        columns={k: v for k, v in (("view", view), ("phase", phase)) if v},
        synthetic=made,
        provenance=Provenance(source, "warped_pairs", copy=copy) if made else None,
    )


def cohort(patients, copies, *, views=("2CH", "4CH"), phases=("ED", "ES")):
    """Patients of two domains in turn: real cases and synthetic ones."""
    real, made = [], []
    for k in range(patients):
        for view in views:
            for phase in phases:
                place = (f"p{k}", view, phase)
                real.append(item(*place, domain="AB"[k % 2]))
                made += [item(*place, domain="AB"[k % 2], copy=c) for c in range(copies)]
    return made, real


def choose(made, real, count, seed=0):
    return choose_pairs(made, real, count, random.Random(seed))


def values(one):
    return one.domain, one.columns.get("view"), one.columns.get("phase")


@pytest.mark.parametrize("seed", range(5))
def test_every_pair_is_of_one_domain_view_and_phase_and_no_patient_is_in_both_kinds(seed):
    choice = choose(*cohort(8, 2), 16, seed)
    assert [values(a) for a, _ in choice.pairs] == [values(b) for _, b in choice.pairs]
    assert {a.patient_id for a, _ in choice.pairs}.isdisjoint(b.patient_id for _, b in choice.pairs)
    assert choice.apart == "patients"
    assert choice.unmatched == choice.repeated == 0
    assert choice.balanced == ("domain", "view", "phase")
    assert set(Counter(values(a) for a, _ in choice.pairs).values()) == {2}
    assert len({b.case_id for _, b in choice.pairs}) == 16


def test_few_patients_are_split_by_case_and_no_source_is_shown_beside_its_copy():
    choice = choose(*cohort(1, 5), 2)
    assert choice.apart == "cases"
    sources = {a.provenance.source_case for a, _ in choice.pairs}
    assert sources.isdisjoint(b.case_id for _, b in choice.pairs)


def test_copies_of_one_source_are_taken_only_when_sources_run_out():
    made, real = cohort(4, 3, views=("2CH",), phases=("ED",))
    assert choose(made, real, 2).repeated == 0
    choice = choose(made, real, 3)  # three real patients leave one source
    assert choice.repeated == 2
    assert len({a.patient_id for a, _ in choice.pairs}) == 1


def test_real_cases_of_other_patients_leave_all_synthetic_ones_to_choose_from():
    made, _ = cohort(3, 1)
    _, real = cohort(8, 1)
    others = [one for one in real if one.patient_id not in ("p0", "p1", "p2")]
    assert len(choose(made, others, 12).pairs) == 12


def test_too_few_cases_are_refused_with_the_number_that_can_be_had():
    made, real = cohort(6, 1)
    with pytest.raises(AugmintError, match="at most 24 images"):
        choose(made, real, 30)
    assert len(choose(made, real, 12).pairs) == 12
    with pytest.raises(AugmintError, match="give more real cases"):
        choose(made[:1], real[:1], 1)


def test_pairs_that_cannot_be_matched_are_counted():
    made = [item(f"m{k}", domain="A", copy=0) for k in range(4)]
    real = [item(f"r{k}", domain="A" if k == 0 else "B") for k in range(4)]
    choice = choose(made, real, 3)
    assert choice.unmatched == 2
    assert [b.domain for _, b in choice.pairs] == ["A", "B", "B"]
    assert choose(made, [item("r", domain="")], 1).balanced == ()


def test_one_seed_draws_the_same_and_another_one_not():
    made, real = cohort(8, 2)
    assert choose(made, real, 8, 3) == choose(made, real, 8, 3)
    assert choose(made, real, 8, 3) != choose(made, real, 8, 4)
