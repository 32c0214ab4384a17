"""Images from warped masks: drawn hearts, synthetic pairs, a segmenter with and without them.

python examples/mask_to_image.py FOLDER [PRESET]
"""

import sys
from pathlib import Path

import augmint

folder = Path(sys.argv[1])
preset = sys.argv[2] if len(sys.argv) > 2 else "quick"

hearts = augmint.phantoms("cine-mr", out=folder / "hearts", vendor="A", patients=8)
others = augmint.phantoms("cine-mr", out=folder / "others", vendor="B", patients=4, seed=1)

minted = augmint.augment(
    hearts,
    folder / "minted",
    method="mask_to_image",
    settings={"warp": 1.0},
    patients=5,
    copies=3,
    preset=preset,
)

for name, share in {"plain": 0.0, "mixed": 0.5}.items():
    run = augmint.segment(minted, folder / name, preset=preset, synthetic_probability=share)
    summary = augmint.evaluate(run, others, folder / f"{name}_scores")
    print(f"{name}: mean Dice {summary.mean('dice'):.3f} on the other scanner")
