"""How masks are given to the image network: concatenation, SPADE, and MONAI's SPADE as shipped.

    python benchmarks/conditioning.py DATA [--work scratch/conditioning] [--only cost adherence ...]

DATA holds Dataset027_ACDC and splits.json. Networks of one size are fitted on 40 train patients
with the same batches, noise, levels and steps: `concat`; `spade`, which is MONAI's network without
the norm behind gamma and beta and with both starting at zero; and `monai_spade`, the same network
as MONAI ships it. `--variants` takes `spade_unzeroed` as well: that norm removed and nothing else.
Where a step of `spade` costs more than one of `concat` it is fitted once more with so many fewer
steps, as `spade_same_time`.

The judge is another architecture, fitted on train patients that no network saw; masks are those of
validation patients, warped as `generate` warps them; all pairs are judged on the native grid, none
is filtered. The better of `concat` and `spade` is then sampled with other guidance, evaluations and
shared noise. It was chosen on the same masks, so its own figures are a little kind.

Every fit, and every set of images, is done once, kept in --work and found again; a killed fit goes
on where it was saved. Writes benchmarks/results/conditioning.json after each part and, in
--work/sheets, what there is to look at.
"""

import argparse
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import augmint.diffusion.networks as networks
from augmint.case import Case
from augmint.data.dataset import Dataset, open_dataset
from augmint.data.splits import draw_patients
from augmint.diffusion.checkpoint import save_network
from augmint.diffusion.networks import Denoiser, count_parameters
from augmint.diffusion.path import add_noise, velocity
from augmint.diffusion.sampling import descend, sample
from augmint.diffusion.training import fit_network
from augmint.fit import describe_device, drawer, resolve_device, training_config, versions
from augmint.methods import build_method
from augmint.precision import autocast
from augmint.prepare import Prepared, prepare
from augmint.presets import preset_named
from augmint.progress import Talk
from augmint.quality.agreement import agreement_of
from augmint.report import sheet, tile
from augmint.segmentation.cases import predict_case
from augmint.segmentation.checkpoint import load_segmenter, save_segmenter
from augmint.segmentation.training import SegmenterConfig, fit_segmenter
from augmint.staging import write_text
from augmint.weights import read_folder
from results import commit, commits, save

PARTS = ("cost", "adherence", "guidance", "evaluations", "shared_noise", "sheets")
parser = argparse.ArgumentParser()
parser.add_argument("data", type=Path)
parser.add_argument("--work", type=Path, default=Path("scratch/conditioning"))
parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
parser.add_argument(
    "--variants", nargs="+", default=["concat", "spade", "monai_spade"],
    choices=("concat", "spade", "monai_spade", "spade_unzeroed"),
)  # fmt: skip
parser.add_argument("--best", help="the variant to sweep; the better of concat and spade")
parser.add_argument("--steps", type=int, default=1500)
parser.add_argument("--judge-steps", type=int, default=1200)
parser.add_argument("--patients", type=int, default=40, help="of the networks' fits")
parser.add_argument("--judge-patients", type=int, default=16)
parser.add_argument("--mask-patients", type=int, default=8, help="validation patients")
parser.add_argument("--copies", type=int, default=2, help="images for each validation case")
parser.add_argument("--preset", default="quick")
parser.add_argument("--device", default="auto")
parser.add_argument("--result", default="conditioning", help="name of the result file")
FIXED = (
    "steps", "judge_steps", "patients", "judge_patients", "mask_patients", "copies", "preset",
)  # fmt: skip
SEED = 0
GUIDANCE = (1.0, 1.25, 1.5, 2.0, 3.0)
EVALUATIONS = (2, 3, 4, 6, 10)
SHARED = (0.0, 0.5, 0.9, 1.0)
TARGETS = {"LV": 0.90, "MYO": 0.80, "RV": 0.80}
BELOW_REAL = 0.03
# A slower step than this is much slower.
MUCH = 1.1
# A class says nothing of a slice that shows fewer pixels of it.
ENOUGH_PX = 20
TEXTURE_SIGMA_PX = 2.0


@dataclass(frozen=True)
class Bench:
    """What all parts work with.

    Attributes:
        prepared: The networks' pool and facts.
        natives: Validation cases as stored.
        workings: The same on the canvas.
        fixed: What shapes every figure.
    """

    work: Path
    prepared: Prepared
    natives: Sequence[Case]
    workings: Sequence[Case]
    judge_data: Dataset
    variants: Sequence[str]
    preset: str
    steps: int
    judge_steps: int
    copies: int
    device: torch.device
    talk: Talk

    @property
    def labels(self) -> dict[str, int]:
        return {n: i for n, i in self.prepared.facts.labels.items() if i}


def main() -> None:
    a = parser.parse_args()
    started = commits(a.work, commit())
    fixed = {name: getattr(a, name) for name in FIXED}
    note = a.work / "settings.json"
    if note.exists() and json.loads(note.read_text()) != fixed:
        raise SystemExit(f"{a.work} was begun with {note.read_text()}; name another --work")
    write_text(note, json.dumps(fixed))
    split = json.loads((a.data / "splits.json").read_text())["Dataset027_ACDC"]
    whole = open_dataset(a.data / "Dataset027_ACDC")
    train = draw_patients(split["train"], a.patients, SEED)
    rest = [p for p in split["train"] if p not in train]
    judges = draw_patients(rest, min(len(rest), a.judge_patients), SEED)
    prepared = prepare(whole.select(patients=train), preset_named(a.preset), talk=Talk())
    natives = list(whole.select(patients=split["validation"][: a.mask_patients]))
    bench = Bench(
        a.work, prepared, natives, [prepared.facts.grid.to_working(c) for c in natives],
        whole.select(patients=judges), a.variants, a.preset, a.steps, a.judge_steps, a.copies,
        resolve_device(a.device), Talk(),
    )  # fmt: skip
    facts = {
        "what": "adherence by an independent judge, all pairs before gating; Dice per whole case "
        "on the native grid; intervals resample the patients of the masks",
        "grid": asdict(prepared.facts.grid), "settings": fixed, "seed": SEED,
        "generator_patients": list(train), "judge_patients": list(judges),
        "mask_patients": sorted({c.patient_id for c in natives}),
        "device": describe_device(bench.device), "threads": torch.get_num_threads(),
        "versions": versions(), "commit": started,
    }  # fmt: skip
    for part in PARTS:
        if part not in a.only:
            continue
        if part == "sheets":
            draw_sheets(bench, a.best or best(bench))
            continue
        found = (
            PART[part](bench) if part in ("cost", "adherence")
            else PART[part](bench, a.best or best(bench))
        )  # fmt: skip
        write_text(part_file(a.work, part), json.dumps(found))
        print(part, json.dumps(found, indent=1), flush=True)
        save(a.result, facts | parts_so_far(a.work))


def part_file(work: Path, part: str) -> Path:
    return work / "parts" / f"{part}.json"


def parts_so_far(work: Path) -> dict:
    files = {p: part_file(work, p) for p in PARTS}
    return {p: json.loads(f.read_text()) for p, f in files.items() if f.exists()}


# Networks


def remove_norm(module: nn.Module) -> None:
    """One half of `mend_spade`: gamma and beta stay as they were initialised."""
    from monai.networks.blocks.spade_norm import SPADE

    for block in module.modules():
        if isinstance(block, SPADE):
            del block.mlp_gamma.adn, block.mlp_beta.adn


MENDS = {"monai_spade": lambda module: None, "spade_unzeroed": remove_norm}


def conditioning_of(name: str) -> str:
    return "concat" if name.startswith("concat") else "spade"


def method_of(name: str, bench: Bench, **settings):
    size = preset_named(bench.preset).network
    asked = {"conditioning": conditioning_of(name), "network": size, **settings}
    return build_method("mask_to_image", asked)


def build(name: str, bench: Bench) -> Denoiser:
    """An unfitted network; all of one kind start from the same weights."""
    config = method_of(name, bench).networks(bench.prepared.facts)["image"].config
    kept = networks.mend_spade
    networks.mend_spade = MENDS.get(name, kept)
    try:
        torch.manual_seed(SEED)
        return networks.build_network(config)
    finally:
        networks.mend_spade = kept


def fitted(name: str, bench: Bench) -> Denoiser:
    """A network, fitted once and found again. `_same_time` means fewer steps."""
    variant = name.removesuffix("_same_time")
    network, folder = build(variant, bench), bench.work / "fits" / name
    if not folder.exists():
        spec = method_of(variant, bench).networks(bench.prepared.facts)["image"]
        training = training_config(
            preset_named(bench.preset), bench.prepared.facts, steps_of(name, bench), SEED
        )
        with bench.talk.bar(f"fit {name}", training.steps) as update:
            fit_network(
                network, drawer(spec, bench.prepared.pool), training, device=bench.device,
                state=bench.work / "last" / name, metrics=bench.work / f"{name}.jsonl", name=name,
                progress=lambda done, total, loss: update(done, f"loss {loss:.3f}"),
                log=bench.talk.say,
            )  # fmt: skip
        save_network(folder, network)
        shutil.rmtree(bench.work / "last" / name, ignore_errors=True)
    tensors, _ = read_folder(folder, "network")
    network.load_state_dict(tensors["network"])
    return network.to(bench.device).eval()


def cost_of(bench: Bench) -> dict:
    """The first measurement stays: the steps of a fit depend on it."""
    kept = part_file(bench.work, "cost")
    if not kept.exists():
        write_text(kept, json.dumps(cost(bench)))
    return json.loads(kept.read_text())


def steps_of(name: str, bench: Bench) -> int:
    if not name.endswith("_same_time"):
        return bench.steps
    seconds = {n: one["seconds_per_step"] for n, one in cost_of(bench).items()}
    return max(1, round(bench.steps * seconds["concat"] / seconds["spade"]))


def cost(bench: Bench) -> dict:
    """Parameters, and the best of six rounds in turn: a noisy moment strikes all alike."""
    kept = part_file(bench.work, "cost")
    if kept.exists():
        return json.loads(kept.read_text())
    rounds, count = 6, 16
    built = {name: build(name, bench).to(bench.device) for name in bench.variants}
    optimizers = {n: torch.optim.AdamW(net.parameters(), 1e-4) for n, net in built.items()}
    seconds = {n: ([], []) for n in built}
    spec = method_of("concat", bench).networks(bench.prepared.facts)["image"]
    draw = drawer(spec, bench.prepared.pool)
    for number in range(rounds):
        generator = torch.Generator().manual_seed(number)
        x_0, given = (x.to(bench.device) for x in draw(generator, count))
        eps, t = torch.randn_like(x_0), torch.rand(count, device=bench.device)
        for name, network in built.items():
            begin = now(bench)
            with autocast(bench.device, "auto"):
                v = network.train()(add_noise(x_0, eps, t), t, given)
            (v.float() - velocity(x_0, eps)).square().mean().backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            seconds[name][0].append(now(bench) - begin)
            begin, walk = now(bench), descend(6, solver="multistep")
            with torch.no_grad(), autocast(bench.device, "auto"):
                sample(lambda x, t: network(x, t, given).float(), eps, walk)  # noqa: B023
            seconds[name][1].append((now(bench) - begin) / count)
    return {
        n: {
            "parameters": count_parameters(built[n]), "seconds_per_step": round(min(step), 4),
            "seconds_per_image": round(min(image), 4), "images_in_a_batch": count,
            "evaluations": 6,
        } for n, (step, image) in seconds.items()
    }  # fmt: skip


def now(bench: Bench) -> float:
    if bench.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


# Images and the judge


def name_of(variant: str, settings: dict) -> str:
    return "_".join([variant, *(f"{k}_{v:g}" for k, v in sorted(settings.items()))])


def made(bench: Bench, variant: str, **settings) -> tuple[list[Case], dict]:
    """New cases on the window, and what they cost; made once and found again."""
    method = method_of(variant, bench, **settings)
    kept = bench.work / "made" / f"{name_of(variant, settings)}.pt"
    orders = [(c, k) for c in bench.workings for k in range(bench.copies)]
    if not kept.exists():
        network = fitted(variant, bench)
        begin = now(bench)
        cases = list(method.generate({"image": network}, orders, bench.prepared.facts, seed=SEED))
        seconds = (now(bench) - begin) / sum(c.image.shape[-1] for c in cases)
        kept.parent.mkdir(parents=True, exist_ok=True)
        pairs = [(c.image.half(), c.mask.byte()) for c in cases]
        torch.save({"pairs": pairs, "seconds": seconds}, kept.with_suffix(".writing"))
        kept.with_suffix(".writing").replace(kept)
    found = torch.load(kept, weights_only=True)
    cases = [
        replace(
            source, image=image.float(), mask=mask.long(), case_id=f"{source.case_id}__c{copy}",
            grid=replace(source.grid, shape=tuple(mask.shape)),
        )
        for (source, copy), (image, mask) in zip(orders, found["pairs"], strict=True)
    ]  # fmt: skip
    return cases, {"evaluations": method.evaluations, "seconds_per_image": found["seconds"]}


def judge_of(bench: Bench):
    folder = bench.work / "judge"
    if not folder.exists():
        grid, sizes = bench.prepared.facts.grid, preset_named(bench.preset)
        pool = prepare(bench.judge_data, sizes, talk=bench.talk).pool
        config = SegmenterConfig(
            network="attention_unet", width=16, steps=bench.judge_steps, lr=1e-3, seed=100
        )
        with bench.talk.bar("judge", config.steps) as update:
            network = fit_segmenter(
                config, pool.crop(grid.window), num_classes=bench.prepared.facts.num_classes,
                folder=bench.work / "judge_fit", device=bench.device, resume=True,
                progress=lambda done: update(done, ""),
            )  # fmt: skip
        save_segmenter(folder, network)
    return load_segmenter(folder, bench.device)[0]


def judged(bench: Bench, name: str, cases: Sequence[Case] | None = None) -> list[dict]:
    """For each case its patient and the Dice of each label that its mask holds; kept in a file."""
    kept = bench.work / "judged" / f"{name}.json"
    if not kept.exists():
        judge, grid, rows = judge_of(bench), bench.prepared.facts.grid, []
        native_grids = {c.case_id: c.grid for c in bench.natives}
        for case in cases or bench.natives:
            stored = case
            if case.case_id not in native_grids:
                source = case.case_id.rpartition("__c")[0]
                stored = grid.to_native(case, native_grids[source])
            found = predict_case([judge], stored, grid, device=bench.device).numpy()
            dices = agreement_of(stored, found, bench.labels)
            held = {n: v for n, v in dices.items() if bool((stored.mask == bench.labels[n]).any())}
            rows.append({"case": case.case_id, "patient": case.patient_id, "dice": held})
        write_text(kept, json.dumps(rows))
    return json.loads(kept.read_text())


def by_patient(rows: Sequence[dict], label: str) -> dict[str, float]:
    """Mean Dice of each patient's cases; of all labels where `label` is mean."""
    found = defaultdict(list)
    for row in rows:
        values = list(row["dice"].values()) if label == "mean" else [row["dice"].get(label)]
        found[row["patient"]] += [v for v in values if v is not None]
    return {p: float(np.mean(v)) for p, v in found.items() if v}


def interval(values: Sequence[float]) -> list[float]:
    """95 % bootstrap interval of a mean over patients."""
    rng, array = np.random.default_rng(SEED), np.asarray(values)
    means = array[rng.integers(len(array), size=(10_000, len(array)))].mean(1)
    return [round(float(q), 4) for q in np.quantile(means, (0.025, 0.975))]


def difference(rows: Sequence[dict], others: Sequence[dict], label: str) -> dict:
    """Paired by patient."""
    one, two = by_patient(rows, label), by_patient(others, label)
    values = [one[p] - two[p] for p in sorted(set(one) & set(two))]
    if not values:
        return {"difference": None, "interval": None, "patients": 0}
    return {
        "difference": round(float(np.mean(values)), 4), "interval": interval(values),
        "patients": len(values),
    }  # fmt: skip


def adherence_of(bench: Bench, variant: str, **settings) -> dict:
    """Each label's Dice, beside the same judge on the real images of the same patients."""
    name = name_of(variant, settings)
    cases, spent = made(bench, variant, **settings)
    rows, real = judged(bench, name, cases), judged(bench, "real")
    return spent | {"dice": dice_table(rows, bench), "less_real": {
        label: difference(rows, real, label) for label in (*bench.labels, "mean")
    }}  # fmt: skip


def dice_table(rows: Sequence[dict], bench: Bench) -> dict:
    found = {n: [r["dice"][n] for r in rows if n in r["dice"]] for n in bench.labels}
    return {
        n: {"mean": float(np.mean(v)), "std": float(np.std(v)), "cases": len(v)}
        for n, v in found.items() if v
    }  # fmt: skip


# Parts


def adherence(bench: Bench) -> dict:
    """All variants at six evaluations, and each against the others."""
    names = list(bench.variants)
    seconds = {n: one["seconds_per_step"] for n, one in cost_of(bench).items()}
    if {"concat", "spade"} <= set(names) and seconds["spade"] > MUCH * seconds["concat"]:
        names.append("spade_same_time")
    found = {name: {"steps": steps_of(name, bench), **adherence_of(bench, name)} for name in names}
    for one in found.values():
        one["targets_met"] = {
            n: one["dice"][n]["mean"] >= least and
            one["less_real"][n]["difference"] >= -BELOW_REAL
            for n, least in TARGETS.items() if n in one["dice"]
        }  # fmt: skip
    pairs = [(b, a) for k, a in enumerate(names) for b in names[k + 1 :]]
    return {
        "real": dice_table(judged(bench, "real"), bench), "variants": found,
        "paired": {
            f"{b} less {a}": {
                label: difference(judged(bench, b), judged(bench, a), label)
                for label in (*bench.labels, "mean")
            } for b, a in pairs
        },
    }  # fmt: skip


def best(bench: Bench) -> str:
    """The better of the two that the method offers."""
    offered = [v for v in ("concat", "spade") if v in bench.variants] or list(bench.variants)
    for name in offered:
        adherence_of(bench, name)
    return max(offered, key=lambda n: np.mean([*by_patient(judged(bench, n), "mean").values()]))


def guidance(bench: Bench, variant: str) -> dict:
    """At six steps, where guidance doubles the passes, and at as many passes as without it."""
    found = {
        f"guidance {g:g}, 6 steps": adherence_of(bench, variant, **({} if g == 1 else
                                                                   {"guidance": g}))
        for g in GUIDANCE
    }  # fmt: skip
    found["guidance 1, 12 steps"] = adherence_of(bench, variant, num_steps=12)
    for g in GUIDANCE[1:]:
        found[f"guidance {g:g}, 3 steps"] = adherence_of(bench, variant, guidance=g, num_steps=3)
    return {"variant": variant, "settings": found}


def evaluations(bench: Bench, variant: str) -> dict:
    found = {
        str(n): adherence_of(bench, variant, **({} if n == 6 else {"num_steps": n}))
        for n in EVALUATIONS
    }
    return {"variant": variant, "settings": found}


def shared_settings(share: float) -> dict:
    return {} if share == 0 else {"shared_noise": share}


def shared_noise(bench: Bench, variant: str) -> dict:
    """Adherence, and how neighbouring slices go together, beside real volumes."""
    facts, found = bench.prepared.facts, {}
    window = [facts.grid.to_working(c, shape=facts.grid.window) for c in bench.natives]
    for share in SHARED:
        cases, _ = made(bench, variant, **shared_settings(share))
        found[f"{share:g}"] = {
            "adherence": adherence_of(bench, variant, **shared_settings(share)),
            "neighbours": neighbours_of(cases, facts.labels),
        }
    return {
        "what": "step: mean absolute difference between adjacent slices of a class's mean "
        "intensity, which runs from -1 to 1; texture: correlation, over the pixels that are of "
        "one class in both slices, of what a Gaussian of 2 pixels within the class leaves",
        "variant": variant, "real": {"neighbours": neighbours_of(window, facts.labels)},
        "settings": found,
    }  # fmt: skip


PART = {
    "cost": cost, "adherence": adherence, "guidance": guidance, "evaluations": evaluations,
    "shared_noise": shared_noise,
}  # fmt: skip


def neighbours_of(cases: Sequence[Case], labels: dict[str, int]) -> dict:
    """For each class the step and the texture's correlation, means over patients."""
    found = {n: {"step": defaultdict(list), "texture": defaultdict(list)} for n in labels}
    for case in cases:
        for name, index in labels.items():
            for what, values in neighbours(case.image[0], case.mask == index).items():
                found[name][what][case.patient_id] += values
    table = {}
    for name, measures in found.items():
        table[name] = {}
        for what, by in measures.items():
            means = [float(np.mean(v)) for v in by.values() if v]
            if means:
                table[name][what] = {
                    "mean": round(float(np.mean(means)), 4), "interval": interval(means),
                    "pairs": sum(map(len, by.values())),
                }  # fmt: skip
    return table


def neighbours(image: Tensor, inside: Tensor) -> dict[str, list[float]]:
    """Step and texture's correlation of each pair of adjacent slices of a class.

    Args:
        image: (H, W, Z).
        inside: (H, W, Z) bool.
    """
    steps, textures = [], []
    rest = residual(image, inside)
    for z in range(image.shape[-1] - 1):
        one, two = inside[..., z], inside[..., z + 1]
        if min(int(one.sum()), int(two.sum())) < ENOUGH_PX:
            continue
        steps.append(float((image[..., z][one].mean() - image[..., z + 1][two].mean()).abs()))
        both = one & two
        pair = torch.stack([rest[..., z][both], rest[..., z + 1][both]])
        if int(both.sum()) >= ENOUGH_PX and float(pair.std(1).min()) > 0:
            textures.append(float(torch.corrcoef(pair)[0, 1]))
    return {"step": steps, "texture": textures}


def residual(image: Tensor, inside: Tensor) -> Tensor:
    """What a Gaussian within the class leaves; edges of the class are no texture."""
    from scipy.ndimage import gaussian_filter

    weight = inside.numpy().astype(np.float64)
    blur = (TEXTURE_SIGMA_PX, TEXTURE_SIGMA_PX, 0)
    smooth = gaussian_filter(image.numpy() * weight, blur)
    share = gaussian_filter(weight, blur)
    return torch.from_numpy((image.numpy() - smooth / np.maximum(share, 1e-6)) * weight)


# Sheets


def draw_sheets(bench: Bench, variant: str) -> None:
    """Real and generated slices of each variant and setting, and whole volumes."""
    found = parts_so_far(bench.work).get("adherence", {"variants": dict.fromkeys(bench.variants)})
    columns = {name: made(bench, name)[0] for name in found["variants"]}
    look(bench, "variants", columns)
    swept = {f"{g:g}": {} if g == 1 else {"guidance": g} for g in GUIDANCE}
    look(bench, "guidance", {n: made(bench, variant, **s)[0] for n, s in swept.items()})
    counts = {str(n): {} if n == 6 else {"num_steps": n} for n in EVALUATIONS}
    look(bench, "evaluations", {n: made(bench, variant, **s)[0] for n, s in counts.items()})
    volumes(bench, variant)


def heights(mask: Tensor) -> dict[str, int]:
    """Basal, mid and apical slice of a mask (H, W, Z); the base has more of the labels."""
    areas = (mask > 0).flatten(0, 1).sum(0)
    held = torch.nonzero(areas).flatten()
    if not len(held):
        held = torch.arange(len(areas))
    if areas[held[: len(held) // 2]].sum() < areas[held[-(len(held) // 2) :]].sum():
        held = held.flip(0)
    at = {"basal": 0.12, "mid": 0.5, "apical": 0.88}
    return {name: int(held[round(share * (len(held) - 1))]) for name, share in at.items()}


def look(bench: Bench, name: str, columns: dict[str, list[Case]]) -> None:
    """Six patients at three heights: real, its mask, the warped mask, and what was made of it."""
    grid, rows, captions = bench.prepared.facts.grid, [], []
    patients = list(dict.fromkeys(c.patient_id for c in bench.natives))[:6]
    for patient in patients:
        k = next(i for i, c in enumerate(bench.natives) if c.patient_id == patient)
        real = grid.to_working(bench.natives[k], shape=grid.window)
        new = {n: cases[k * bench.copies] for n, cases in columns.items()}
        first = next(iter(new.values()))
        assert all(torch.equal(c.mask, first.mask) for c in new.values())
        for height, z in heights(real.mask).items():
            image, mask = real.image[0, ..., z].numpy(), real.mask[..., z].numpy()
            row = [tile(image, None), tile(image, mask)]
            row.append(tile(first.image[0, ..., z].numpy(), first.mask[..., z].numpy()))
            row += [tile(c.image[0, ..., z].numpy(), None) for c in new.values()]
            rows.append(row)
            captions.append(f"{real.case_id}\n{height}")
    titles = ["real", "its mask", f"{next(iter(new))}, warped mask", *columns]
    path = bench.work / "sheets" / f"{name}.png"
    sheet(path, rows, columns=titles, names=captions, labels=bench.prepared.facts.labels)
    print(f"wrote {path}")


def volumes(bench: Bench, variant: str, *, patients: int = 2) -> None:
    """Two patients' volumes slice by slice: real, then for each share of common noise."""
    grid, rows, captions = bench.prepared.facts.grid, [], []
    swept = {s: made(bench, variant, **shared_settings(s))[0] for s in SHARED}
    shown = list(dict.fromkeys(c.patient_id for c in bench.natives))[:patients]
    for patient in shown:
        k = next(i for i, c in enumerate(bench.natives) if c.patient_id == patient)
        real = grid.to_working(bench.natives[k], shape=grid.window)
        stacks = {"real": real}
        stacks |= {f"shared noise {s:g}": cases[k * bench.copies] for s, cases in swept.items()}
        for name, case in stacks.items():
            rows.append([tile(one.numpy(), None) for one in case.image[0].unbind(-1)])
            captions.append(f"{patient}\n{name}")
    most = max(map(len, rows))
    rows = [row + [None] * (most - len(row)) for row in rows]
    path = bench.work / "sheets" / "volumes.png"
    sheet(path, rows, columns=[str(z) for z in range(most)], names=captions)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
