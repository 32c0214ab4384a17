"""Masks drawn by the label network beside real ones: shapes, validity, copies, a blind sheet.

    python benchmarks/new_masks.py DATA [--work scratch/masks] [--coding one_hot signed_distance]

DATA holds Dataset027_ACDC and splits.json. Label networks are fitted on the train patients; all
figures compare with validation patients, whom they never saw. A fit is done once and found again.
Writes benchmarks/results/new_masks.json and, in --work, sheets of drawn and of real masks.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from scipy.stats import ks_2samp

from augmint.data.dataset import open_dataset
from augmint.diffusion.checkpoint import load_network, save_network
from augmint.diffusion.networks import build_network
from augmint.diffusion.training import fit_network
from augmint.fit import describe_device, drawer, resolve_device, training_config, versions
from augmint.methods import build_method
from augmint.methods.label_diffusion import draw_stacks, read_asks
from augmint.prepare import prepare
from augmint.presets import preset_named
from augmint.progress import Talk
from augmint.quality.validity import Limits, fit_limits, judge
from augmint.quality.validity_rules import rules_for
from augmint.report import sheet, tile
from results import commit, save

parser = argparse.ArgumentParser()
parser.add_argument("data", type=Path)
parser.add_argument("--work", type=Path, default=Path("scratch/masks"))
parser.add_argument("--coding", nargs="+", default=["one_hot", "analog_bits", "signed_distance"])
parser.add_argument("--preset", default="quick")
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--copies", type=int, default=2, help="stacks for each validation case")
parser.add_argument("--device", default="auto")
SEED = 0


def main() -> None:
    a = parser.parse_args()
    split = json.loads((a.data / "splits.json").read_text())["Dataset027_ACDC"]
    dataset = open_dataset(a.data / "Dataset027_ACDC")
    sizes = preset_named(a.preset)
    talk = Talk()
    prepared = prepare(dataset.select(patients=split["train"]), sizes, talk=talk)
    facts = prepared.facts
    held = dataset.select(patients=split["validation"])
    cases = [facts.grid.to_working(c, shape=facts.grid.window) for c in held]
    print(json.dumps({"window": facts.grid.window, "slices": len(prepared.pool)}))
    device = resolve_device(a.device)
    training = training_config(sizes, facts, a.steps, SEED)
    train = prepared.pool.crop(facts.grid.window).masks.long()
    real = torch.cat([c.mask.movedim(-1, 0) for c in cases]).long()
    result = {
        "patients": len(split["train"]), "held-out patients": len(split["validation"]),
        "window": list(facts.grid.window), "steps": a.steps, "seed": SEED,
        "device": describe_device(device), "versions": versions(), "commit": commit(),
        "real": {**shapes(real, train, facts.labels), "nearest real": nearest(real, train)},
        "drawn": {},
    }  # fmt: skip
    limits = fit_limits(stacks_of(prepared.pool, facts), facts.labels, rules_for(facts.labels))
    result["real"]["valid"] = valid([c.mask for c in cases], facts, limits)
    show(a.work, "real", [c.mask for c in cases][:8], facts)
    for coding in a.coding:
        method = build_method("mask_to_image", {"masks": "generated", "coding": coding})
        spec = method.networks(facts)["label"]
        folder = a.work / f"label_{coding}"
        if not folder.exists():
            torch.manual_seed(SEED)
            network = build_network(spec.config)
            with talk.bar(f"fit {coding}", training.steps) as update:
                fit_network(
                    network, drawer(spec, prepared.pool), training, device=device,
                    loss=spec.loss({}), state=a.work / f"last_{coding}", name=coding,
                    metrics=a.work / f"{coding}.jsonl", log=talk.say,
                    progress=lambda done, total, loss, tell=update: tell(done, f"loss {loss:.3f}"),
                )  # fmt: skip
            save_network(folder, network)
        network, _ = load_network(folder)
        network = network.to(device).eval()
        found = {}
        for text in ("", "LV area > p95", "RV area < p5"):
            stacks = draw_stacks(
                network, [(c, k) for c in cases for k in range(a.copies)], facts,
                method.label_walk, coding=coding, asks=read_asks(text, list(facts.labels)),
                batch_size=16, seed=SEED,
            )  # fmt: skip
            drawn = torch.cat([s.mask.movedim(-1, 0) for s in stacks])
            found[text or "nothing asked"] = {
                **shapes(drawn, real, facts.labels), "nearest real": nearest(drawn, train),
                "valid": valid([s.mask for s in stacks], facts, limits),
            }  # fmt: skip
            name = f"{coding} {text}".strip().replace(" ", "_").replace(">", "over")
            shown = [s.mask for s in stacks][: 8 * a.copies : a.copies]
            show(a.work, name.replace("<", "under"), shown, facts)
        result["drawn"][coding] = found
        print(coding, json.dumps(found, indent=1), flush=True)
    save("new_masks", result)


def stacks_of(pool, facts):
    """The training volumes' masks on the window, (H, W, Z) each."""
    masks = pool.crop(facts.grid.window).masks
    found = {}
    for mask, name in zip(masks, pool.case_ids):
        found.setdefault(name.rpartition("#")[0], []).append(mask)
    return [torch.stack(m, -1).numpy() for m in found.values()]


def valid(stacks, facts, limits: Limits):
    """Share of stacks without a broken rule, and how often each rule is broken."""
    rules = rules_for(facts.labels)
    judged = [judge(s.numpy(), facts.labels, rules, limits) for s in stacks]
    broken = Counter(q for v in judged for q in set(v.quantities))
    share = sum(v.ok for v in judged) / len(judged)
    return {"stacks": len(judged), "share": round(share, 3), "broken": dict(broken.most_common(8))}


def shapes(masks, others, labels):
    """Sizes of each class over slices, and how far from those of others."""
    found = {}
    for name, k in labels.items():
        if not k:
            continue
        mine, theirs = ((m == k).flatten(1).sum(1).numpy() for m in (masks, others))
        found[name] = {
            "slices with it": round(float((mine > 0).mean()), 3),
            "of others": round(float((theirs > 0).mean()), 3),
            "median px": float(np.median(mine[mine > 0])) if (mine > 0).any() else None,
            "median px of others": float(np.median(theirs[theirs > 0])),
            "ks": round(float(ks_2samp(mine, theirs).statistic), 3),
        }
    return found


def nearest(masks, train):
    """Quantiles of the Dice to the nearest training mask, over slices with something in them."""
    shown = masks[(masks > 0).flatten(1).any(1)]
    one = torch.nn.functional.one_hot(shown, 4)[..., 1:].flatten(1).float()
    two = torch.nn.functional.one_hot(train, 4)[..., 1:].flatten(1).float()
    dice = 2 * one @ two.T / (one.sum(1, keepdim=True) + two.sum(1)).clamp(min=1)
    best = dice.max(1).values
    return {f"p{q}": round(float(best.quantile(q / 100)), 3) for q in (5, 50, 95, 100)}


def show(work, name, stacks, facts):
    """A row for each stack."""
    most = max(s.shape[-1] for s in stacks)
    rows = []
    for stack in stacks:
        blank = np.zeros(facts.grid.window)
        row = [tile(blank, stack[..., z].numpy(), size=96) for z in range(stack.shape[-1])]
        rows.append(row + [tile(blank, None, size=96)] * (most - len(row)))
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{name}.png"
    sheet(
        path,
        rows,
        columns=[str(z) for z in range(most)],
        names=[str(k) for k in range(len(rows))],
        labels=facts.labels,
    )
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
