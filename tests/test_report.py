from augmint.imaging.working import WorkingGrid
from augmint.methods.protocol import DatasetFacts
from augmint.report import _agreement_table

FACTS = DatasetFacts(
    channels=1,
    labels={"background": 0, "LV": 1},
    annotated=("LV",),
    grid=WorkingGrid(2, (32, 32), (32, 32), longest=32),
    modality="MR",
    domains=(),
)
MADE = [{"agreement_LV": 0.5}, {"agreement_LV": 0.7}, {"agreement_LV": None}]


def gate(**others):
    return {"thresholds": {"LV": 0.31}, "real": {"LV": [0.8, 0.9]}, **others}


def test_synthetic_agreement_stands_beside_that_of_real_pairs():
    table = _agreement_table(MADE, {"gates": [gate()]}, FACTS)
    assert "<td>LV<td>0.600<td>0.100<td>0.850<td>0.310" in table
    assert "Warning" not in table


def test_warnings_of_a_gate_stand_above_its_table():
    one = _agreement_table(MADE, {"gates": [gate(warnings=["blind for <LV>"])]}, FACTS)
    assert "Warning: blind for &lt;LV&gt;.</b>" in one
    assert one.index("Warning") < one.index("<table>")
    folds = [gate(warnings=[]), gate(warnings=["blind for LV"])]
    two = _agreement_table(MADE, {"gates": folds}, FACTS)
    assert "Warning: fold 2: blind for LV." in two
    assert two.count("Warning") == 1


def test_cases_that_no_gate_judged_are_said_to_be_so():
    assert "No gate judged" in _agreement_table([{}], {}, FACTS)
