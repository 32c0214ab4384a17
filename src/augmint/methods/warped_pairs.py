"""Real pairs, warped: the geometry of `mask_to_image` without a network, as its control."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch

from augmint.case import Case, Provenance
from augmint.diffusion.networks import Denoiser
from augmint.diffusion.sampling import generator_for
from augmint.errors import AugmintError
from augmint.imaging.warps import WarpRange, random_warp, warp_image, warp_mask
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
            if case.mask is None:
                raise AugmintError(
                    f"case {case.case_id!r} has no mask; warped_pairs warps real pairs, so give "
                    "labelled cases"
                )
            by_slice = facts.grid.dims == 2 and case.dims == 3
            masks = case.mask.movedim(-1, 0) if by_slice else case.mask[None]
            images = case.image.movedim(-1, 0) if by_slice else case.image[None]
            grid = random_warp(
                WarpRange().scaled(self.warp), 1, masks.shape[1:], facts.grid.window,
                generator_for(seed, case.case_id, copy),
            )  # fmt: skip
            # One warp for all slices of a volume.
            grid = grid.expand(len(masks), *grid.shape[1:])
            image = warp_image(images, grid).clamp(-1, 1)
            mask = warp_mask(masks, grid, facts.num_classes)
            mask = mask.movedim(0, -1) if by_slice else mask[0]
            yield replace(
                case,
                image=torch.movedim(image, 0, -1) if by_slice else image[0],
                mask=mask,
                grid=replace(case.grid, shape=tuple(mask.shape)),
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
