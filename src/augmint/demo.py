"""The whole way in minutes: simulated patients, synthetic cases, a report to look at."""

from __future__ import annotations

from pathlib import Path

from augmint.progress import Talk


def demo(
    out: Path | str = "demo",
    *,
    patients: int = 8,
    copies: int = 2,
    preset: str = "demo",
    seed: int = 0,
    device: str = "auto",
    talk: Talk | None = None,
) -> Path:
    """Draw a cohort of cine MR phantoms and augment it; six minutes on two cores with AMX.

    What is finished is not done again, so a stopped demo goes on when called once more.

    Args:
        out: Holds `phantoms` and `synthetic`.
        patients: How many patients to draw.
        copies: Synthetic cases for each real training case.
        preset: Sizes of everything.
        seed: Seeds everything.
        device: `auto`, `cpu`, `cuda`, ...
        talk: Where progress goes.

    Returns:
        The synthetic dataset, `out`/synthetic.
    """
    from augmint.augment import augment
    from augmint.data.phantoms import make_phantoms

    talk = talk or Talk()
    cohort, made = Path(out) / "phantoms", Path(out) / "synthetic"
    if not cohort.exists():
        cohort.parent.mkdir(parents=True, exist_ok=True)
        talk.say(f"drawing {patients} simulated patients into {cohort}")
        make_phantoms("cine-mr", out=cohort, patients=patients, seed=seed)
    if made.exists():
        talk.say(f"{made} is there already")
    else:
        augment(
            cohort, made, preset=preset, copies=copies, seed=seed, device=device, resume=True,
            talk=talk,
        )  # fmt: skip
    talk.say(f"open {made}/report.html; {made}/sheets/pairs.png shows real and synthetic pairs")
    return made
