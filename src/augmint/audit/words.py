"""An audit in words: one sentence for each part, the same on the page and in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Part = Mapping[str, Any]


def in_words(summary: Mapping[str, Any]) -> list[str]:
    """Five sentences: masks, agreement, copies, images, shapes.

    Args:
        summary: The content of audit.json.
    """
    parts, data = summary["parts"], summary["data"]
    every = {"all": "synthetic"}.get(are := data["synthetic_are"], f"{are} synthetic")
    kept = "synthetic" if data["accepted"] else "rejected synthetic"
    return [
        _validity(parts["validity"], every), _adherence(parts["adherence"], are),
        _copies(parts["copies"], kept), _images(parts["images"], kept),
        _shapes(parts["shapes"], kept),
    ]  # fmt: skip


def percent(x: float) -> str:
    """0.0321 as 3.2 %; whole numbers where nothing is lost."""
    value = 100 * x
    return f"{value:.0f} %" if abs(value - round(value)) < 0.05 else f"{value:.1f} %"


def between(interval: Sequence[float], scale: float = 100, digits: int = 1) -> str:
    """The interval in brackets."""
    low, high = (f"{scale * v:.{digits}f}" for v in interval)
    return f"({low} to {high})"


def _validity(p: Part, which: str) -> str:
    if "missing" in p:
        return f"Masks were not judged: {p['missing']}."
    made, real, gap = p["synthetic"], p["real"], p["difference"]
    text = (
        f"{percent(made['share'])} {between(made['interval'])} of {made['of']} {which} masks "
        f"obey the rules of the {p['rules']}"
    )
    if real is None:
        return f"{text}; there is no second real patient to compare with."
    fewer, more = "fewer of the synthetic ones do", "more of the synthetic ones do"
    who = "real masks of patients that the generator never saw"
    if p["real_are"] != "held-out":
        who = "real masks of the fit, each by limits from other patients,"
    text += f"; of {real['of']} {who} {percent(real['share'])} {between(real['interval'])} do"
    if p["synthetic_favoured"]:
        return f"{text}, a comparison that favours the synthetic ones"
    text += f", so {_verdict(gap, fewer, more, 100, 1, ' points')}"
    if p["real_are"] == "held-out" and gap["interval"][0] > 0:
        text += "; the limits come from patients that the generator saw"
    return f"{text}."


def _verdict(
    gap: Mapping[str, Any] | None, less: str, more: str, scale: float, digits: int, unit: str
) -> str:
    """Which side is ahead, and by how much; none where the interval holds 0."""
    if gap is None:
        return "with too few patients for a comparison"
    size = f"{scale * gap['difference']:+.{digits}f}{unit}"
    told = f"{size} {between(gap['interval'], scale, digits)}"
    low, high = gap["interval"]
    if low <= 0 <= high:
        return f"no difference is shown: {told}"
    return f"{less if high < 0 else more}: {told}"


def _adherence(p: Part, are: str) -> str:
    names = [n for n, v in p["labels"].items() if v["synthetic"]]
    if not names:
        return "No judge could be asked: no synthetic mask holds a label that it knows."
    made = ", ".join(f"{n} {p['labels'][n]['synthetic']['mean']:.3f}" for n in names)
    who = "An independent judge" if p["independent"] else "A judge that is not independent"
    images = {"all": "the synthetic images (all, before any gate)"}
    text = (
        f"{who} ({p['network']}) finds the masks in "
        f"{images.get(are, f'{are} synthetic images')} with a Dice of {made}"
    )
    both = [n for n in names if p["labels"][n]["real"]]
    if not both:
        return f"{text}; no real patient is left that it did not see."
    real = ", ".join(f"{n} {p['labels'][n]['real']['mean']:.3f}" for n in both)
    text += f", in real images of patients that it never saw with {real}"
    gaps = {n: p["labels"][n]["difference"] for n in both if p["labels"][n]["difference"]}
    if gaps:
        worst = min(gaps, key=lambda n: gaps[n]["difference"])
        gap = gaps[worst]
        text += (
            f"; the lowest difference is {worst} {gap['difference']:+.3f} "
            f"{between(gap['interval'], 1, 3)}"
        )
    if p["accepted_share"]:
        kept = p["accepted_share"]
        text += f". The gates accepted {percent(kept['share'])} {between(kept['interval'])}"
    return f"{text}."


def _copies(p: Part, kind: str) -> str:
    if "missing" in p:
        return f"Copies were not counted: {p['missing']}."
    rate = p["others"]
    if rate is None:
        return "No synthetic image could be compared with real ones: too little is to be seen."
    other = " of another patient's image than the source's" if p["sources_known"] else ""
    text = _rate(rate, kind, f"copies{other}" if rate["copies"] != 1 else f"a copy{other}")
    held = p["held_out"]
    if held:
        text += (
            f"; of {held['images']} real images of patients that the generator never saw "
            f"{percent(held['rate'])} {between(held['by_source'])} would be taken for copies"
        )
    else:
        text += "; no patients were held out to say how many a real one would count for"
    if own := p.get("own"):
        text += (
            f". {own['copies']} of {own['images']} ({percent(own['rate'])}, "
            f"{between(own['by_source'])[1:-1]}) are as like an image of the patient that they "
            "were made from"
        )
        near = p["own_nearly_identical"]
        if near and near["copies"]:
            text += f", {near['copies']} of them nearly identical to it"
        if p["by_design"]:
            text += f" (by design: {', '.join(p['by_design'])} keeps recorded pixels)"
    return f"{text}."


def _rate(rate: Part, kind: str, what: str) -> str:
    verb = "is" if rate["copies"] == 1 else "are"
    return (
        f"{rate['copies']} of {rate['images']} {kind} images {verb} {what} "
        f"({percent(rate['rate'])}, {between(rate['by_source'])[1:-1]})"
    )


def _images(p: Part, kind: str) -> str:
    parts = []
    if "kernel_distance" in p:
        parts.append(f"by texture {_apart(p, kind)}: {_figures(p)}")
    elif "kernel_distance_of_all" in p:
        parts.append(
            f"by texture the kernel distance of {kind} from real images is "
            f"{_of_all(p['kernel_distance_of_all'])}, and {p['missing']}"
        )
    else:
        parts.append(str(p["missing"]))
    parts += _learned(p, kind)
    real, made = p["ms_ssim_real"], p["ms_ssim_synthetic"]
    if real and made:
        parts.append(
            f"two {kind} images have an MS-SSIM of {made['value']:.3f} "
            f"{between(made['interval'], 1, 3)}, two real ones {real['value']:.3f} "
            f"{between(real['interval'], 1, 3)}"
        )
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _learned(p: Part, kind: str) -> list[str]:
    """The same by features of the judge; what both lack for one reason is told once."""
    found = p.get("learned") or {}
    if "kernel_distance" in found:
        verdict = _apart(found, kind)
        if "kernel_distance" in p and _apart(p, kind) == verdict:
            verdict = "likewise"
        noise = found["kernel_distance_of_noise"]
        return [
            f"by what the judge sees {verdict}: {_figures(found)} (shuffled pixels have a kernel "
            f"distance of {noise:.3f})"
        ]
    if found.get("missing") == p.get("missing"):
        whole = found.get("kernel_distance_of_all")
        return [f"by what the judge sees it is {_of_all(whole)}"] if whole else []
    if not found:
        return []
    return [f"features of the judge were not compared: {found['missing']}"]


def _figures(p: Part) -> str:
    return (
        f"kernel distance {_beside(p['kernel_distance'], 3)}, precision "
        f"{_beside(p['precision'], 2)}, recall {_beside(p['recall'], 2)}"
    )


def _of_all(kernel: Part) -> str:
    return f"{kernel['value']:.3f} (deviation over subsets {kernel['deviation']:.3f})"


def _apart(p: Part, kind: str) -> str:
    """In words: where the figures lie among those of real halves."""
    if p["kernel_distance"]["share_of_real_splits_below"] >= 0.95:
        return (
            f"{kind} images lie farther from real ones than halves of the real patients from each "
            "other"
        )
    # A few images alike among real ones are no farther off than these, and stand for few of them.
    lower = [n for n in ("precision", "recall") if p[n]["difference_over_splits"][1] < 0]
    if lower:
        return (
            f"{kind} images lie no farther from real ones than halves of the real patients from "
            f"each other, but have a lower {' and '.join(lower)}"
        )
    return (
        f"no difference between {kind} and real images is shown, beside that between halves of the "
        "real patients"
    )


def _beside(figure: Part, digits: int) -> str:
    """Of synthetic images, and what it is among real ones."""
    return (
        f"{figure['synthetic']:.{digits}f} +- {figure['synthetic_deviation']:.{digits}f} against "
        f"{figure['real']:.{digits}f} +- {figure['real_deviation']:.{digits}f}"
    )


def _shapes(p: Part, kind: str) -> str:
    figures = p["quantities"]
    if not figures:
        return "Shapes were not compared: too few masks hold a label on both sides."
    known = {n: f for n, f in figures.items() if "ks_of_real_halves" in f}
    if known:
        off = [n for n, f in known.items() if f["ks"] > f["ks_of_real_halves"]["p95"]]
        text = (
            f"no difference between {kind} and real masks is shown for {len(known) - len(off)} of "
            f"{len(known)} sizes and distances (Kolmogorov-Smirnov no larger than in 95 % of "
            "splits of the real patients)"
        )
        if off:
            worst = max(off, key=lambda n: figures[n]["ks"])
            figure = figures[worst]
            text += (
                f"; farthest off is {worst}, {figure['ks']:.2f} where real halves reach "
                f"{figure['ks_of_real_halves']['p95']:.2f}"
            )
    else:
        worst = max(figures, key=lambda n: figures[n]["ks"])
        text = f"Kolmogorov-Smirnov is largest for {worst}, {figures[worst]['ks']:.2f}; fewer than "
        text += "4 real patients cannot say how much is noise"
    near = p["nearest"]
    if "real" in near and "synthetic" in near:
        name = "synthetic, other patients" if "synthetic, other patients" in near else "synthetic"
        whose = " of another patient than the source" if name != "synthetic" else ""
        gap = near.get(f"{name}, less real")
        farther, nearer = "synthetic masks are farther from it", "synthetic masks are nearer to it"
        text += (
            f". The nearest training mask{whose} has a median Dice of {near[name]['p50']:.2f} to a "
            f"synthetic mask and of {near['real']['p50']:.2f} to a real one; on average "
            f"{_verdict(gap, farther, nearer, 1, 3, '')}"
        )
    return f"{text[0].upper()}{text[1:]}."
