"""Sheets to look at and the report page."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from augmint.case import Case
from augmint.data.dataset import Dataset, open_dataset
from augmint.errors import AugmintError
from augmint.methods.protocol import DatasetFacts
from augmint.staging import write_text

# Outlines of the classes: blue, orange, green, then others; told apart by colour-blind readers.
COLOURS = (
    (86, 180, 233), (230, 159, 0), (0, 200, 140), (204, 121, 167),
    (240, 228, 66), (213, 94, 0), (120, 120, 255), (200, 200, 200),
)  # fmt: skip
TILE = 160
# Width of a square of the legend and the gap behind it.
SWATCH = 19
# Height of a line of text above or below tiles, and the space between tiles.
LINE = 20
GAP = 3
BRIGHT, DIM = (235, 235, 235), (190, 190, 190)


def write_json(path: Path, value: Any) -> None:
    """Write JSON as one rename; paths and the like become text."""
    write_text(path, json.dumps(value, indent=1, default=str))


def plane_of(case: Case, where: float = 0.5) -> tuple[np.ndarray, np.ndarray | None]:
    """A slice of a case as a reader sees it: (H, W) image in [-1, 1] and its mask.

    Args:
        case: A frame or a volume.
        where: For volumes, the place among the slices that carry a label (or all): 0 to 1.
    """
    if case.dims == 2:
        image, mask = case.image[0].numpy(), case.mask
        return image, None if mask is None else mask.numpy()
    axis, z, mask = case.grid.slice_axis, shown_slice(case, where), case.mask
    # Stored volumes run x, y; a picture runs rows, columns.
    plane = case.image[0].select(axis, z).numpy().T
    return plane, None if mask is None else mask.select(axis, z).numpy().T


def shown_slice(case: Case, where: float = 0.5) -> int:
    """The slice of a volume that `plane_of` shows."""
    axis = case.grid.slice_axis
    labelled = np.arange(case.grid.shape[axis])
    if case.mask is not None and bool(case.mask.any()):
        others = [i for i in range(3) if i != axis]
        labelled = np.flatnonzero(case.mask.numpy().any(axis=tuple(others)))
    return int(labelled[round(where * (len(labelled) - 1))])


def tile(
    image: np.ndarray, mask: np.ndarray | None, *, size: int = TILE, window: float = 1.0
) -> np.ndarray:
    """(size, size, 3) uint8: the centred part of an image, with outlines if a mask is given."""
    from PIL import Image

    side = max(image.shape) * window
    left, top = ((n - side) / 2 for n in reversed(image.shape))
    box = (round(left), round(top), round(left + side), round(top + side))
    grey = Image.fromarray(((image + 1) * 127.5).clip(0, 255).astype(np.uint8)).crop(box)
    rgb = np.array(grey.resize((size, size), Image.Resampling.BICUBIC).convert("RGB"))
    if mask is not None:
        labels = Image.fromarray(mask.astype(np.uint8)).crop(box)
        big = np.array(labels.resize((size, size), Image.Resampling.NEAREST))
        for index in np.unique(big[big > 0]):
            rgb[_outline(big == index)] = _colour(int(index))
    return rgb


def _colour(index: int) -> tuple[int, int, int]:
    return COLOURS[(index - 1) % len(COLOURS)]


def _outline(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_erosion

    return np.asarray(mask & ~binary_erosion(mask, border_value=1))


def sheet(
    path: Path,
    rows: Sequence[Sequence[np.ndarray | None]],
    *,
    columns: Sequence[str],
    names: Sequence[str] = (),
    labels: Mapping[str, int] | None = None,
    heading: str = "",
    captions: Sequence[Sequence[tuple[str, str]]] = (),
) -> None:
    """Write a grid of tiles with a heading for each column and a name for each row.

    Args:
        path: The picture to write.
        rows: Tiles, row by row; None stays empty.
        columns: Headings.
        names: Names of the rows, lines of text that are wrapped; none leave no margin for them.
        labels: Names and indices of the outlines that the tiles show, for a legend above them all.
        heading: What the sheet shows, a line above the legend.
        captions: For each row a name, shortened in the middle where it is long, and a remark to go
            under its tiles, each below as many of them as there are tiles for a caption.
    """
    from PIL import Image, ImageDraw, ImageFont

    left, step = 170 if any(names) else 6, TILE + GAP
    width = left + len(columns) * step
    font = ImageFont.load_default(13)
    strip = _strip(heading, labels or {}, font, left, width)
    top, high = strip.height + 26, step + (LINE if captions else 0)
    canvas = Image.new("RGB", (width, top + len(rows) * high), (18, 18, 20))
    canvas.paste(strip, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for x, title in enumerate(columns):
        draw.text((left + x * step + 4, strip.height + 5), title, fill=BRIGHT, font=font)
    for y, tiles in enumerate(rows):
        lines = _wrapped(names[y], font, left - 12) if any(names) else []
        for k, text in enumerate(lines):
            draw.text((6, top + y * high + 6 + 17 * k), text, fill=DIM, font=font)
        for x, one in enumerate(tiles):
            if one is not None:
                canvas.paste(Image.fromarray(one), (left + x * step, top + y * high))
        below = captions[y] if captions else ()
        span = step * len(columns) // max(1, len(below))
        for x, (name, remark) in enumerate(below):
            place = (left + x * span + 4, top + y * high + TILE + 2)
            draw.text(place, _caption(name, remark, font, span - 12), fill=DIM, font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name("writing." + path.name)
    canvas.save(temporary)
    temporary.replace(path)


def _strip(heading: str, labels: Mapping[str, int], font: Any, left: int, width: int) -> Any:
    """A picture of what stands above all tiles: heading and legend; without either, no rows."""
    from PIL import Image, ImageDraw

    lines = _wrapped(heading, font, width - 12) if heading else []
    head = 6 + LINE * len(lines) if lines else 0
    start = round(max(left + 4, 6 + font.getlength("outlines") + 18))
    legend = _legend(labels, font, start, width)
    height = head + (6 + LINE * (1 + legend[-1][1]) if legend else 0)
    strip = Image.new("RGB", (width, height), (40, 40, 44))
    draw = ImageDraw.Draw(strip)
    for k, text in enumerate(lines):
        draw.text((6, 5 + LINE * k), text, fill=BRIGHT, font=font)
    if legend:
        draw.text((6, head + 5), "outlines", fill=DIM, font=font)
    for x, line, colour, name in legend:
        y = head + 5 + LINE * line
        draw.rectangle((x, y + 2, x + 12, y + 13), outline=colour, width=3)
        draw.text((x + SWATCH, y), name, fill=BRIGHT, font=font)
    return strip


def _wrapped(text: str, font: Any, width: float) -> list[str]:
    """Lines no wider than so many pixels and as many as a tile is high, broken at spaces or `_`."""
    lines: list[str] = []
    for part in text.split("\n"):
        line = ""
        for piece in re.findall(r"[^\s_]*[\s_]+|[^\s_]+", part):
            if line and font.getlength(line + piece.rstrip()) > width:
                lines, line = [*lines, line.rstrip()], ""
            for letter in piece:
                if line and font.getlength(line + letter) > width and not letter.isspace():
                    lines, line = [*lines, line], ""
                line += letter
        lines.append(line.rstrip())
    most = TILE // 17
    return lines if len(lines) <= most else [*lines[: most - 1], "..."]


def _caption(name: str, remark: str, font: Any, width: float) -> str:
    """Name and remark on one line, the name without its middle where it is too long."""
    end = f"  {remark}" if remark else ""
    kept = len(name)
    text = name + end
    while font.getlength(text) > width and kept > 2:
        kept -= 1
        text = f"{name[: (kept + 1) // 2]}...{name[len(name) - kept // 2 :]}{end}"
    return text


def _legend(
    labels: Mapping[str, int], font: Any, left: int, width: int
) -> list[tuple[int, int, tuple[int, int, int], str]]:
    """Place, line, colour and name of each label, the background left out."""
    placed = []
    x, line = left, 0
    for name, index in sorted(labels.items(), key=lambda one: one[1]):
        if not index:
            continue
        end = x + SWATCH + round(font.getlength(name))
        if end > width and x > left:
            line, end, x = line + 1, left + end - x, left
        placed.append((x, line, _colour(index), name))
        x = end + 18
    return placed


def write_sheets(
    folder: Path,
    dataset: Dataset,
    rows: Sequence[Mapping[str, Any]],
    facts: DatasetFacts,
    *,
    sources: int = 4,
    copies: int = 3,
) -> list[Path]:
    """sheets/pairs.png (a real case, then its synthetic ones) and sheets/rejected.png."""
    window = max(facts.grid.window) / max(facts.grid.canvas)
    made = [r for r in rows if r["synthetic"]]
    written = []
    whole = open_dataset(folder)
    by_source: dict[str, list[Mapping[str, Any]]] = {}
    for row in made:
        if row["accepted"]:
            by_source.setdefault(row["source_case"], []).append(row)
    found = list(by_source)
    picked = [found[i] for i in _spread(len(found), sources)]
    copies = min(copies, max((len(v) for v in by_source.values()), default=0))
    cases = {i.case_id: i for i in whole.items}
    tiles, names = [], []
    for source in picked:
        real = whole.load(cases[source])
        places = _places(real.dims == 3)
        new = [whole.load(cases[r["case"]]) for r in by_source[source][:copies]]
        for title, where in places:
            line: list[np.ndarray | None] = []
            for case in (real, *new):
                image, mask = plane_of(case, where)
                line += [tile(image, None, window=window), tile(image, mask, window=window)]
            tiles.append(line + [None] * (2 * (copies + 1) - len(line)))
            names.append(f"{source}\n{title}")
    if tiles:
        columns = ["real", "real, mask"]
        for k in range(copies):
            columns += [f"synthetic {k + 1}", "its mask"]
        written.append(folder / "sheets" / "pairs.png")
        sheet(written[-1], tiles, columns=columns, names=names, labels=facts.labels)
    rejected = [r for r in made if not r["accepted"]]
    if rejected:
        written.append(folder / "sheets" / "rejected.png")
        _rejected_sheet(written[-1], folder, rejected, window, facts.labels)
    return written


def write_samples(
    path: Path, pairs: Sequence[tuple[Case, Case]], *, labels: Mapping[str, int] | None = None
) -> None:
    """A sheet of real cases and the synthetic ones made from them, on the working window."""
    places = _places(any(real.dims == 3 for real, _ in pairs))
    rows, names = [], []
    for real, new in pairs:
        for title, where in places:
            line: list[np.ndarray | None] = []
            for case in (real, new):
                image, mask = plane_of(case, where)
                line += [tile(image, None), tile(image, mask)]
            rows.append(line)
            names.append(f"{real.case_id}\n{title}")
    columns = ["real", "real, mask", "synthetic", "its mask"]
    sheet(path, rows, columns=columns, names=names, labels=labels)


def _rejected_sheet(
    path: Path,
    folder: Path,
    rejected: Sequence[Mapping[str, Any]],
    window: float,
    labels: Mapping[str, int],
) -> None:
    kept = open_dataset(folder / "rejected")
    items = {i.case_id: i for i in kept.items}
    tiles, names = [], []
    for row in _by_gate(rejected, 8):
        case = kept.load(items[row["case"]])
        line: list[np.ndarray | None] = []
        for where in (0.15, 0.5, 0.85) if case.dims == 3 else (0.5,):
            image, mask = plane_of(case, where)
            line += [tile(image, None, window=window), tile(image, mask, window=window)]
        tiles.append(line)
        names.append(f"{row['source_case']}\ncopy {row['copy']}\n{row['reason']}")
    columns = ["synthetic, rejected", "its mask"] * (len(tiles[0]) // 2)
    sheet(path, tiles, columns=columns, names=names, labels=labels)


def _by_gate(rejected: Sequence[Mapping[str, Any]], wanted: int) -> list[Mapping[str, Any]]:
    """Rejected cases to show, as many of each gate, evenly chosen."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rejected:
        groups.setdefault((row.get("rejected_by") or [""])[-1], []).append(row)
    each = max(1, wanted // len(groups))
    return [g[k] for g in groups.values() for k in _spread(len(g), each)]


def _places(volumes: bool) -> list[tuple[str, float]]:
    if not volumes:
        return [("", 0.5)]
    return [("near the first slice", 0.12), ("middle", 0.5), ("near the last slice", 0.88)]


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices spread over `count`."""
    if count <= wanted:
        return list(range(count))
    return [round(k * (count - 1) / (wanted - 1)) for k in range(wanted)]


def data_sheet(path: Path, dataset: Dataset, *, count: int = 24) -> None:
    """A contact sheet of a dataset: each case plain and with its mask, named below.

    Of more cases than `count` it shows so many, evenly chosen, and says so; it counts those that
    cannot be read.
    """
    shown: list[tuple[np.ndarray | None, np.ndarray | None]] = []
    captions: list[tuple[str, str]] = []
    chosen = _spread(len(dataset), count)
    for k in chosen:
        try:
            case = dataset.load(dataset.items[k])
        except AugmintError:
            continue
        image, mask = plane_of(case)
        shown.append((tile(image, None), tile(image, mask) if mask is not None else None))
        slices = case.grid.shape[case.grid.slice_axis] if case.dims == 3 else 0
        captions.append(
            (case.case_id, f"slice {shown_slice(case) + 1} of {slices}" if slices else "")
        )
    held = f"all {len(chosen)} cases" if len(chosen) > 1 else "its one case"
    if len(chosen) < len(dataset):
        held = f"{len(chosen)} of {len(dataset)} cases, evenly chosen"
    if unread := len(chosen) - len(shown):
        held += f"; {unread} of them cannot be read and {'is' if unread == 1 else 'are'} missing"
    short = -len(shown) % 4
    shown += [(None, None)] * short
    captions += [("", "")] * short
    starts = range(0, len(shown), 4)
    sheet(
        path, [[one for pair in shown[k : k + 4] for one in pair] for k in starts],
        columns=["image", "mask"] * 4, labels=dataset.labels, heading=f"{dataset.name}: {held}",
        captions=[captions[k : k + 4] for k in starts],
    )  # fmt: skip


STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;color:#222}
h1{font-size:1.7rem}h2{font-size:1.2rem;margin-top:2rem}table{border-collapse:collapse}
td,th{padding:.3rem .8rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}img{max-width:100%}
.note{color:#555}code{background:#f3f3f3;padding:0 .2rem}
"""


def write_report(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    run: Mapping[str, Any],
    facts: DatasetFacts,
) -> None:
    """report.html: what was made, how it was judged, what to look at; one file, offline."""
    counts = run["counts"]
    share = counts["accepted"] / counts["synthetic"] if counts["synthetic"] else 0.0
    made = [r for r in rows if r["synthetic"]]
    parts = [
        f"<h1>Synthetic data from {html.escape(str(run['dataset']))}</h1>",
        f"<p>{counts['synthetic']} synthetic cases from {counts['real']} real ones; "
        f"{counts['accepted']} accepted ({share:.0%}), {counts['rejected']} rejected and kept in "
        "<code>rejected/</code>. Accepted pairs stand in <code>imagesTr</code> and "
        "<code>labelsTr</code> beside the real ones; <code>manifest.csv</code> has a line for "
        "each.</p>",
        f"<p class=note>{html.escape(str(run['split']))}.</p>",
        _gate_table(made, run),
        _agreement_table(made, run, facts),
        "<h2>Pairs</h2>",
        _picture(folder, "pairs.png"),
        "<h2>Rejected</h2>" if counts["rejected"] else "",
        _picture(folder, "rejected.png") if counts["rejected"] else "",
        "<h2>How it was made</h2>",
        f"<p>{html.escape(json.dumps(run.get('cost', {})))}</p>",
        f"<p class=note>Versions: {html.escape(json.dumps(run.get('versions', {})))}. "
        f"Licence of the source data: {html.escape(str(run.get('licence')) or 'not stated')}; "
        "synthetic cases are derived from it.</p>",
        "<p class=note>Agreement is no proof of usefulness: train with and without the synthetic "
        "cases and compare on patients that nothing here has seen.</p>",
    ]
    page = f"<!doctype html><meta charset=utf-8><title>augmint</title><style>{STYLE}</style>"
    write_text(folder / "report.html", page + "\n".join(parts))


def _gate_table(made: Sequence[Mapping[str, Any]], run: Mapping[str, Any]) -> str:
    """How many cases each gate rejects, and how many no other would."""
    used = [name for gate in run.get("gates") or [] for name in gate.get("used", ())]
    if not used or not made:
        return ""
    lines = []
    for name in dict.fromkeys(used):
        mine = [r for r in made if name in r.get("rejected_by", ())]
        alone = sum(list(r["rejected_by"]) == [name] for r in mine)
        lines.append(
            f"<tr><td>{name}<td>{len(mine)}<td>{len(mine) / len(made):.1%}<td>{alone}</tr>"
        )
    looked = [r for r in made if r.get("validity") is not None]
    broken = Counter(q for r in looked for q in str(r.get("broken") or "").split("; ") if q)
    note = ""
    if looked:
        valid = sum(r["validity"] for r in looked) / len(looked)
        most = ", ".join(html.escape(f"{q} ({n})") for q, n in broken.most_common(5))
        note = (
            f"<p class=note>{valid:.1%} of the synthetic masks break no anatomical rule, with "
            "limits from the real training masks; real masks of other patients break such rules "
            f"too. {f'Broken most often: {most}.' if most else ''}</p>"
        )
    return (
        "<h2>Gates</h2><table><tr><th>gate<th>rejects<th>of all synthetic<th>rejected by it alone"
        "</tr>" + "".join(lines) + f"</table>{note}"
    )


def _agreement_table(
    made: Sequence[Mapping[str, Any]], run: Mapping[str, Any], facts: DatasetFacts
) -> str:
    gates = [g for g in run.get("gates") or [] if "thresholds" in g]
    lines = []
    for name in facts.annotated:
        values = [r[f"agreement_{name}"] for r in made if r.get(f"agreement_{name}") is not None]
        if not values:
            continue
        real = [v for g in gates for v in g["real"].get(name, [])]
        least = [g["thresholds"].get(name) for g in gates if g["thresholds"].get(name) is not None]
        lines.append(
            f"<tr><td>{html.escape(name)}<td>{np.mean(values):.3f}"
            f"<td>{np.std(values):.3f}<td>{np.mean(real) if real else float('nan'):.3f}"
            f"<td>{', '.join(f'{v:.3f}' for v in least)}</tr>"
        )
    if not lines:
        judge = "segmenter" if run.get("gates") else "gate"
        return f"<p class=note>No {judge} judged these cases.</p>"
    warnings = "".join(
        f"<p><b>Warning: {f'fold {k + 1}: ' if len(gates) > 1 else ''}{html.escape(text)}.</b></p>"
        for k, gate in enumerate(gates)
        for text in gate.get("warnings", [])
    )
    return (
        f"<h2>Agreement</h2>{warnings}"
        "<p class=note>Dice between the mask and what the gate's segmenter finds in the image, 0 "
        "where only one of them has the label: all synthetic pairs before gating, beside real "
        "pairs. Each is predicted by a segmenter that had not seen its patient, if the training "
        "patients are two or more.</p><table><tr><th>label<th>synthetic<th>deviation"
        "<th>real, out of fold<th>least accepted</tr>" + "".join(lines) + "</table>"
    )


def _picture(folder: Path, name: str) -> str:
    """An embedded picture, so that the page is one file."""
    import base64

    path = folder / "sheets" / name
    if not path.exists():
        return "<p class=note>None.</p>"
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<img alt="{name}" src="data:image/png;base64,{data}">'
