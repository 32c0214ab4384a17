"""The report page of an audit: the sentences, then each part with its figures and pictures."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from augmint.audit.words import between, in_words, percent
from augmint.quality.validity import ZONES, Bound
from augmint.report import STYLE
from augmint.staging import write_text

EXTRA = ".flag{color:#b00020;font-weight:600}.wide{overflow-x:auto}h3{font-size:1rem}"
HEADINGS = ("Masks", "Agreement", "Copies", "Images", "Shapes")


def write_page(folder: Path, summary: Mapping[str, Any]) -> None:
    """report.html: one file, offline."""
    data, parts = summary["data"], summary["parts"]
    sections: list[str] = []
    bodies = (_validity, _adherence, _copies, _images, _shapes)
    for heading, body, part in zip(HEADINGS, bodies, parts.values()):
        sections += [f"<h2>{heading}</h2>", *body(folder, part, data)]
    told = "".join(f"<li>{_text(line)}</li>" for line in summary["limitations"])
    lines = [
        f"<h1>Audit of {_text(data['synthetic'])}</h1>",
        f"<p>{_count(data)} beside {data['real_cases']} real "
        f"ones of {_text(data['real'])}: {data['seen_patients']} patients that the generator saw, "
        f"{data['held_out_patients']} that it never saw. In brackets stand 95 % intervals, by "
        "bootstrap over patients.</p>",
        "<ol>" + "".join(f"<li>{_text(line)}</li>" for line in in_words(summary)) + "</ol>",
        f"<h2>What could not be told</h2><ul>{told}</ul>" if told else "",
        *sections,
        "<h2>How it was made</h2>",
        f"<p class=note>Working grid {_text(json.dumps(data['grid']))}; preset "
        f"{_text(summary['request']['preset'])}, seed {summary['request']['seed']}, "
        f"{summary['seconds']:.0f} s on {_text(json.dumps(summary['device']))}. Versions: "
        f"{_text(json.dumps(summary['versions']))}.</p>",
        "<p class=note>None of this says whether training on the synthetic cases helps: train with "
        "and without them, and compare on patients that nothing here has seen.</p>",
    ]
    head = f"<!doctype html><meta charset=utf-8><title>augmint audit</title><style>{STYLE}{EXTRA}"
    write_text(folder / "report.html", f"{head}</style>" + "\n".join(lines))


def _text(value: Any) -> str:
    return html.escape(str(value))


def _count(data: Mapping[str, Any]) -> str:
    accepted, rejected = data["accepted"], data["rejected"]
    if not accepted:
        return f"{rejected} synthetic cases, all of them rejected by gates,"
    return f"{accepted} synthetic cases" + (
        f" ({rejected} more were rejected by gates)" if rejected else ""
    )


def _titles(data: Mapping[str, Any]) -> dict[str, str]:
    """What groups of synthetic cases are called; accepted ones apart where all are here."""
    if data["synthetic_are"] != "all":
        return {"synthetic": f"synthetic, {data['synthetic_are']}"}
    titles = {"synthetic": "synthetic, before gates"}
    return titles | ({"accepted": "synthetic, accepted"} if data["accepted"] else {})


def _picture(folder: Path, name: str, note: str = "") -> str:
    """An embedded picture with a note above; nothing where there is none."""
    path = folder / "sheets" / name
    if not path.exists():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    above = f"<p class=note>{note}</p>" if note else ""
    return f'{above}<p><img alt="{name}" src="data:image/png;base64,{data}"></p>'


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    cells = "".join(f"<th>{_text(h)}" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{_text(c)}" for c in row) + "</tr>" for row in rows)
    return f"<div class=wide><table><tr>{cells}</tr>{body}</table></div>" if body else ""


def _missing(part: Mapping[str, Any]) -> str:
    return f"<p class=note>{_text(part['missing'])}.</p>" if "missing" in part else ""


def _validity(folder: Path, p: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    if "missing" in p:
        return [_missing(p)]
    kinds = _titles(data) | {"real": f"real, {p['real_are']}"}
    known = {title: p[k] for k, title in kinds.items() if p[k]}
    names = list(dict.fromkeys(n for v in known.values() for n in v["broken"]))
    bounds = p["limits"]
    return [
        f"<p class=note>Rules of the {_text(p['rules'])}, judged by {p['unit']}; limits learned "
        f"from {p['limits_from']['masks']} masks of {p['limits_from']['patients']} patients that "
        f"the generator saw, on the working grid for both sides{_by_folds(p)}. Real masks break "
        "rules, too.</p>",
        _table(
            ["", "valid", "95 %", "masks", "patients"],
            [[t, percent(v["share"]), between(v["interval"]), v["of"], v["patients"]]
             for t, v in known.items()],
        ),
        "<h3>Broken rules, masks that break each</h3>" if names else "",
        _table(
            ["rule", *known, "allowed"],
            [[n, *(v["broken"].get(n, 0) for v in known.values()), _allowed(bounds, n)]
             for n in names],
        ),
        _picture(folder, "invalid.png"),
    ]  # fmt: skip


def _by_folds(p: Mapping[str, Any]) -> str:
    if p["real_are"] != "out of fold" or not p["real"]:
        return ""
    told = ", in folds: no mask is judged by limits that its own patient taught"
    if p["synthetic_favoured"]:
        told += "; drawn masks, and those of unknown patients, may repeat any that taught theirs"
    return told


def _allowed(bounds: Mapping[str, Any], name: str) -> str:
    found = []
    for key in (name, *(f"{name} {zone}" for zone in ZONES)):
        if key in bounds:
            allowed = Bound(**bounds[key]).allowed().removeprefix("allowed ")
            told = f"{allowed} {bounds[key]['unit']}" if allowed else "none"
            found.append(f"{key[len(name) :].strip()} {told}".strip())
    return "; ".join(found)


def _adherence(folder: Path, p: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    rows, kinds = [], _titles(data) | {"real": "real"}
    for name, v in p["labels"].items():
        gap = v["difference"]
        told = f"{gap['difference']:+.3f} {between(gap['interval'], 1, 3)}" if gap else ""
        rows.append([name, *(_mean(v[k]) for k in kinds), told])
    head = ["label", *kinds.values(), "difference"]
    worst = [[w["case"], f"{w['dice']:.3f}"] for w in p["worst"]]
    return [
        f"<p class=note>Dice between mask and what a judge finds in the image; mean, 95 %, "
        f"deviation of the cases, number of cases whose mask has the label. The judge: "
        f"{_text(p['judge'])}.</p>",
        _table(head, rows),
        "<h3>Synthetic cases that follow their masks least</h3>" if worst else "",
        _table(["case", "mean Dice"], worst),
    ]


def _mean(v: Mapping[str, Any] | None) -> str:
    if not v:
        return ""
    shown = between(v["interval"], 1, 3) if "interval" in v else "(one patient)"
    return f"{v['mean']:.3f} {shown}, {v['deviation']:.3f}, {v['cases']}"


def _copies(folder: Path, p: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    kinds = {
        "others": "like another patient's image" if p["sources_known"] else "synthetic",
        "own": "like their source patient's image",
        "own_nearly_identical": "of these nearly identical (above 0.95)",
        "rejected": "rejected by gates, like another patient's",
        "held_out": "real, never seen by the generator",
    }
    rows = []
    for key, title in kinds.items():
        if v := p.get(key):
            cases = f"{v['cases']} of {v['of_cases']}" if "cases" in v else ""
            rows.append([
                title, f"{v['copies']} of {v['images']}", percent(v["rate"]),
                between(v["by_source"]), between(v["interval"]), cases,
            ])  # fmt: skip
    lines = [_missing(p)]
    if "threshold" in p:
        on = p["calibrated_on"]
        few = on["held_out_patients"] + on["seen_patients"] < p["normal_below"]
        lines.append(
            f"<p class=note>An image is called a copy above a similarity of {p['threshold']:.3f} "
            f"({_text(p['rule'])}; calibrated on {on['held_out_patients']} patients that the "
            f"generator never saw and {on['seen_patients']} that it saw, each against all others), "
            f"so that at most {percent(p['false_alarms'])} of unseen patients have an image called "
            f"so{_if_normal(p['normal_below']) if few else ''}. Held-out patients are judged by "
            "the threshold that the others give.</p>"
        )
    head = ["images", "above", "rate", "95 % by source", "95 % if independent", "cases"]
    lines.append(_table(head, rows))
    if p["sources_known"]:
        lines.append(
            "<p class=note>An image that was painted for a patient's mask is meant to resemble "
            "that patient's images, so that likeness is told apart and has no threshold of its "
            "own; what is nearly identical to the source stands in <code>copies.csv</code>, "
            "too. Images of masks that a network drew have no such patient, and are compared with "
            "everybody.</p>"
        )
    lines += [_doubles(p), _member(p["membership"])]
    for key, name, note in (
        ("closest", "copies.png", "The closest pairs; copies have a red frame."),
        ("closest_own", "copies_own.png", "The closest pairs of image and source patient."),
    ):
        lines.append(_picture(folder, name, note))
        lines.append(_table(
            ["pair", "synthetic", "nearest real", "similarity"],
            [[k, c["synthetic"], c["real"], f"{c['similarity']:.3f}"]
             for k, c in enumerate(p.get(key) or (), 1)],
        ))  # fmt: skip
    return lines


def _if_normal(patients: int) -> str:
    return (
        f", if the likeness of patients is normally distributed (from {patients} patients on that "
        "need not be)"
    )


def _doubles(p: Mapping[str, Any]) -> str:
    if not p.get("doubles"):
        return ""
    rows = [[d["image"], d["real"], f"{d['similarity']:.3f}"] for d in p["doubles"]]
    warning = (
        f"<p class=flag>Warning: {len(rows)} patient(s) of the real dataset have an image that is "
        "stored under another patient's name, too. They leak between training and test sets.</p>"
    )
    return warning + _table(["image", "also stored as", "similarity"], rows)


def _member(member: Mapping[str, Any] | None) -> str:
    if not member:
        return "<p class=note>Membership: not told, it needs two patients of either side.</p>"
    return (
        f"<p>Membership: the chance that an image of the fit is more like its nearest synthetic "
        f"image than one outside the fit is {member['auc']:.3f} {between(member['interval'], 1, 3)}"
        f", by {member['members']} and {member['others']} patients; 0.5 tells nothing. Images made "
        "from the masks of patients of the fit point at them without any memory.</p>"
    )


def _distances(p: Mapping[str, Any]) -> str:
    """The figures on one kind of features."""
    titles = {
        "kernel_distance": "kernel distance", "frechet_distance": "Frechet distance",
        "precision": "precision", "recall": "recall",
    }  # fmt: skip
    rows = []
    for key, title in titles.items():
        if key in p:
            v = p[key]
            rows.append([
                title, f"{v['synthetic']:.3f} +- {v['synthetic_deviation']:.3f}",
                f"{v['real']:.3f} +- {v['real_deviation']:.3f}",
                between(v["difference_over_splits"], 1, 3),
                percent(v["share_of_real_splits_below"]), f"{v['of_all']:.3f}",
            ])  # fmt: skip
    head = ["", "synthetic", "real", "difference", "real splits below", "all against all"]
    return _table(head, rows)


def _images(folder: Path, p: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    lines = [_missing(p)]
    if "extractor" in p:
        e = p["extractor"]
        apart = "made from patients of the other half" if p.get("held_apart") else "drawn at random"
        lines.append(
            f"<p class=note>Features: {_text(e['name'])} at {e['sigmas_px']} pixels, hash "
            f"<code>{e['sha256'][:12]}</code>; figures on other features do not compare. The "
            "patients are split in halves again and again: half against half is real, half "
            f"against as many synthetic images ({apart}) is synthetic. Mean and deviation over "
            "splits; then the difference over 95 % of the splits and the share of real splits "
            "below. The last column takes all synthetic images and all of the fit, sources "
            "included: it is what papers report, and nothing says what it is for real ones.</p>"
        )
    lines += [_distances(p), *_learned(p.get("learned") or {})]
    alike = {kind: p[f"ms_ssim_{kind}"] for kind in ("synthetic", "real")}
    spread = [
        [kind, f"{v['value']:.3f}", between(v["interval"], 1, 3), v["pairs"]]
        for kind, v in alike.items()
        if v
    ]
    lines.append(
        _table(["MS-SSIM between images of two patients", "mean", "95 %", "pairs"], spread)
    )
    lines.append(_picture(folder, "samples.png"))
    return lines


def _learned(p: Mapping[str, Any]) -> list[str]:
    """The figures on features of the judge."""
    if not p:
        return []
    lines = ["<h3>By what the judge sees</h3>", _missing(p)]
    if "extractor" in p:
        e = p["extractor"]
        weights = ", ".join(f"<code>{h[:12]}</code>" for h in e["weights_sha256"])
        lines.append(
            f"<p class=note>Features: {_text(e['name'])}, fitted on none of the patients whose "
            f"images are compared; weights {weights}, hash <code>{e['sha256'][:12]}</code>. Two "
            "datasets compare by figures of one hash alone: give both audits the same "
            "<code>--judge</code>.</p>"
        )
    if (noise := p.get("kernel_distance_of_noise")) is not None:
        lines.append(
            "<p class=note>The far end of the scale: real images with their pixels shuffled have a "
            f"kernel distance of {noise:.3f}. Where that is little more than between real halves, "
            "the judge is too little trained or its grid too coarse to tell much.</p>"
        )
    return [*lines, _distances(p)]


def _shapes(folder: Path, p: Mapping[str, Any], data: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, v in p["quantities"].items():
        half, gap = v.get("ks_of_real_halves"), v["difference_of_means"]
        rows.append([
            name, f"{v['ks']:.3f}", f"{half['median']:.3f}, {half['p95']:.3f}" if half else "",
            _quantiles(v["real"]), _quantiles(v["synthetic"]),
            f"{gap['difference']:+.3g} {_three(gap['interval'])}" if gap else "",
        ])  # fmt: skip
    near = [
        [name, *(f"{v[q]:.3f}" for q in ("p5", "p25", "p50", "p75", "p95")), v["count"]]
        for name, v in p["nearest"].items()
        if v and "p50" in v
    ]
    return [
        _missing(p),
        "<p class=note>KS: the largest distance between the two distributions, 0 to 1; beside it "
        "its median and 95th percentile between random halves of the real patients.</p>",
        _table(
            ["", "KS", "KS of real halves", "real: 5 %, median, 95 %", "synthetic",
             "difference of means"], rows,
        ),
        "<h3>Dice to the nearest training mask</h3>" if near else "",
        _table(["masks", "5 %", "25 %", "median", "75 %", "95 %", "slices"], near),
        _picture(folder, "shapes.png"),
    ]  # fmt: skip


def _quantiles(v: Mapping[str, float]) -> str:
    return ", ".join(f"{v[q]:.3g}" for q in ("p5", "p50", "p95"))


def _three(interval: Sequence[float]) -> str:
    low, high = (f"{v:.3g}" for v in interval)
    return f"({low} to {high})"
