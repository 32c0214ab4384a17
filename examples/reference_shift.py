"""A segmenter of one scanner on another's images: as they are, and shifted towards the first.

python examples/reference_shift.py FOLDER [PRESET]
"""

import sys
from pathlib import Path

import augmint

folder = Path(sys.argv[1])
preset = sys.argv[2] if len(sys.argv) > 2 else "quick"

source = augmint.phantoms("cine-mr", out=folder / "source", vendor="A", patients=8)
target = augmint.phantoms("cine-mr", out=folder / "target", vendor="C", patients=4, seed=1)

segmenter = augmint.segment(source, folder / "segmenter", preset=preset)
run = augmint.fit(source, folder / "run", method="reference_shift", preset=preset)

looks = {"as they are": target}
for name in ("histogram", "sdedit"):
    looks[name] = augmint.adapt(
        run, target, folder / name, settings={"translator": name, "strength": 0.3}
    )
for name, images in looks.items():
    summary = augmint.evaluate(segmenter, images, folder / f"{name} scores")
    print(f"{name}: mean Dice {summary.mean('dice'):.3f} on the other scanner")
