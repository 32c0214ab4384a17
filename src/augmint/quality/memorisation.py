"""Which synthetic images are copies of real ones?

Every synthetic image is compared with the real images that its generator was fitted on: a cheap
look at their spectra names the likeliest, `likeness` decides, whatever the flip, shift, small turn,
scale, noise and contrast between the two. How like is too like is learned from real patients whom
the generator never saw, see `calibrate`: their images cannot be copies. An image beside 1,000 real
ones takes 0.1 to 0.3 s of one processor core, and about 1 s where only a part of it counts. It
computes in fp32: nearly all of the time goes into Fourier transforms and resampling, which bf16
does not speed up.

Two things look like copying and are not. A method that paints new images for the mask of a real
case is meant to resemble that case: give the `own` patient of every image, and likeness to that
patient is told apart. A method that keeps recorded pixels, as sector outpainting does, copies them
by design: give in `counted` where it painted, and nothing else is compared.

What is deformed beyond the tolerance is not found: `likeness` does not see it as like. Candidates
by learned features do not help there. Of slices of cine MR under elastic warps of 6 % spectra lost
three in four; features of a segmenter named half of these, and none was like enough to be called a
copy. Those that were like enough and that spectra lost, some of those scaled by 30 %, the features
did not name. They made the search 9 to 28 % slower. So the audit and the gates go without.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from augmint.case import Case
from augmint.errors import AugmintError
from augmint.quality.likeness import coarse_search, likeness, spectra, spectral_match
from augmint.quality.structure import Maps, Tolerance, joined, structure

SHORTLIST = 12
# Of a part of an image too little is known for its spectrum to name the likeliest.
PART_SHORTLIST = 48
# Of the frame; on less, anything resembles anything.
LEAST_COMPARED = 0.1
BATCH = 8
ROUNDING = 1e-3


@dataclass(frozen=True)
class Picture:
    """A 2-D image to compare.

    Attributes:
        image: (C, H, W) in [-1, 1].
        name: Of the frame, or of the slice of a volume: `case#z003`.
        patient: Whose it is; of a synthetic image, the patient of its source, "" for none.
        counted: (H, W) bool, where to compare; None is everywhere.
    """

    image: Tensor
    name: str
    patient: str = ""
    counted: Tensor | None = None


@dataclass(frozen=True)
class Match:
    """A picture and the real image it is most like.

    Attributes:
        name: Of the picture.
        own: Its patient, or of a synthetic picture its source's; "" for none.
        real: The likest image of all other patients; "" where not judged.
        similarity: To that image, -1 to 1; NaN where too little of the picture can be compared.
        own_real: The likest image of its own patient; "" where the index has none.
        own_similarity: To that image; NaN where there is none.
    """

    name: str
    own: str
    real: str
    similarity: float
    own_real: str = ""
    own_similarity: float = float("nan")

    @property
    def judged(self) -> bool:
        """Whether enough of the picture could be compared."""
        return self.similarity == self.similarity

    @property
    def case(self) -> str:
        """The frame or the volume it belongs to."""
        return self.name.split("#")[0]


@dataclass(frozen=True)
class CopyIndex:
    """Real images, ready to be searched; `index_pictures` makes it.

    Attributes:
        maps: Their local structure, in half precision.
        spectra: Their spectra.
        names: One for each.
        patients: One for each.
        tolerance: What may lie between an image and its copy.
        describe: (1, C, H, W) to (1, D) learned features, or None.
        features: (N, D) of the images, of length 1; or None.
        device: Where it computes.
    """

    maps: Maps
    spectra: Tensor
    names: tuple[str, ...]
    patients: tuple[str, ...]
    tolerance: Tolerance
    describe: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    features: Tensor | None = field(default=None, repr=False)
    device: torch.device | str = "cpu"

    def __len__(self) -> int:
        return len(self.names)


def pictures_of(
    cases: Iterable[Case], own: Callable[[Case], str] | None = None
) -> Iterator[Picture]:
    """The frames of cases, or the slices of volumes, one loaded at a time.

    Args:
        cases: Real or synthetic ones.
        own: The patient of each, by default `Case.patient_id`.
    """
    for case in cases:
        patient = own(case) if own else case.patient_id
        for plane in case.slices():
            yield Picture(plane.image, plane.case_id, patient)


def index_pictures(
    pictures: Iterable[Picture],
    *,
    tolerance: Tolerance | None = None,
    describe: Callable[[Tensor], Tensor] | None = None,
    device: torch.device | str = "cpu",
) -> CopyIndex:
    """Real images (of a fit: all that the generator saw), ready to be searched.

    Images may differ in shape; each is brought to one size along its longer side. Where a generator
    worked on crops, compare crops: give both sides on the working grid.

    Args:
        pictures: Real ones, each with its patient.
        tolerance: What may lie between an image and its copy.
        describe: (1, C, H, W) to (1, D) learned features, as `network_features` gives: they name
            three further candidates. Likeness decides, so copies deformed beyond the tolerance stay
            unfound; see above.
        device: Where to compute.

    Raises:
        AugmintError: if there are none, or one is not in [-1, 1].
    """
    maps: list[Maps] = []
    names: list[str] = []
    patients: list[str] = []
    features: list[Tensor] = []
    for batch in _batches(pictures, 32):
        names += [picture.name for picture in batch]
        patients += [picture.patient for picture in batch]
        maps.append(_structures(batch, device).to(device, torch.float16))
        if describe:
            features += [_described(describe, picture.image, device) for picture in batch]
    if not maps:
        raise AugmintError("no real images to look for copies of; give those of the fit")
    both = joined(maps)
    shapes = [spectra(both[i : i + 64].to(device)) for i in range(0, len(both), 64)]
    return CopyIndex(
        both,
        torch.cat(shapes),
        tuple(names),
        tuple(patients),
        tolerance or Tolerance(),
        describe,
        torch.cat(features) if features else None,
        device,
    )


def nearest(index: CopyIndex, pictures: Iterable[Picture]) -> list[Match]:
    """For each picture the real image it is most like, and apart the likest of its own patient.

    Args:
        index: What to search.
        pictures: Synthetic ones, or real ones of other patients.

    Raises:
        AugmintError: if an image does not fit, or the index has nobody but a picture's patient.
    """
    found: list[Match] = []
    for batch in _batches(pictures, BATCH):
        found += _judged(index, batch)
    return found


def _judged(index: CopyIndex, batch: Sequence[Picture]) -> list[Match]:
    maps = _structures(batch, index.device)
    if maps.values.shape[1] != index.maps.values.shape[1]:
        raise AugmintError(
            f"image {batch[0].name!r} has {maps.values.shape[1]} channel(s), the real ones "
            f"{index.maps.values.shape[1]}; give the same channels"
        )
    promise = spectral_match(maps, index.spectra, index.tolerance)
    enough = maps.visible.mean((1, 2, 3)) >= LEAST_COMPARED
    tasks: list[tuple[int, bool, Tensor]] = []
    for i, picture in enumerate(batch):
        mine = [p == picture.patient != "" for p in index.patients]
        same = torch.tensor(mine, device=index.device)
        if bool(same.all()):
            raise AugmintError(
                f"image {picture.name!r} is of patient {picture.patient}, and so are all real "
                "images; give those of other patients too"
            )
        if not enough[i]:
            continue
        ahead = promise[i]
        if picture.counted is not None:
            ahead = coarse_search(maps[i : i + 1], index.maps, index.tolerance, scales=False)[0]
        for own in (False, True):
            pool = (same if own else ~same).nonzero()[:, 0]
            if len(pool):
                tasks.append((i, own, _shortlist(index, picture, ahead, pool)))
    results: dict[tuple[int, bool], tuple[str, float]] = {}
    if tasks:
        queries = maps[torch.tensor([i for i, _, _ in tasks], device=index.device)]
        candidates = [index.maps[c].to(index.device) for _, _, c in tasks]
        for (i, own, chosen), value in zip(tasks, likeness(queries, candidates, index.tolerance)):
            top = int(value.argmax())
            results[i, own] = index.names[int(chosen[top])], float(value[top])
    nothing = ("", float("nan"))
    return [
        Match(
            p.name, p.patient, *results.get((i, False), nothing), *results.get((i, True), nothing)
        )
        for i, p in enumerate(batch)
    ]


def _shortlist(index: CopyIndex, picture: Picture, ahead: Tensor, pool: Tensor) -> Tensor:
    """Which of the pool to compare exactly."""
    count = SHORTLIST if picture.counted is None else PART_SHORTLIST
    chosen = pool[ahead[pool].topk(min(count, len(pool))).indices]
    if index.describe is None or index.features is None:
        return chosen
    close = index.features[pool] @ _described(index.describe, picture.image, index.device)[0]
    learned = pool[close.topk(min(SHORTLIST // 4, len(pool))).indices]
    return torch.cat([chosen, learned]).unique()


def _described(
    describe: Callable[[Tensor], Tensor], image: Tensor, device: torch.device | str
) -> Tensor:
    features = describe(image[None].float()).to(device, torch.float32)
    return features / features.norm(dim=1, keepdim=True).clamp(min=1e-6)


def _structures(batch: Sequence[Picture], device: torch.device | str) -> Maps:
    """Their maps, one after the other: images may differ in shape."""
    maps = []
    for picture in batch:
        image, counted = picture.image, picture.counted
        if image.ndim != 3 or not bool((image.abs() <= 1 + ROUNDING).all()):
            raise AugmintError(
                f"image {picture.name!r}: copies are looked for in (C, H, W) in [-1, 1], got "
                f"{tuple(image.shape)} from {float(image.min()):.3g} to {float(image.max()):.3g}; "
                "give slices of volumes, rescaled"
            )
        if counted is not None and counted.shape != image.shape[1:]:
            raise AugmintError(
                f"image {picture.name!r} {tuple(image.shape)} and the part of it that counts "
                f"{tuple(counted.shape)} differ in shape"
            )
        part = None if counted is None else counted[None].to(device)
        maps.append(structure(image[None].to(device), part))
    if len({m.values.shape[1] for m in maps}) > 1:
        raise AugmintError("images differ in their number of channels; give the same for all")
    return joined(maps)


def _batches(pictures: Iterable[Picture], size: int) -> Iterator[list[Picture]]:
    several = iter(pictures)
    while batch := list(islice(several, size)):
        yield batch
