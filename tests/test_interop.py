import sys

import numpy as np
import pytest
import torch

import augmint
from augmint import from_monai, from_torchio, to_monai, to_torchio
from augmint.case import Case, Grid, IntensityMap, Provenance
from augmint.errors import AugmintError

VOLUME = np.array(
    [[0.0, -1.3, 0.0, 7.1], [0.7, 0.0, 0.0, -3.0], [0.0, 0.0, 8.0, 1 / 3], [0.0, 0.0, 0.0, 1.0]]
)
PLANE = np.array([[0.0, -0.31, 5.0], [0.29, 0.0, 1 / 7], [0.0, 0.0, 1.0]])
MADE = Provenance(
    source_case="c7",
    method="mask_to_image",
    run="run",
    network_sha256="abc",
    seed=3,
    copy=2,
    walk="heun 3",
    evaluations=5,
    fold=None,
    details={"warp": 0.5, "kind": "smooth"},
)


def make_case(shape=(5, 4, 3), *, affine=None, channels=2, mask=True, made=MADE, known=True):
    draw = torch.Generator().manual_seed(1)
    if affine is None:
        affine = VOLUME if len(shape) == 3 else PLANE
    return Case(
        image=torch.rand(channels, *shape, generator=draw) * 2 - 1,
        mask=torch.randint(0, 3, shape, generator=draw) if mask else None,
        annotated=frozenset({2, 1}),
        grid=Grid(shape, affine, known),
        intensity=IntensityMap((-10.5,) * channels, (1 / 3,) * channels, "int16"),
        case_id="c7__s3_c2",
        patient_id="p7",
        domain="Siemens",
        text=("MR", "heart"),
        provenance=made,
    )


CASES = {
    "volume": make_case(),
    "frame": make_case((6, 5)),
    "one-slice volume": make_case((6, 5, 1)),
    "unlabelled": make_case(mask=False),
    "real": make_case(made=None),
    "spacing disowned": make_case(known=False),
    "identity in mm": make_case((6, 5), affine=np.eye(3)),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def assert_same(one: Case, other: Case) -> None:
    assert type(other.image) is torch.Tensor
    assert other.image.dtype == torch.float32
    assert torch.equal(one.image, other.image)
    assert (one.mask is None) == (other.mask is None)
    if one.mask is not None:
        assert type(other.mask) is torch.Tensor
        assert other.mask.dtype == torch.int64
        assert torch.equal(one.mask, other.mask)
    assert one.grid.shape == other.grid.shape
    assert np.array_equal(one.grid.affine, other.grid.affine)
    assert one.grid.spacing_known is other.grid.spacing_known
    for name in ("annotated", "intensity", "case_id", "patient_id", "domain", "text", "provenance"):
        assert getattr(one, name) == getattr(other, name), name


def plain(shape=(1, 6, 5), affine=None, **more):
    from monai.data import MetaTensor

    affine = torch.diag(torch.tensor([0.5, 0.5, 1.0, 1.0])) if affine is None else affine
    image = MetaTensor(torch.linspace(0, 1000, int(np.prod(shape))).reshape(shape), affine=affine)
    return {"image": image, **more}


NAMED = {"case_id": "c", "patient_id": "p"}


def test_the_functions_are_public():
    assert {"from_monai", "from_torchio", "to_monai", "to_torchio"} <= set(augmint.__all__)


@every_case
def test_a_case_survives_monai(case):
    assert_same(case, from_monai(to_monai(case)))


@every_case
def test_monai_sees_image_label_and_spacing(case):
    from monai.data import MetaTensor

    data = to_monai(case)
    assert isinstance(data["image"], MetaTensor)
    assert data["image"].shape == case.image.shape
    assert data["image"].affine.shape == (4, 4)
    assert data["image"].pixdim.numpy() == pytest.approx(
        np.linalg.norm(case.grid.affine[: case.dims, : case.dims], axis=0)
    )
    assert ("label" in data) == (case.mask is not None)
    if case.mask is not None:
        assert data["label"].shape == (1, *case.grid.shape)


def test_what_monai_does_to_its_dict_leaves_the_case_alone():
    case = make_case()
    before = case.image.clone()
    data = to_monai(case)
    data["image"] += 1
    data["provenance"]["details"]["warp"] = 9.0
    assert torch.equal(case.image, before)
    assert case.provenance.details["warp"] == 0.5


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_a_transform_of_monai_moves_image_label_and_affine_together(shape):
    from monai.transforms import Flipd

    case = make_case(shape)
    again = from_monai(Flipd(["image", "label"], spatial_axis=0)(to_monai(case)))
    assert torch.equal(again.image, case.image.flip(1))
    assert torch.equal(again.mask, case.mask.flip(0))
    first, last = np.zeros(len(shape) + 1), np.zeros(len(shape) + 1)
    first[-1] = last[-1] = 1
    last[0] = shape[0] - 1
    assert again.grid.affine @ last == pytest.approx(case.grid.affine @ first)


def test_a_case_survives_a_batch_of_monai():
    from monai.data import decollate_batch, list_data_collate
    from monai.transforms import SelectItemsd

    cases = [make_case(made=None), make_case(affine=np.diag([2.0, 2.0, 9.0, 1.0]))]
    data = [to_monai(case) for case in cases]
    batch = list_data_collate([SelectItemsd(["image", "label"])(d) for d in data])
    for case, whole, item in zip(cases, data, decollate_batch(batch), strict=True):
        assert_same(case, from_monai(whole | item))


def test_a_plain_monai_dict_holds_stored_values():
    data = plain(label=torch.ones(1, 6, 5))
    case = from_monai(data, **NAMED, annotated={1}, domain="GE", text=("MR",))
    assert (case.case_id, case.patient_id, case.domain, case.text) == ("c", "p", "GE", ("MR",))
    assert case.annotated == {1}
    assert case.provenance is None
    assert case.grid.spacing_known
    assert case.grid.spacing == (0.5, 0.5)
    assert case.image.min() == -1
    assert case.image.max() == 1
    inside = slice(1, -1)  # the extremes saturate
    stored = case.intensity.to_stored(case.image).ravel()[inside]
    assert stored == pytest.approx(data["image"].numpy().ravel()[inside], rel=1e-5)
    assert case.mask.unique().tolist() == [1]


def test_a_given_map_is_the_one_of_the_stored_values():
    window = IntensityMap((0.0,), (2000.0,))
    case = from_monai(plain(), **NAMED, intensity=window)
    assert case.intensity is window
    assert case.image.max() == pytest.approx(0.0, abs=1e-6)


def test_spacing_is_unknown_without_an_affine_or_with_the_identity():
    assert not from_monai({"image": torch.rand(1, 6, 5)}, **NAMED).grid.spacing_known
    identity = plain(affine=torch.eye(4))
    assert not from_monai(identity, **NAMED).grid.spacing_known
    assert from_monai(identity, **NAMED, spacing_known=True).grid.spacing_known
    with pytest.raises(AugmintError, match="no affine"):
        from_monai({"image": torch.rand(1, 6, 5)}, **NAMED, spacing_known=True)


def test_a_tilted_plane_keeps_its_spacing():
    tilted = np.eye(4)
    tilted[:3, :2] = [[0.3, 0.0], [0.0, 0.24], [0.4, 0.32]]
    case = from_monai(plain(affine=torch.from_numpy(tilted)), **NAMED)
    assert case.grid.spacing == pytest.approx((0.5, 0.4))


def batched():
    from monai.data import list_data_collate

    pair = [{"image": to_monai(make_case())["image"]} for _ in range(2)]
    return list_data_collate(pair) | NAMED


def waiting():
    data = to_monai(make_case())
    data["image"].push_pending_operation({"affine": torch.eye(4)})
    return data


def edited(case=None, **changes):
    return to_monai(case or make_case()) | changes


def shifted():
    data = to_monai(make_case())
    data["label"].affine = data["label"].affine + 1.0
    return data


BAD = {
    "no image": (lambda: {}, NAMED, "no 'image'"),
    "no patient": (plain, {"case_id": "c"}, "patient_id is None"),
    "given twice": (edited, {"domain": "GE"}, "domain: held by the data and given"),
    "no annotated": (
        lambda: plain(label=torch.ones(1, 6, 5)), NAMED, "give annotated",
    ),
    "a word as text": (plain, NAMED | {"text": "MR"}, "tuple of words"),
    "names of a batch": (lambda: edited(case_id=["a", "b"]), {}, "decollate_batch"),
    "a batch": (batched, {}, "decollate_batch"),
    "lazy transforms": (waiting, {}, "ApplyPendingd"),
    "a path": (lambda: {"image": "a.nii.gz"}, NAMED, "LoadImaged"),
    "no channel axis": (lambda: {"image": torch.rand(6, 5)}, NAMED, "EnsureChannelFirstd"),
    "not finite": (lambda: {"image": torch.full((1, 6, 5), torch.nan)}, NAMED, "NaN"),
    "rescaled": (lambda: edited(image=torch.full((2, 5, 4, 3), 1.01)), {}, r"leave \[-1, 1\]"),
    "another channel": (lambda: edited(image=torch.zeros(1, 5, 4, 3)), {}, "1 channels, but"),
    "a torn map": (lambda: edited(intensity={"low": (0.0,)}), {}, "low, high and dtype"),
    "a torn history": (lambda: edited(provenance={"seed": 1}), {}, "provenance"),
    "blended classes": (
        lambda: edited(label=torch.full((1, 5, 4, 3), 0.5)), {}, "nearest neighbour",
    ),
    "negative class": (
        lambda: edited(label=torch.full((1, 5, 4, 3), -1)), {}, "nearest neighbour",
    ),
    "one-hot": (lambda: edited(label=torch.zeros(3, 5, 4, 3)), {}, "AsDiscreted"),
    "label elsewhere": (shifted, {}, "affines of image and label differ"),
    "label of another shape": (
        lambda: edited(label=torch.zeros(1, 5, 4, 2)), {}, "differ in shape",
    ),
    "flat affine": (lambda: plain(affine=torch.zeros(4, 4)), NAMED, "cannot be inverted"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "named", "message"), BAD.values(), ids=BAD)
def test_what_is_no_case_is_refused(make, named, message):
    with pytest.raises(AugmintError, match=message):
        from_monai(make(), **named)


def test_an_affine_in_lps_is_refused():
    data = to_monai(make_case())
    data["image"].meta["space"] = "LPS"
    with pytest.raises(AugmintError, match="in LPS, not RAS"):
        from_monai(data)


def test_without_torchio_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchio", None)
    with pytest.raises(AugmintError, match="pip install torchio"):
        to_torchio(make_case())
    with pytest.raises(AugmintError, match="pip install torchio"):
        from_torchio({})


@every_case
def test_a_case_survives_torchio(case):
    pytest.importorskip("torchio")
    assert_same(case, from_torchio(to_torchio(case)))


def test_torchio_sees_a_scalar_image_and_a_label_map():
    torchio = pytest.importorskip("torchio")
    subject = to_torchio(make_case((6, 5)))
    assert isinstance(subject["image"], torchio.ScalarImage)
    assert isinstance(subject["label"], torchio.LabelMap)
    assert subject["image"].shape == (2, 6, 5, 1)
    assert subject.is_2d()
    assert subject.spacing == pytest.approx((0.29, 0.31, 1.0))


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_a_transform_of_torchio_comes_back(shape):
    torchio = pytest.importorskip("torchio")
    case = make_case(shape)
    again = from_torchio(torchio.RandomFlip(axes=0, flip_probability=1)(to_torchio(case)))
    assert torch.equal(again.image, case.image.flip(1))
    assert torch.equal(again.mask, case.mask.flip(0))
    assert again.provenance == case.provenance


def test_a_plain_subject_holds_stored_values():
    torchio = pytest.importorskip("torchio")
    values = torch.linspace(0, 1000, 90).reshape(1, 6, 5, 3)
    image = torchio.ScalarImage(tensor=values, affine=VOLUME)
    case = from_torchio(torchio.Subject(image=image, **NAMED))
    assert case.mask is None
    assert case.grid.spacing == pytest.approx((0.7, 1.3, 8.0))
    assert case.image.min() == -1
    assert case.image.max() == 1


def test_a_subject_that_is_no_case_is_refused():
    torchio = pytest.importorskip("torchio")
    image = torchio.ScalarImage(tensor=torch.zeros(1, 6, 5, 3))
    with pytest.raises(AugmintError, match="no 'image'"):
        from_torchio(torchio.Subject(t1=image, **NAMED))
    with pytest.raises(AugmintError, match="case_id is None"):
        from_torchio(torchio.Subject(image=image))
    with pytest.raises(AugmintError, match="3 planes"):
        from_torchio(torchio.Subject(image=image, dims=2, **NAMED))
