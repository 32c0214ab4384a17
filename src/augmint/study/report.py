"""A study's report: one page for a clinician to read and a reviewer to check, and its tables."""

from __future__ import annotations

import csv
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from augmint.data.layout import listed
from augmint.evaluation.failure import failure_in_words
from augmint.evaluation.metrics import POLICY
from augmint.evaluation.score import MEAN
from augmint.report import STYLE
from augmint.staging import write_text
from augmint.study.compare import Comparison, Comparisons, called, compare_all
from augmint.study.figures import failure_gallery, forest_plot, learning_curve, paired_plot
from augmint.study.function import (
    FUNCTION_METHOD,
    ArmFunction,
    Block,
    function_blocks,
    measure_arms,
    write_function,
)
from augmint.study.record import versions_of
from augmint.study.results import Place, Table, collect, write_csv
from augmint.study.spec import Arm, Study
from augmint.study.units import Plan

if TYPE_CHECKING:
    from augmint.study.run import Outcome

METRICS = ("dice", "precision", "recall", "hd", "hd95", "assd", "surface_dice", "failure")
SHOWN = ("dice", "hd", "hd95", "assd", "failure")
NAMES = {
    "dice": "Dice", "precision": "precision", "recall": "recall", "hd": "HD", "hd95": "HD95",
    "assd": "ASSD", "surface_dice": "surface Dice", "failure": "failure rate",
}  # fmt: skip


def write_study_report(
    folder: Path, study: Study, plan: Plan, outcomes: Mapping[str, Outcome]
) -> tuple[str, ...]:
    """Write report.html, report.md, their pictures, and the tables beside them as CSV.

    Args:
        folder: The study's folder.
        study: Its protocol.
        plan: Its units and cells.
        outcomes: What became of each unit.

    Returns:
        The conclusions, a sentence for each arm.
    """
    done = [key for key, outcome in outcomes.items() if outcome.status == "done"]
    tables = collect(plan, folder, list(study.arms), METRICS, done, failure_hd=study.failure_hd)
    _write_scores(folder, plan, set(done))
    found = compare_all(study, tables, plan.groups)
    _write_comparisons(folder / "comparisons.csv", found)
    pictures = _draw(folder, study, plan, tables, found, set(done))
    notable = [(plan.units[k].title, o) for k, o in outcomes.items() if o.message]
    record = _record(study, _readings(folder), versions_of(folder, done))
    hearts = measure_arms(study, plan, tables, folder, set(done))
    write_function(folder, plan, hearts, set(done))
    blocks = _blocks(study, plan, tables, found, pictures, notable, record, hearts, folder)
    write_text(folder / "report.html", _page(study, blocks, folder))
    write_text(folder / "report.md", _markdown(study, blocks))
    return found.conclusions


def _blocks(
    study: Study,
    plan: Plan,
    tables: Sequence[Table],
    found: Comparisons,
    pictures: Sequence[tuple[str, Path]],
    notable: Sequence[tuple[str, Outcome]],
    record: Sequence[Block],
    hearts: Sequence[ArmFunction],
    folder: Path,
) -> list[Block]:
    blocks: list[Block] = [("conclusion", line) for line in found.conclusions]
    missing = sum(outcome.status != "done" for _, outcome in notable)
    if missing:
        blocks.append(("note", f"{missing} unit(s) are missing, see the end."))
    if len(notable) > missing:
        blocks.append(
            ("note", f"{len(notable) - missing} unit(s) went unlike planned, see the end.")
        )
    blocks += [("heading", "What was compared"), ("table", _arms_table(study))]
    blocks.append(("text", _design(study, plan)))
    for table in tables:
        blocks += _place_blocks(study, table, found)
        blocks += function_blocks(hearts, table.place, study, _title(table.place), folder)
    if pictures:
        blocks.append(("heading", "Pictures"))
        for caption, path in pictures:
            blocks += [("text", caption), ("picture", path)]
    blocks.append(("heading", "How to read this"))
    blocks.append(("note", found.method))
    if hearts:
        blocks.append(("note", FUNCTION_METHOD))
    blocks += record
    if notable:
        blocks.append(("heading", "Missing, or unlike planned"))
        rows = [["unit", "what happened"]]
        rows += [[title, f"{o.status}: {o.message}"] for title, o in notable]
        blocks.append(("table", rows))
    return blocks


def _place_blocks(study: Study, table: Table, found: Comparisons) -> list[Block]:
    """Means and differences at one place, with what they lack."""
    blocks: list[Block] = [
        ("heading", _title(table.place)),
        ("note", f"{POLICY} Distances in {table.units}."),
        ("note", failure_in_words(table.failure_hd, table.units)),
        ("table", _means_table(study, table, found)),
        *(("note", line) for line in found.notes[table.place]),
    ]
    rows = _difference_table(found.at(table.place))
    if len(rows) > 1:
        blocks.append(("text", f"Differences from {study.baseline}, paired by patient:"))
        blocks.append(("table", rows))
    groups = _group_table(found, table.place)
    if len(groups) > 1:
        blocks.append(("text", "By group, mean over labels:"))
        blocks.append(("table", groups))
    return blocks


def _record(
    study: Study, readings: Sequence[Mapping[str, Any]], made_by: Sequence[Mapping[str, str]]
) -> list[Block]:
    """The protocol, every reading of the test labels under it or another, and versions."""
    lines = [["time", "protocol", "evaluations read"]]
    lines += [[r["time"], r["protocol"], str(r["evaluations"])] for r in readings]
    blocks: list[Block] = [
        ("heading", "On record"),
        ("text", f"Protocol {study.hash}; it stands in study.json."),
        ("text", "Every reading of the test labels:"),
        ("table", lines),
    ]
    changed = {r["protocol"] for r in readings} - {study.hash}
    if changed:
        blocks.append((
            "note",
            "The test labels were read before under another protocol: "
            f"{', '.join(sorted(changed))}. What was changed after looking is no longer a test.",
        ))  # fmt: skip
    several = "Versions" if len(made_by) == 1 else "Versions, of some units each"
    blocks.append(("note", f"{several}: {'; '.join(json.dumps(one) for one in made_by)}"))
    return blocks


def _arms_table(study: Study) -> list[list[str]]:
    rows = [["arm", "classical augmentation", "synthetic cases", "settings"]]
    for name in study.arms:
        arm = study.arm(name)
        made = "none"
        if arm.synthetic is not None:
            made = (
                f"{arm.synthetic.method}, {arm.synthetic.copies} per case"
                f"{'' if arm.synthetic.filtered else ', rejected ones too'}, "
                f"{_synthetic_share(arm)}"
            )
        if arm.adapt is not None:
            made += f"; test images shifted by {arm.adapt.method} {json.dumps(arm.adapt.settings)}"
            made += f", {arm.adapt.repeats} times" * (arm.adapt.repeats > 1)
            if arm.adapt.unlabelled is not None:
                made += f", fitted with images of {arm.adapt.unlabelled} too"
        if arm.oracle is not None:
            made += f"; each test's patients in {arm.oracle.folds} folds"
        role = " (baseline)" if name == study.baseline else ""
        settings = dict(arm.settings)
        settings |= {k: True for k in ("largest_component", "sliding") if getattr(arm, k)}
        rows.append([called(study, name) + role, arm.augmentation, made, json.dumps(settings)])
    return rows


def _synthetic_share(arm: Arm) -> str:
    """How much of the training is synthetic, in words."""
    told = {"image": "patches", "logit": "patches", "loss": "the loss"}
    real = arm.settings.get("mix_lambda")
    share = arm.synthetic_probability if real is None else 1 - float(real)
    return f"{share:.0%} of {told.get(arm.settings.get('mix', ''), 'samples')}"


def _design(study: Study, plan: Plan) -> str:
    sizes = sorted({c.size for c in plan.cells})
    kind = "fold" if study.folds else "random draw"
    draws = len({c.draw for c in plan.cells})
    steps = study.segmenter_steps or f"those of preset {study.preset}"
    oracles = [name for name in study.arms if study.arm(name).oracle is not None]
    others = f" but {listed(oracles)}" if oracles else ""
    return (
        f"Every arm{others} trains on the same "
        f"{' / '.join(map(str, sizes))} real patients, with the same "
        f"network ({', '.join(study.networks)}) and the same number of steps ({steps}); {draws} "
        f"{kind}{'s' * (draws > 1)}, {len(study.seeds)} seed{'s' * (len(study.seeds) > 1)}. "
        f"Primary endpoint: {NAMES[study.endpoint.metric]} of {study.endpoint.label} on "
        f"{study.endpoint.test}. Cases are averaged within a patient first."
    )


def _title(place: Place) -> str:
    return f"{place.test}: {place.size} training patients, {place.network}"


def _means_table(study: Study, table: Table, found: Comparisons) -> list[list[str]]:
    shown = [(m, n) for m in SHOWN for n in (MEAN, *table.labels) if (m, n) in table.figures]
    head = ["arm", *(f"{NAMES[metric]} {label}" for metric, label in shown)]
    rows = [[*head, "missed or false positive", "empty"]]
    for arm in study.arms:
        if arm not in table.judged:
            continue
        cells = [found.interval(table.place, arm, *one) for one in shown]
        rows.append([
            arm, *cells, f"{table.failures[arm]} of {table.judged[arm]}", str(table.empty[arm]),
        ])  # fmt: skip
    return rows


def _difference_table(rows: Sequence[Comparison]) -> list[list[str]]:
    table = [[
        "arm", "metric", "label", "difference", "95 % interval", "p", "p, Holm", "Wilcoxon p",
        "Welch p", "smallest detectable",
    ]]  # fmt: skip
    for c in rows:
        if c.metric not in SHOWN:
            continue
        star = " *" if c.primary else ""
        table.append([
            c.arm + star, NAMES[c.metric], c.label, f"{c.difference:+.4g}",
            _interval(c.low, c.high), _p(c.p), _p(c.p_holm), _p(c.p_wilcoxon), _p(c.p_welch),
            "" if c.detectable is None else f"{c.detectable:.4g}",
        ])  # fmt: skip
    return table


def _group_table(found: Comparisons, place: Place) -> list[list[str]]:
    rows = [["arm", "metric", "group", "patients", "difference", "95 % interval"]]
    for g in found.groups_at(place):
        worst = " (worst)" if g.worst else ""
        rows.append([
            g.arm, NAMES[g.metric], g.group + worst, str(g.patients), f"{g.difference:+.4g}",
            _interval(g.low, g.high),
        ])  # fmt: skip
    return rows


def _known(value: float | None) -> float | None:
    """A figure that can be shown; None where nothing can be tested."""
    return None if value is None or not np.isfinite(value) else value


def _interval(low: float, high: float) -> str:
    return "" if _known(low) is None else f"[{low:+.4g}, {high:+.4g}]"


def _p(value: float | None) -> str:
    known = _known(value)
    if known is None:
        return ""
    return "<0.001" if known < 0.001 else f"{known:.3f}"


def _draw(
    folder: Path,
    study: Study,
    plan: Plan,
    tables: Sequence[Table],
    found: Comparisons,
    done: set[str],
) -> list[tuple[str, Path]]:
    """The pictures, each with its caption."""
    metric, label = study.endpoint.metric, study.endpoint.label
    pictures: list[tuple[str, Path]] = []
    path = folder / "figures" / "forest.png"
    if forest_plot(path, found, metric, label):
        pictures.append((f"Difference from {study.baseline} in {NAMES[metric]}, {label}.", path))
    for table in tables:
        if table.place.test == study.endpoint.test:
            name = f"patients_{table.place.size}_{table.place.network}.png"
            path = folder / "figures" / name
            if paired_plot(path, table, study.baseline, metric, label):
                pictures.append((f"Each patient; {_title(table.place)}.", path))
    path = folder / "figures" / "learning_curve.png"
    if learning_curve(path, tables, study.endpoint.test, metric, label):
        pictures.append((f"{NAMES[metric]} over the number of training patients.", path))
    path = folder / "figures" / "failures.png"
    if failure_gallery(path, folder, study, plan, done):
        text = "The worst cases of the primary endpoint: reference, then each arm's prediction."
        pictures.append((text, path))
    return pictures


def _readings(folder: Path) -> list[dict[str, Any]]:
    path = folder / "readings.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _write_scores(folder: Path, plan: Plan, done: set[str]) -> None:
    """scores.csv of every evaluation in one table, with its arm, draw and seed in front."""
    out: list[list[str]] = []
    head: list[str] = []
    for cell in plan.cells:
        if cell.unit not in done:
            continue
        path = folder / plan.units[cell.unit].folder / "scores.csv"
        with path.open(newline="", encoding="utf-8") as stream:
            head, *rows = list(csv.reader(stream))
        own = [cell.test, str(cell.size), str(cell.draw), cell.network, cell.arm, str(cell.seed)]
        out += [[*own, *row] for row in rows]
    first = ["test", "size", "draw", "network", "arm", "seed"]
    write_csv(folder / "scores.csv", [[*first, *head], *out])


def _write_comparisons(path: Path, found: Comparisons) -> None:
    rows: list[list[Any]] = [[
        "test", "size", "network", "arm", "baseline", "metric", "label", "primary", "patients",
        "draws", "seeds", "mean", "baseline_mean", "difference", "low_95", "high_95", "p",
        "p_holm", "p_wilcoxon", "p_welch", "smallest_detectable", "seed_noise",
    ]]  # fmt: skip
    rows += [
        [
            c.place.test, c.place.size, c.place.network, c.arm, c.baseline, c.metric, c.label,
            int(c.primary), c.patients, c.draws, c.seeds, c.mean, c.baseline_mean, c.difference,
            *map(_known, (c.low, c.high, c.p, c.p_holm, c.p_wilcoxon, c.p_welch, c.detectable)),
            c.seed_noise,
        ]
        for c in found.rows
    ]  # fmt: skip
    write_csv(path, rows)


def _page(study: Study, blocks: Sequence[Block], folder: Path) -> str:
    import base64

    parts = [f"<h1>{html.escape(study.name)}</h1>"]
    for kind, content in blocks:
        if kind == "heading":
            parts.append(f"<h2>{html.escape(content)}</h2>")
        elif kind == "table":
            head, *rows = content
            cells = ["<tr>" + "".join(f"<th>{html.escape(c)}" for c in head) + "</tr>"]
            cells += ["<tr>" + "".join(f"<td>{html.escape(c)}" for c in r) + "</tr>" for r in rows]
            parts.append("<div class=wide><table>" + "".join(cells) + "</table></div>")
        elif kind == "picture":
            data = base64.b64encode(content.read_bytes()).decode()
            parts.append(f'<img alt="{content.stem}" src="data:image/png;base64,{data}">')
        else:
            style = {"note": " class=note", "conclusion": " class=conclusion"}.get(kind, "")
            parts.append(f"<p{style}>{html.escape(content)}</p>")
    style = STYLE + ".wide{overflow-x:auto}.conclusion{font-size:1.25rem;font-weight:600}"
    title = html.escape(study.name)
    return (
        f"<!doctype html><meta charset=utf-8><title>{title}</title><style>{style}</style>"
        + "\n".join(parts)
    )


def _markdown(study: Study, blocks: Sequence[Block]) -> str:
    lines = [f"# {study.name}", ""]
    for kind, content in blocks:
        if kind == "heading":
            lines += [f"## {content}", ""]
        elif kind == "table":
            head, *rows = content
            lines.append("| " + " | ".join(head) + " |")
            lines.append("|" + "---|" * len(head))
            lines += ["| " + " | ".join(c.replace("|", "/") for c in row) + " |" for row in rows]
            lines.append("")
        elif kind == "picture":
            lines += [f"![{content.stem}](figures/{content.name})", ""]
        elif kind == "conclusion":
            lines += [f"**{content}**", ""]
        else:
            lines += [content, ""]
    return "\n".join(lines)
