"""Real pairs, warped: the geometry of `mask_to_image` without a network, as its control."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from augmint.case import Case, Provenance
from augmint.diffusion.networks import Denoiser
from augmint.diffusion.sampling import generator_for
from augmint.errors import AugmintError
from augmint.imaging.warps import WarpRange, warp_case
from augmint.methods.protocol import DatasetFacts, NetworkSpec


@dataclass(frozen=True)
class WarpedPairs:
    """Real images, warped together with their masks; needs no fit.

    With one seed and one strength the masks are those that `mask_to_image` makes, so that a
    comparison of the two shows what the painted images add to the moved anatomy.

    Attributes:
        warp: How far images and masks are warped; 1 is up to 15 degrees, 15 % of size, 1.2 %
            elastic.
    """

    keeps_pixels: ClassVar[bool] = True
    warp: float = 1.0

    def __post_init__(self) -> None:
        if self.warp < 0:
            raise AugmintError(f"warped_pairs: warp is 0 or more; got {self.warp}")

    def networks(self, facts: DatasetFacts) -> Mapping[str, NetworkSpec]:
        """None."""
        return {}

    def generate(
        self,
        networks: Mapping[str, Denoiser],
        orders: Iterable[tuple[Case, int]],
        facts: DatasetFacts,
        *,
        seed: int,
    ) -> Iterator[Case]:
        """One new case on the window for each order, in their order.

        Args:
            networks: Not looked at.
            orders: Labelled cases on the canvas of `facts.grid`, each with the number of the copy
                to make; read lazily.
            facts: Of the data.
            seed: With the case and the copy it seeds the warp.

        Raises:
            AugmintError: for a case without a mask.
        """
        for case, copy in orders:
            generator = generator_for(seed, case.case_id, copy)
            moved = warp_case(
                case, WarpRange().scaled(self.warp), facts.grid.window, facts.num_classes, generator
            )
            yield replace(
                moved,
                case_id=f"{case.case_id}__s{seed}_c{copy}",
                provenance=Provenance(
                    source_case=case.case_id,
                    method="warped_pairs",
                    seed=seed,
                    copy=copy,
                    walk="none",
                    evaluations=0,
                ),
            )
