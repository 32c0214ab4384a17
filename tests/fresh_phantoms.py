"""A method for tests that cannot but help: it knows further patients."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from augmint.case import Case, Provenance
from augmint.data.dataset import open_dataset
from augmint.diffusion.sampling import generator_for


@dataclass(frozen=True)
class FreshPhantoms:
    """Real pairs of a dataset that nobody else has."""

    folder: str = ""

    def networks(self, facts) -> Mapping:
        return {}

    def generate(self, networks, orders: Iterable, facts, *, seed: int) -> Iterator[Case]:
        import torch

        hidden = open_dataset(self.folder)
        for case, copy in orders:
            generator = generator_for(seed, case.case_id, copy)
            number = int(torch.randint(len(hidden), (1,), generator=generator))
            native = hidden.load(hidden.items[number])
            shown = facts.grid.to_working(native, shape=facts.grid.window)
            yield replace(
                case,
                image=shown.image,
                mask=shown.mask,
                grid=replace(case.grid, shape=tuple(shown.mask.shape)),
                case_id=f"{case.case_id}__s{seed}_c{copy}",
                provenance=Provenance(
                    source_case=case.case_id, method="fresh_phantoms", seed=seed, copy=copy,
                    walk="none", evaluations=0,
                ),
            )  # fmt: skip
