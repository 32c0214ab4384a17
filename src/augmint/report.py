"""Sheets to look at and the report page."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from augmint.case import Case
from augmint.data.dataset import Dataset, open_dataset
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
    names: Sequence[str],
    labels: Mapping[str, int] | None = None,
) -> None:
    """Write a grid of tiles with a heading for each column and a name for each row.

    Args:
        path: The picture to write.
        rows: Tiles, row by row; None stays empty.
        columns: Headings.
        names: Names of the rows, lines of text.
        labels: Names and indices of the outlines that the tiles show, for a legend above them all.
    """
    from PIL import Image, ImageDraw, ImageFont

    size, left, gap, line_height = TILE, 170, 3, 20
    width = left + len(columns) * (size + gap)
    font = ImageFont.load_default(13)
    legend = _legend(labels or {}, font, left + 4, width)
    strip = 6 + line_height * (1 + legend[-1][1]) if legend else 0
    top = strip + 26
    canvas = Image.new("RGB", (width, top + len(rows) * (size + gap)), (18, 18, 20))
    draw = ImageDraw.Draw(canvas)
    if legend:
        draw.rectangle((0, 0, width, strip - 1), fill=(40, 40, 44))
        draw.text((6, 5), "outlines", fill=(190, 190, 190), font=font)
    for x, line, colour, name in legend:
        y = 5 + line_height * line
        draw.rectangle((x, y + 2, x + 12, y + 13), outline=colour, width=3)
        draw.text((x + SWATCH, y), name, fill=(235, 235, 235), font=font)
    for x, title in enumerate(columns):
        place = (left + x * (size + gap) + 4, strip + 5)
        draw.text(place, title, fill=(235, 235, 235), font=font)
    for y, tiles in enumerate(rows):
        for line, text in enumerate(names[y].split("\n")):
            place = (6, top + y * (size + gap) + 6 + 17 * line)
            draw.text(place, text[:23], fill=(190, 190, 190), font=font)
        for x, one in enumerate(tiles):
            if one is not None:
                canvas.paste(
                    Image.fromarray(one), (left + x * (size + gap), top + y * (size + gap))
                )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name("writing." + path.name)
    canvas.save(temporary)
    temporary.replace(path)


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
    for k in _spread(len(rejected), 8):
        case = kept.load(items[rejected[k]["case"]])
        line: list[np.ndarray | None] = []
        for where in (0.15, 0.5, 0.85) if case.dims == 3 else (0.5,):
            image, mask = plane_of(case, where)
            line += [tile(image, None, window=window), tile(image, mask, window=window)]
        tiles.append(line)
        reason = str(rejected[k]["reason"]).replace("agreement ", "")
        names.append(f"{rejected[k]['source_case']}\ncopy {rejected[k]['copy']}\n{reason}")
    columns = ["synthetic, rejected", "its mask"] * (len(tiles[0]) // 2)
    sheet(path, tiles, columns=columns, names=names, labels=labels)


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
    """A contact sheet of a dataset: each case plain and with its mask."""
    from augmint.errors import AugmintError

    tiles: list[np.ndarray | None] = []
    names: list[str] = []
    rows: list[list[np.ndarray | None]] = []
    for k in _spread(len(dataset), count):
        try:
            case = dataset.load(dataset.items[k])
        except AugmintError:
            continue
        image, mask = plane_of(case)
        tiles += [tile(image, None), tile(image, mask) if mask is not None else None]
        if len(tiles) == 8:
            rows.append(tiles)
            tiles = []
    if tiles:
        rows.append(tiles + [None] * (8 - len(tiles)))
    names = [f"{dataset.name}" if i == 0 else "" for i in range(len(rows))]
    sheet(path, rows, columns=["image", "mask"] * 4, names=names, labels=dataset.labels)


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


def _agreement_table(
    made: Sequence[Mapping[str, Any]], run: Mapping[str, Any], facts: DatasetFacts
) -> str:
    gates = run.get("gates") or []
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
        return "<p class=note>No gate judged these cases.</p>"
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
