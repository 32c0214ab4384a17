"""Who trains: random draws of patients, no two of them alike, or folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

from augmint.data.dataset import Dataset
from augmint.data.splits import draw_patients, folds
from augmint.errors import AugmintError
from augmint.study.spec import ALL, Size, Study

# From a draw that came before to the next try.
REDRAWN = 1_000


@dataclass(frozen=True)
class Draw:
    """Who trains; `held` are the patients of a fold."""

    size: int
    number: int
    train: tuple[str, ...]
    held: tuple[str, ...] | None


def draws_of(study: Study, data: Dataset, everyone: Sequence[str]) -> list[Draw]:
    """Every draw of every size, in order of size; of a fold, the size is that of the first."""
    pools: list[tuple[int, Sequence[str], tuple[str, ...] | None]]
    if study.folds:
        chosen = folds(data.select(patients=list(everyone)), study.folds, 0)
        pools = [(f.index, f.train, f.validation) for f in chosen]
    else:
        pools = [(number, everyone, None) for number in range(study.draws)]
    found: dict[tuple[int, int], Draw] = {}
    for asked in study.sizes or (ALL,):
        for number, pool, held in pools:
            size, shown = (_size(asked, len(patients)) for patients in (pool, pools[0][1]))
            if size > len(pool):
                raise AugmintError(
                    f"a size of {size} patients was asked for, {len(pool)} may train; ask for fewer"
                )
            if size == len(pool) and number > 0 and not study.folds:
                continue  # all patients can be drawn in one way only
            if (shown, number) not in found:
                before = [d.train for k, d in found.items() if k[0] == shown and held is None]
                drawn = _draw(pool, size, number, before)
                found[shown, number] = Draw(shown, number, drawn, held)
    return [found[key] for key in sorted(found)]


def _draw(
    pool: Sequence[str], size: int, number: int, before: Sequence[tuple[str, ...]]
) -> tuple[str, ...]:
    """Patients that no earlier draw of the size has: twice the same ones would count as two.

    Raises:
        AugmintError: if there are no further ones.
    """
    if len(before) >= comb(len(pool), size):
        raise AugmintError(
            f"{size} of {len(pool)} patients can be drawn in {comb(len(pool), size)} ways, so more "
            "draws repeat one; ask for fewer draws or another size"
        )
    seed = number
    while (drawn := draw_patients(pool, size, seed)) in before:
        seed += REDRAWN
    return drawn


def _size(asked: Size, patients: int) -> int:
    if isinstance(asked, str):
        return patients
    return max(1, round(asked * patients)) if asked < 1 else int(asked)
