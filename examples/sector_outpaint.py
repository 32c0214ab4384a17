"""Other fields of view for ultrasound: drawn frames, new sectors, a segmenter with and without.

python examples/sector_outpaint.py FOLDER [PRESET]
"""

import sys
from pathlib import Path

import augmint

folder = Path(sys.argv[1])
preset = sys.argv[2] if len(sys.argv) > 2 else "quick"

recorded = augmint.phantoms("apical-ultrasound", out=folder / "recorded", patients=10)
# Who trains sees narrow fields, who tests sees full ones; they are different patients.
narrow = augmint.stress(recorded, folder / "narrow", fill=True, patients=6)
trained = augmint.open_dataset(narrow).patients
others = [p for p in augmint.open_dataset(recorded).patients if p not in trained]

minted = augmint.augment(
    narrow,
    folder / "minted",
    method="sector_outpaint",
    settings={"filler": "conditional", "depth": 0.5},
    copies=2,
    preset=preset,
)

for name, share in {"plain": 0.0, "mixed": 0.5}.items():
    run = augmint.segment(minted, folder / name, preset=preset, synthetic_probability=share)
    summary = augmint.evaluate(run, recorded, folder / f"{name}_scores", patients=others)
    print(f"{name}: mean Dice {summary.mean('dice'):.3f} on full fields of view")
