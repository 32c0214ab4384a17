"""Does image quality tell the gain? Each generator of a finished study, measured and correlated.

    python benchmarks/quality_and_gain.py STUDY DATA [--work scratch/quality_and_gain]

STUDY is the folder that `real_study.py DATA benchmarks/acdc/quality_and_gain.yaml` leaves, DATA
the same folder with the datasets. The gain of an arm is its mean Dice less the baseline's on each
test. Quality is measured on all pairs of the arm, rejected ones too, on the part of the plane that
all generators paint:

- kernel distance on texture features between its images and real ones of patients who could have
  trained, but were drawn for no generator;
- adherence: Dice between its masks and what a segmenter of another architecture, fitted on those
  same patients, finds in its images, mean of the labels;
- MS-SSIM between its images of different patients, high where they are all alike.

Spearman's correlation over the arms has two intervals. The first resamples what measured quality
and gain (draws, seeds, test patients, sources and real patients); the second resamples the arms as
well, as if other generators could have been tried. Images are measured once and found again.
Writes benchmarks/results/quality_against_gain.json and, in --work, a scatter plot.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from scipy.stats import spearmanr
from torch import Tensor

from augmint.case import Case
from augmint.data.dataset import Dataset, open_dataset
from augmint.data.pool import build_pool
from augmint.evaluation.metrics import dice
from augmint.evaluation.score import MEAN
from augmint.fit import describe_device, resolve_device, versions
from augmint.imaging.working import WorkingGrid
from augmint.progress import Talk
from augmint.quality.fidelity import squared_mmd, standardise, texture_features
from augmint.segmentation.checkpoint import load_segmenter, save_segmenter
from augmint.segmentation.predict import predict_mask
from augmint.segmentation.training import SegmenterConfig, fit_segmenter
from augmint.study.parts import named_patients, open_part
from augmint.study.plan import plan_study
from augmint.study.results import Table, collect
from augmint.study.spec import Study, read_study
from augmint.study.units import Plan
from results import commit, save

parser = argparse.ArgumentParser()
parser.add_argument("study", type=Path)
parser.add_argument("data", type=Path)
parser.add_argument(
    "--file", type=Path, default=Path(__file__).parent / "acdc" / "quality_and_gain.yaml"
)
parser.add_argument("--work", type=Path, default=Path("scratch/quality_and_gain"))
parser.add_argument("--judge-steps", type=int, default=1200)
parser.add_argument("--resamples", type=int, default=2000)
parser.add_argument("--device", default="auto")
parser.add_argument("--result", default="quality_against_gain", help="name of the result file")
SEED = 0
PAIRS = 400
# Fewer arms than these have no rank correlation to speak of.
FEWEST_ARMS = 3
MEASURES = {
    "kernel distance": "kernel distance to real images",
    "adherence": "Dice of an independent judge",
    "ms_ssim": "MS-SSIM between patients",
}


def main() -> None:
    a = parser.parse_args()
    spec = read_study(a.file)
    if json.loads((a.study / "study.json").read_text())["hash"] != spec.hash:
        raise SystemExit(f"{a.study} was run from another file than {a.file}; name it with --file")
    plan = plan_study(spec, a.data)
    done = {k for k, u in plan.units.items() if (a.study / u.folder).exists()}
    tables = collect(plan, a.study, list(spec.arms), ["dice"], done)
    if not tables or len({(t.place.size, t.place.network) for t in tables}) > 1:
        raise SystemExit(
            f"{a.study} has no finished evaluation on the data in {a.data}, or several sizes or "
            "networks; this needs one size and one network"
        )
    made = generators(spec, plan, done)
    arms = [n for n in made if all(n in t.figures["dice", MEAN] for t in tables)]
    if len(arms) < FEWEST_ARMS:
        raise SystemExit(
            f"{a.study}: {len(arms)} generators are finished in all draws, {FEWEST_ARMS} are "
            f"needed; go on with the study, with the version that began it and the data in {a.data}"
        )
    units = sorted({unit for arm in arms for unit in made[arm].values()})
    grid = common_grid([a.study / plan.units[u].folder for u in units])
    device, talk = resolve_device(a.device), Talk()
    whole = open_part(plan.units[units[0]].arguments)
    drawn = sorted({p for u in units for p in plan.units[u].arguments["patients"]})
    could = named_patients(spec.patients, a.data) or list(whole.patients)
    tested = {p for u in plan.units.values() if u.kind == "evaluate"
              for p in u.arguments["patients"] or ()}  # fmt: skip
    others = sorted(set(could) - set(drawn) - tested)
    judge = fit_judge(a.work, whole.select(patients=others), grid, a.judge_steps, device, talk)
    real = measure(a.work / "real.pt", list_of(whole, others), grid, whole.labels, judge, device)
    found = {}
    for number, unit in enumerate(units):
        talk.say(f"[{number + 1}/{len(units)}] {plan.units[unit].title}")
        folder = a.study / plan.units[unit].folder
        found[unit] = measure(
            a.work / f"{unit}.pt", synthetic_of(folder), grid, whole.labels, judge, device
        )
    own = measure(a.work / "own.pt", list_of(whole, drawn), grid, whole.labels, judge, device)
    quality = {
        arm: [Quality.of(real, found[made[arm][d]]) for d in sorted(made[arm])] for arm in arms
    }
    beside = Quality.of(real, own)
    result = {
        "what": "gain: mean Dice less the baseline's; quality of all pairs, rejected ones too; "
        "intervals are of 95 %",
        "study": spec.name, "protocol": spec.hash, "baseline": spec.baseline,
        "generator_patients": drawn, "real_patients": others, "window": list(grid.window),
        "measured": [m for m in MEASURES if all(m in q.names for v in quality.values() for q in v)],
        "real images of the generators' patients": beside.figures(beside.plain()),
        "tests": {}, "seed": SEED, "device": describe_device(device), "versions": versions(),
        "commit": commit(),
    }  # fmt: skip
    if "ms_ssim" not in result["measured"]:
        result["note"] = "MS-SSIM is left out: this version of augmint has none"
    for table in tables:
        result["tests"][table.place.test] = correlate(
            table, spec, quality, sorted(next(iter(made.values()))), result["measured"], a.resamples
        )
    draw_scatter(a.work / "quality_and_gain.png", result)
    print(json.dumps(result["tests"], indent=1))
    save(a.result, result)


# The study's generators


def generators(spec: Study, plan: Plan, done: set[str]) -> dict[str, dict[int, str]]:
    """Arm -> draw -> its finished generation, for arms that have all of them."""
    found: dict[str, dict[int, str]] = defaultdict(dict)
    draws = {c.draw for c in plan.cells}
    for cell in plan.cells:
        trained = plan.units[plan.units[cell.unit].arguments["run"]]
        unit = trained.arguments["synthetic"]
        if unit is None or unit not in done:
            continue
        if found[cell.arm].setdefault(cell.draw, unit) != unit:
            raise SystemExit("each draw needs one generator: set generator_seeds to draw")
    whole = {arm: by for arm, by in found.items() if set(by) == draws}
    return {arm: whole[arm] for arm in spec.arms if arm in whole}


def common_grid(folders: Sequence[Path]) -> WorkingGrid:
    """The generators' working grid with the window that all of them paint."""
    grids = [
        WorkingGrid.from_json(yaml.safe_load((f / "run/config.yaml").read_text())["facts"]["grid"])
        for f in folders
    ]
    window = tuple(int(n) for n in np.min([g.window for g in grids], 0))
    if len({(g.dims, g.canvas, g.longest, g.spacing_mm) for g in grids}) > 1 or len(window) != 2:
        raise SystemExit(
            "the generators' working grids differ in more than their window, or are 3-D"
        )
    return replace(grids[0], window=window)


def list_of(dataset: Dataset, patients: Sequence[str]) -> list[tuple[Dataset, str]]:
    """(dataset, case) of real cases."""
    part = dataset.select(patients=list(patients))
    return [(part, i.case_id) for i in part.items if i.masks and not i.synthetic]


def synthetic_of(folder: Path) -> list[tuple[Dataset, str]]:
    """(dataset, case) of a generation's pairs, rejected ones among them."""
    found = []
    for place in (folder, folder / "rejected"):
        if (place / "dataset.json").exists():
            part = open_dataset(place)
            found += [(part, i.case_id) for i in part.items if i.synthetic]
    return found


# Measuring images


@dataclass(frozen=True)
class Measured:
    """A set of images.

    Attributes:
        features: (N, D) of its slices that show a label.
        images: (N, H, W) the same slices.
        patients: Of each slice; of synthetic ones, their sources'.
        dice: Patient -> mean Dice of the labels of each of its cases.
    """

    features: Tensor
    images: Tensor
    patients: list[str]
    dice: dict[str, list[float]]


def fit_judge(
    work: Path, data: Dataset, grid: WorkingGrid, steps: int, device: torch.device, talk: Talk
):
    """Another architecture, fitted on patients that no generator saw."""
    folder = work / "judge"
    if not folder.exists():
        config = SegmenterConfig(network="attention_unet", width=16, steps=steps, lr=1e-3, seed=100)
        with talk.bar("judge", steps) as update:
            network = fit_segmenter(
                config, build_pool(data, grid).crop(grid.window),
                num_classes=max(data.labels.values()) + 1, folder=work / "judge_fit",
                device=device, resume=True, progress=lambda done: update(done, ""),
            )  # fmt: skip
        save_segmenter(folder, network)
    return load_segmenter(folder, device)[0]


def measure(
    kept: Path,
    cases: Sequence[tuple[Dataset, str]],
    grid: WorkingGrid,
    labels: Mapping[str, int],
    judge,
    device: torch.device,
) -> Measured:
    """Features, and what the judge finds; done once and kept in a file."""
    if not kept.exists():
        if not cases:
            raise SystemExit(f"{kept.stem} has no cases to measure")
        images, patients, dices = [], [], defaultdict(list)
        for part, name in cases:
            case = part.load(next(i for i in part.items if i.case_id == name))
            planes, masks = slices_of(case, grid)
            shown = (masks > 0).flatten(1).any(1)
            images.append(planes[shown])
            patients += [case.patient_id] * int(shown.sum())
            found = predict_mask(judge, planes, device=device)
            values = [
                dice((masks == k).numpy(), (found == k).numpy())
                for k in labels.values() if k and bool((masks == k).any())
            ]  # fmt: skip
            if values:
                dices[case.patient_id].append(float(np.mean(values)))
        stack = torch.cat(images)
        kept.parent.mkdir(parents=True, exist_ok=True)
        content = {
            "features": texture_features(stack), "images": stack[:, 0].half(),
            "patients": patients, "dice": dict(dices),
        }  # fmt: skip
        torch.save(content, kept.with_suffix(".writing"))
        kept.with_suffix(".writing").replace(kept)
    return Measured(**torch.load(kept, weights_only=True))


def slices_of(case: Case, grid: WorkingGrid) -> tuple[Tensor, Tensor]:
    """(N, 1, H, W) images and (N, H, W) masks on the window; the first channel alone."""
    working = grid.to_working(case, shape=grid.window)
    if working.dims == 2:
        return working.image[None, :1], working.mask[None]
    return working.image[:1].movedim(-1, 0), working.mask.movedim(-1, 0)


def kernel(a: Tensor, b: Tensor) -> Tensor:
    """That of `squared_mmd`."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def blocks(values: Tensor, rows: Sequence[str], columns: Sequence[str]) -> np.ndarray:
    """Sums over the patients of rows and columns, patients in alphabetical order."""

    def sides(patients: Sequence[str]) -> Tensor:
        names, of = np.unique(patients, return_inverse=True)
        return torch.nn.functional.one_hot(torch.from_numpy(of), len(names)).double()

    return (sides(rows).T @ values.double() @ sides(columns)).numpy()


@dataclass(frozen=True)
class Side:
    """Kernel sums of one set of images over pairs of its patients.

    Attributes:
        within: (P, P) sums of the kernel.
        own: (P) sums of each image with itself.
        counts: (P) images of each patient.
    """

    within: np.ndarray
    own: np.ndarray
    counts: np.ndarray

    @staticmethod
    def of(features: Tensor, patients: Sequence[str]) -> "Side":
        k = kernel(features, features)
        own = blocks(k.diagonal()[:, None], patients, ["all"])[:, 0]
        return Side(blocks(k, patients, patients), own, np.unique(patients, return_counts=True)[1])

    def mean(self, times: np.ndarray) -> float:
        """Mean kernel of pairs of two images, patients taken so many times.

        A patient taken twice brings no pair of an image with itself, else resampled distances
        would all be too large.
        """
        total = times @ self.within @ times - times**2 @ self.own
        return total / ((times @ self.counts) ** 2 - times**2 @ self.counts)


@dataclass(frozen=True)
class Quality:
    """What of a generation is measured, ready to be resampled by patient.

    Attributes:
        real: Of the real images.
        made: Of its images.
        across: (real patients, sources) sums of the kernel.
        dice: (sources) mean Dice.
        likeness: Pairs of sources and the MS-SSIM of a pair of their images; None without it.
    """

    real: Side
    made: Side
    across: np.ndarray
    dice: np.ndarray
    likeness: tuple[np.ndarray, np.ndarray] | None

    @staticmethod
    def of(real: Measured, made: Measured) -> "Quality":
        one, two = standardise(real.features, made.features)
        found = Quality(
            Side.of(one, real.patients), Side.of(two, made.patients),
            blocks(kernel(one, two), real.patients, made.patients),
            np.array([np.mean(made.dice[p]) for p in sorted(set(made.patients))]), likeness(made),
        )  # fmt: skip
        assert np.isclose(found.distance(*found.plain()), squared_mmd(one, two), rtol=1e-6)
        return found

    @property
    def names(self) -> list[str]:
        return [m for m in MEASURES if m != "ms_ssim" or self.likeness is not None]

    def plain(self) -> tuple[np.ndarray, np.ndarray]:
        """Every patient once."""
        return np.ones(len(self.real.counts)), np.ones(len(self.made.counts))

    def distance(self, real: np.ndarray, made: np.ndarray) -> float:
        """Squared MMD, patients taken so many times."""
        across = real @ self.across @ made / ((real @ self.real.counts) * (made @ self.made.counts))
        return float(self.real.mean(real) + self.made.mean(made) - 2 * across)

    def figures(self, times: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
        real, made = times
        found = {
            "kernel distance": self.distance(real, made),
            "adherence": float(made @ self.dice / made.sum()),
        }
        if self.likeness is not None:
            pairs, values = self.likeness
            weight = made[pairs[:, 0]] * made[pairs[:, 1]]
            found["ms_ssim"] = float(weight @ values / weight.sum()) if weight.any() else np.nan
        return found


def likeness(made: Measured) -> tuple[np.ndarray, np.ndarray] | None:
    """MS-SSIM of random pairs of images of different patients; None where it is not offered."""
    try:
        from augmint.quality.diversity import ms_ssim
    except ImportError:
        return None
    of = np.unique(made.patients, return_inverse=True)[1]
    if of.max() == 0:
        return None
    drawn = np.random.default_rng(SEED).integers(len(of), size=(16 * PAIRS, 2))
    drawn = drawn[of[drawn[:, 0]] != of[drawn[:, 1]]][:PAIRS]
    images = made.images[:, None].float()
    values = [
        ms_ssim(images[p[:, 0]], images[p[:, 1]]) for p in np.array_split(drawn, 16) if len(p)
    ]
    return of[drawn], torch.cat(values).double().numpy()


# Quality against gain


def correlate(
    table: Table,
    spec: Study,
    quality: Mapping[str, Sequence[Quality]],
    draws: Sequence[int],
    measures: Sequence[str],
    resamples: int,
) -> dict:
    """Each measure against the gain on one test, with bootstrap intervals."""
    arms, figures = list(quality), table.figures["dice", MEAN]
    nulls = [n for n in spec.arms if spec.arm(n).null and n in figures]
    kept = table.kept(spec.baseline, *arms)
    if not kept.draws:
        raise SystemExit(f"{table.place.test}: the arms have no draw and seed in common")
    base = kept.of(figures[spec.baseline])
    gains = np.stack([kept.of(figures[n]) - base for n in arms])
    gains = gains[..., np.isfinite(gains).all((0, 1, 2))]
    chosen = [draws.index(d) for d in kept.draws]
    by_arm = [[quality[n][d] for d in chosen] for n in arms]
    plain = summary(gains, by_arm, measures, None)
    rng = np.random.default_rng(SEED)
    drawn = [summary(gains, by_arm, measures, rng) for _ in range(resamples)]
    found = {
        "patients": gains.shape[-1], "draws": len(kept.draws), "seeds": len(kept.seeds),
        "left_out": kept.in_words("this comparison", folds=bool(spec.folds)),
        "null_gain": {n: gain_of(table, n, spec.baseline) for n in nulls},
        "arms": {}, "spearman": {},
    }  # fmt: skip
    for k, arm in enumerate(arms):
        made = spec.arm(arm).synthetic
        found["arms"][arm] = {"steps": made.steps, "settings": made.settings} | {
            what: {"value": plain[what][k], "interval": limits([d[what][k] for d in drawn])}
            for what in plain
        }
    for measure_ in measures:
        rho = spearmanr(plain[measure_], plain["gain"])
        fixed = [spearman(d[measure_], d["gain"]) for d in drawn]
        some = [rng.integers(len(arms), size=len(arms)) for _ in drawn]
        other = [spearman(d[measure_][i], d["gain"][i]) for d, i in zip(drawn, some)]
        found["spearman"][measure_] = {
            "rho": float(rho.statistic), "p": float(rho.pvalue), "arms": len(arms),
            "interval": limits(fixed), "interval, arms resampled": limits(other),
        }  # fmt: skip
    return found


def gain_of(table: Table, arm: str, baseline: str) -> float:
    """Mean over the fits that both have."""
    kept, figures = table.kept(arm, baseline), table.figures["dice", MEAN]
    return float(np.nanmean(kept.of(figures[arm]) - kept.of(figures[baseline])))


def summary(
    gains: np.ndarray,
    quality: Sequence[Sequence[Quality]],
    measures: Sequence[str],
    rng: np.random.Generator | None,
) -> dict[str, np.ndarray]:
    """Gain and quality of each arm, (arms); resampled where a source of randomness is given.

    All arms share one resample: they were tested on the same patients and drawn from the same.
    """
    _, draws, seeds, patients = gains.shape

    def times(n: int) -> np.ndarray:
        if rng is None:
            return np.ones(n)
        return rng.multinomial(n, np.full(n, 1 / n)).astype(float)

    of_draws, of_patients = times(draws), times(patients)
    weight = of_draws[:, None] * np.stack([times(seeds) for _ in range(draws)])
    found = {"gain": np.einsum("adsp,ds,p->a", gains, weight, of_patients) / gains[0].size}
    real = times(len(quality[0][0].real.counts))
    made = [times(len(q.made.counts)) for q in quality[0]]
    every = [[q.figures((real, m)) for q, m in zip(arm, made)] for arm in quality]
    for name in measures:
        values = np.array([[one[name] for one in arm] for arm in every])
        known = np.isfinite(values) * of_draws
        total = known.sum(1)
        mean = (np.nan_to_num(values) * known).sum(1) / np.where(total > 0, total, 1)
        found[name] = np.where(total > 0, mean, np.nan)
    return found


def spearman(one: np.ndarray, two: np.ndarray) -> float:
    """NaN where too few arms remain, or where all are alike."""
    known = np.isfinite(one) & np.isfinite(two)
    if min(len(np.unique(one[known])), len(np.unique(two[known]))) < FEWEST_ARMS:
        return float("nan")
    return float(spearmanr(one[known], two[known]).statistic)


def limits(values: Sequence[float]) -> list[float] | None:
    known = np.asarray(values)[np.isfinite(values)]
    return [round(float(q), 5) for q in np.quantile(known, (0.025, 0.975))] if len(known) else None


def draw_scatter(path: Path, result: Mapping) -> None:
    """A row for each test, a column for each measure."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tests, measures = result["tests"], result["measured"]
    size = (4.6 * len(measures), 4 * len(tests))
    figure, axes = plt.subplots(len(tests), len(measures), figsize=size, squeeze=False)
    for row, (test, found) in zip(axes, tests.items()):
        for plot, name in zip(row, measures):
            for arm, one in found["arms"].items():
                x, y = one[name], one["gain"]
                plot.plot(x["interval"], [y["value"]] * 2, color="#bbbbbb", lw=1)
                plot.plot([x["value"]] * 2, y["interval"], color="#bbbbbb", lw=1)
                plot.plot(x["value"], y["value"], "o", color="#0072b2", ms=5)
                plot.annotate(
                    arm.replace("_", " "), (x["value"], y["value"]), fontsize=6,
                    xytext=(3, 3), textcoords="offset points",
                )  # fmt: skip
            if name == "kernel distance":
                # From near 0, where it may be negative, to thousands for noise.
                plot.set_xscale("symlog", linthresh=1)
            plot.axhline(0, color="black", lw=0.6)
            rho = found["spearman"][name]
            span = rho["interval, arms resampled"] or [float("nan")] * 2
            plot.set_title(f"Spearman {rho['rho']:.2f} [{span[0]:.2f}, {span[1]:.2f}]", fontsize=9)
            plot.set_xlabel(MEASURES[name], fontsize=8)
            plot.set_ylabel(f"gain in Dice, {test}", fontsize=8)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
