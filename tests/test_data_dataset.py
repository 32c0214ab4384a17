import csv
import json

import nibabel
import numpy as np
import pytest
import torch

from augmint.case import Case, Grid
from augmint.data import images as images_module
from augmint.data.dataset import Dataset, modality_of, open_dataset
from augmint.data.images import ending_of, write_image, write_mask
from augmint.errors import AugmintError

LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}


def save(path, array, affine=None):
    """Write an image (float or uint8) or, for int64, a mask."""
    array = np.asarray(array)
    affine = np.eye(array.ndim + 1) if affine is None else affine
    grid = Grid(array.shape, affine, True)
    if array.dtype == np.int64:
        write_mask(path, array, grid)
    else:
        write_image(path, array[None], grid)


def picture(seed=0, shape=(8, 9)):
    return np.random.default_rng(seed).integers(0, 255, shape).astype(np.uint8)


def labels_picture(shape=(8, 9), value=3):
    mask = np.zeros(shape, np.int64)
    mask[2:5, 2:5] = value
    return mask


def make_nnunet(root, names, *, ending=".png", channels=("cineMRI",), shape=(8, 9), **description):
    (root / "imagesTr").mkdir(parents=True)
    for number, name in enumerate(names):
        for channel in range(len(channels)):
            save(root / "imagesTr" / f"{name}_{channel:04d}{ending}", picture(number, shape))
        save(root / "labelsTr" / f"{name}{ending}", labels_picture(shape))
    content = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": LABELS,
        "numTraining": len(names),
        "file_ending": ending,
    }
    (root / "dataset.json").write_text(json.dumps({**content, **description}))
    return root


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize(
    ("ending", "shape"),
    [(".png", (8, 9)), (".tif", (8, 9)), (".nii.gz", (8, 9)), (".nii.gz", (8, 9, 4))],
)
def test_nnunet_opens_planes_and_volumes(tmp_path, ending, shape):
    names = ["patient001_frame01", "patient001_frame12", "patient002_frame01"]
    make_nnunet(tmp_path / "D", names, ending=ending, shape=shape, name="Fake", licence="CC0")
    dataset = open_dataset(tmp_path / "D")
    assert (dataset.layout, dataset.name, dataset.licence) == ("nnunet", "Fake", "CC0")
    assert (dataset.file_ending, dataset.channel_names) == (ending, ("cineMRI",))
    assert dataset.modality == "MR"
    assert dataset.labels == LABELS
    assert dataset.annotated == {1, 2, 3}
    assert dataset.patients == ("patient001", "patient002")
    assert "patientNNN" in dataset.patient_rule
    cases = list(dataset)
    assert [case.case_id for case in cases] == names
    case = cases[0]
    assert isinstance(case, Case)
    assert case.image.shape == (1, *shape)
    assert case.image.dtype == torch.float32
    assert case.mask.dtype == torch.int64
    assert set(case.mask.unique().tolist()) == {0, 3}
    assert case.grid.spacing_known == (ending == ".nii.gz")
    assert case.text == ("MR",)
    assert case.provenance is None


def test_opening_a_thousand_cases_reads_no_image(tmp_path, monkeypatch):
    root = tmp_path / "D"
    make_nnunet(root, ["patient0000_2CH_ED"])
    image = (root / "imagesTr" / "patient0000_2CH_ED_0000.png").read_bytes()
    mask = (root / "labelsTr" / "patient0000_2CH_ED.png").read_bytes()
    for number in range(1, 1000):
        (root / "imagesTr" / f"patient{number:04d}_2CH_ED_0000.png").write_bytes(image)
        (root / "labelsTr" / f"patient{number:04d}_2CH_ED.png").write_bytes(mask)
    read = []
    original = images_module._read

    def count(path, *, as_mask, frame=None):
        read.append(path)
        return original(path, as_mask=as_mask, frame=frame)

    monkeypatch.setattr(images_module, "_read", count)
    dataset = open_dataset(root)
    cases = iter(dataset)
    assert len(dataset) == 1000
    assert read == []
    next(cases)
    assert len(read) == 2


def test_several_channels_stack_in_order(tmp_path):
    root = make_nnunet(tmp_path / "D", ["a_001"], channels=("T1", "T2"))
    save(root / "imagesTr" / "a_001_0001.png", np.full((8, 9), 7, np.uint8))
    dataset = open_dataset(root)
    case = dataset.load(dataset.items[0])
    assert case.image.shape == (2, 8, 9)
    assert (case.image[1] == -1).all()
    assert len(case.intensity.low) == 2


def test_a_missing_channel_file_is_named(tmp_path):
    root = make_nnunet(tmp_path / "D", ["a_001", "a_002"], channels=("T1", "T2"))
    (root / "imagesTr" / "a_002_0001.png").unlink()
    with pytest.raises(AugmintError, match=r"'a_002' lacks a_002_0001\.png.*T1, T2"):
        open_dataset(root)


def test_one_colour_file_may_hold_three_channels(tmp_path):
    from PIL import Image

    root = make_nnunet(tmp_path / "D", ["a_001"], channels=("R", "G", "B"))
    for number in (1, 2):
        (root / "imagesTr" / f"a_001_{number:04d}.png").unlink()
    Image.fromarray(np.stack([picture()] * 3, -1)).save(root / "imagesTr" / "a_001_0000.png")
    assert next(iter(open_dataset(root))).image.shape == (3, 8, 9)


def test_a_label_without_an_image_is_named(tmp_path):
    root = make_nnunet(tmp_path / "D", ["a_001"])
    save(root / "labelsTr" / "a_009.png", labels_picture())
    with pytest.raises(AugmintError, match="no image for a_009"):
        open_dataset(root)


def test_unlabelled_cases_and_the_test_split(tmp_path):
    root = make_nnunet(tmp_path / "D", ["a_001", "a_002"])
    save(root / "imagesTs" / "a_009_0000.png", picture())
    save(root / "rejected" / "imagesTr" / "bad_0000.png", picture())
    (root / "labelsTr" / "a_002.png").unlink()
    dataset = open_dataset(root)
    assert [item.case_id for item in dataset.items] == ["a_001", "a_002"]
    assert dataset.load(dataset.items[1]).mask is None
    test = open_dataset(root, split="test")
    assert [item.case_id for item in test.items] == ["a_009"]
    assert next(iter(test)).mask is None
    with pytest.raises(AugmintError, match="splits train and test, not validation"):
        open_dataset(root, split="validation")


def test_spacing_and_annotated_labels_are_disowned_by_name(tmp_path):
    root = make_nnunet(
        tmp_path / "D",
        ["a_001"],
        ending=".nii.gz",
        shape=(8, 9, 4),
        spacing_known=False,
        annotated_labels=["MYO", "LV"],
    )
    dataset = open_dataset(root)
    assert dataset.annotated == {2, 3}
    case = dataset.load(dataset.items[0])
    assert case.annotated == {2, 3}
    assert not case.grid.spacing_known
    assert case.grid.spacing == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotated_labels": ["LA"]}, "`annotated_labels` names LA, but the labels are RV"),
        ({"spacing_known": "no"}, "`spacing_known` must be true or false"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, "label 'whole' is a region"),
        ({"labels": {"background": 0, "a": 1, "ignore": 2}}, "`ignore` label"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "label 'b' = 1 is given twice"),
        ({"labels": {"background": 0, "a": "one"}}, "not an integer"),
        ({"labels": {"background": 0}}, "no label is left beside background"),
        ({"channel_names": None}, "`channel_names` is missing"),
        ({"file_ending": ".nii.gz"}, r"no file named CASE_0000\.nii\.gz"),
    ],
)
def test_a_contradictory_description_is_refused(tmp_path, change, message):
    root = make_nnunet(tmp_path / "D", ["a_001"], **change)
    with pytest.raises(AugmintError, match=message):
        open_dataset(root)


def test_broken_json_and_missing_folders_are_named(tmp_path):
    with pytest.raises(AugmintError, match="no such folder"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(AugmintError, match=r"dataset\.json: not readable as JSON"):
        open_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text('{"labels": {"a": 1}, "file_ending": ".png"}')
    with pytest.raises(AugmintError, match="`channel_names` is missing"):
        open_dataset(tmp_path)


def test_an_unrecognised_folder_says_what_was_looked_for(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(AugmintError, match=r"imagesTr.*Decathlon.*MONAI.*BIDS.*masks/.*x_mask"):
        open_dataset(tmp_path)


def test_label_values_outside_the_dataset_are_named(tmp_path):
    root = make_nnunet(tmp_path / "D", ["a_001"])
    save(root / "labelsTr" / "a_001.png", labels_picture(value=7))
    with pytest.raises(AugmintError, match=r"a_001\.png: label value\(s\) 7 .*0, 1, 2, 3"):
        list(open_dataset(root))


def test_a_mask_of_another_size_is_named(tmp_path):
    root = make_nnunet(tmp_path / "D", ["a_001"])
    save(root / "labelsTr" / "a_001.png", labels_picture((8, 8)))
    with pytest.raises(AugmintError, match=r"'a_001': image \(8, 9\) and mask \(8, 8\)"):
        list(open_dataset(root))


def test_a_dataset_with_one_channel_refuses_colour(tmp_path):
    from PIL import Image

    root = make_nnunet(tmp_path / "D", ["a_001"])
    colour = np.random.default_rng(0).integers(0, 255, (8, 9, 3)).astype(np.uint8)
    Image.fromarray(colour).save(root / "imagesTr" / "a_001_0000.png")
    with pytest.raises(AugmintError, match=r"3 channel\(s\) where the dataset names 1"):
        list(open_dataset(root))


def test_label_map_merges_renames_and_drops_by_name(tmp_path):
    root = make_nnunet(tmp_path / "D", ["a_001"], annotated_labels=["MYO", "LV"])
    mask = np.zeros((8, 9), np.int64)
    mask[0], mask[1], mask[2] = 1, 2, 3
    save(root / "labelsTr" / "a_001.png", mask)
    dropped = open_dataset(root, label_map={"RV": None, "LV": "cavity"})
    assert dropped.labels == {"background": 0, "MYO": 1, "cavity": 2}
    assert dropped.annotated == {1, 2}
    assert dropped.load(dropped.items[0]).mask[:3, 0].tolist() == [0, 1, 2]
    merged = open_dataset(root, label_map={"RV": "blood", "LV": "blood"})
    assert merged.labels == {"background": 0, "blood": 1, "MYO": 2}
    assert merged.annotated == {2}  # half of blood was never annotated
    assert merged.load(merged.items[0]).mask[:3, 0].tolist() == [1, 2, 1]
    with pytest.raises(AugmintError, match="label map names LA, but the labels are RV, MYO, LV"):
        open_dataset(root, label_map={"LA": "x"})


def test_stored_values_with_gaps_become_consecutive(tmp_path):
    root = make_nnunet(tmp_path / "D", ["a_001"], labels={"LV": 3, "background": 0, "RV": 1})
    dataset = open_dataset(root)
    assert dataset.labels == {"background": 0, "RV": 1, "LV": 2}
    assert dataset.load(dataset.items[0]).mask.max() == 2


def test_paired_folders_with_a_binary_mask(tmp_path):
    for name in ("x", "y"):
        save(tmp_path / "images" / f"{name}.png", picture())
        save(tmp_path / "masks" / f"{name}.png", labels_picture(value=255))
    save(tmp_path / "masks" / "y.png", labels_picture(value=1))
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "folders"
    assert dataset.labels == {"background": 0, "foreground": 1}
    assert [case.mask.sum().item() for case in dataset] == [9, 9]
    assert dataset.patient_rule == "each case is its own patient"
    assert not next(iter(dataset)).grid.spacing_known


@pytest.mark.parametrize("ending", [".png", ".tif", ".nii.gz", ".mhd"])
@pytest.mark.parametrize("folder", ["masks", "labels", "annotations"])
def test_paired_folders_of_every_format_with_named_labels(tmp_path, ending, folder):
    save(tmp_path / "images" / f"x{ending}", picture())
    save(tmp_path / folder / f"x{ending}", labels_picture(value=85))
    (tmp_path / "labels.json").write_text('{"LV": 85, "MYO": 170}')
    dataset = open_dataset(tmp_path)
    assert dataset.labels == {"background": 0, "LV": 1, "MYO": 2}
    (case,) = dataset
    assert case.mask.max() == 1
    assert case.grid.spacing_known == (ending in (".nii.gz", ".mhd"))


def test_a_jpeg_image_pairs_with_a_png_mask_of_another_suffix(tmp_path):
    from PIL import Image

    (tmp_path / "images").mkdir()
    Image.fromarray(picture()).save(tmp_path / "images" / "ISIC_1.jpg")
    save(tmp_path / "masks" / "ISIC_1_segmentation.png", labels_picture(value=255))
    assert next(iter(open_dataset(tmp_path))).mask.sum() == 9


def test_binary_masks_with_other_values_need_names(tmp_path):
    save(tmp_path / "images" / "x.png", picture())
    save(tmp_path / "masks" / "x.png", labels_picture(value=2))
    with pytest.raises(AugmintError, match=r"value\(s\) 2 where only 0, 1, 255.*labels\.json"):
        list(open_dataset(tmp_path))
    mask = labels_picture(value=1)
    mask[0] = 255
    save(tmp_path / "masks" / "x.png", mask)
    with pytest.raises(AugmintError, match="both 1 and 255"):
        list(open_dataset(tmp_path))


def test_several_masks_of_one_image_are_united(tmp_path):
    first, second = np.zeros((8, 9), np.int64), np.zeros((8, 9), np.int64)
    first[1:3, 1:3], second[5:7, 5:8] = 255, 255
    second[1, 1] = 255
    save(tmp_path / "benign" / "benign (1).png", picture())
    save(tmp_path / "benign" / "benign (1)_mask.png", first)
    save(tmp_path / "benign" / "benign (1)_mask_1.png", second)
    save(tmp_path / "normal" / "normal (1).png", picture())
    save(tmp_path / "normal" / "normal (1)_mask.png", np.zeros((8, 9), np.int64))
    dataset = open_dataset(tmp_path)
    assert [item.case_id for item in dataset.items] == ["benign (1)", "normal (1)"]
    assert [case.mask.sum().item() for case in dataset] == [10, 0]
    assert dataset.items[0].columns == {"folder": "benign"}


def test_masks_that_disagree_are_not_united(tmp_path):
    save(tmp_path / "x.png", picture())
    save(tmp_path / "x_mask.png", labels_picture(value=1))
    save(tmp_path / "x_mask_1.png", labels_picture(value=2))
    (tmp_path / "labels.json").write_text('{"a": 1, "b": 2}')
    with pytest.raises(AugmintError, match="masks disagree at 9 pixels"):
        list(open_dataset(tmp_path))


@pytest.mark.parametrize("suffix", ["_mask", "_seg", "_gt"])
def test_suffixed_masks_beside_their_images(tmp_path, suffix):
    for name in ("patient001_frame01", "patient001_frame12", "patient002_frame01"):
        folder = tmp_path / name.split("_")[0]
        save(folder / f"{name}.nii.gz", picture(shape=(8, 9, 3)))
        save(folder / f"{name}{suffix}.nii.gz", labels_picture((8, 9, 3)))
    save(tmp_path / "patient001" / "patient001_4d.nii.gz", picture(shape=(8, 9, 3)))
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 3
    assert dataset.patients == ("patient001", "patient002")
    assert all(case.mask.max() == 3 for case in dataset)


def test_a_mask_without_an_image_is_named(tmp_path):
    save(tmp_path / "images" / "x.png", picture())
    save(tmp_path / "masks" / "x.png", labels_picture(value=1))
    save(tmp_path / "masks" / "z.png", labels_picture(value=1))
    with pytest.raises(AugmintError, match=r"no image for the mask\(s\) z\.png"):
        open_dataset(tmp_path)


def test_equal_stems_in_subfolders_are_told_apart(tmp_path):
    for folder in ("a", "b"):
        save(tmp_path / "images" / folder / "x.png", picture())
        save(tmp_path / "masks" / folder / "x.png", labels_picture(value=1))
    dataset = open_dataset(tmp_path)
    assert [item.case_id for item in dataset.items] == ["a_x", "b_x"]
    save(tmp_path / "images" / "a" / "x.tif", picture())
    with pytest.raises(AugmintError, match="two images share the stem of x"):
        open_dataset(tmp_path)


def make_decathlon(root, **extra):
    for name in ("hippocampus_001", "hippocampus_002"):
        save(root / "imagesTr" / f"{name}.nii.gz", picture(shape=(5, 6, 7)))
        save(root / "labelsTr" / f"{name}.nii.gz", labels_picture((5, 6, 7), value=2))
    entries = [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name in ("hippocampus_002", "hippocampus_001")
    ]
    content = {
        "name": "Hippocampus",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "training": entries,
        "test": ["./imagesTs/hippocampus_009.nii.gz"],
        **extra,
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def test_decathlon_by_folder_or_json(tmp_path):
    root = make_decathlon(tmp_path / "Task04", license="CC-BY-SA 4.0")
    for path in (root, root / "dataset.json"):
        dataset = open_dataset(path)
        assert (dataset.layout, dataset.name) == ("decathlon", "Hippocampus")
        assert dataset.labels == {"background": 0, "Anterior": 1, "Posterior": 2}
        assert dataset.licence == "CC-BY-SA 4.0"
        assert dataset.modality == "MR"
        assert dataset.patients == ("hippocampus_001", "hippocampus_002")
        assert next(iter(dataset)).mask.max() == 2
    test = open_dataset(root, split="test")
    assert [item.case_id for item in test.items] == ["hippocampus_009"]
    with pytest.raises(AugmintError, match="no such file"):
        list(test)


def test_datalist_with_folds_patients_and_channels(tmp_path):
    entries = []
    for number in range(3):
        folder = tmp_path / f"p{number}"
        for file in ("t1.png", "t2.png"):
            save(folder / file, picture(number))
        save(folder / "seg.png", labels_picture(value=1))
        entries.append(
            {
                "image": [f"p{number}/t1.png", f"p{number}/t2.png"],
                "label": f"p{number}/seg.png",
                "fold": number % 2,
                "patient": f"P{number // 2}",
                "domain": "centre1",
            }
        )
    del entries[2]["label"]
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"training": entries, "modality": {"0": "T1", "1": "T2"}}))
    for source in (tmp_path, path):
        dataset = open_dataset(source)
        assert dataset.layout == "datalist"
        assert [item.case_id for item in dataset.items] == ["p0_t1", "p1_t1", "p2_t1"]
        assert [item.columns["fold"] for item in dataset.items] == ["0", "1", "0"]
        assert dataset.patients == ("P0", "P1")
        assert dataset.domains == ("centre1",)
        cases = list(dataset)
        assert cases[0].image.shape == (2, 8, 9)
        assert cases[2].mask is None


def test_a_datalist_may_be_a_bare_list_but_not_empty(tmp_path):
    save(tmp_path / "x.png", picture())
    save(tmp_path / "y.png", labels_picture(value=255))
    path = tmp_path / "mine.json"
    path.write_text('[{"image": "x.png", "label": "y.png"}]')
    assert next(iter(open_dataset(path))).mask.sum() == 9
    path.write_text('[{"picture": "x.png"}]')
    with pytest.raises(AugmintError, match="entry 0 has no `image`"):
        open_dataset(path)
    path.write_text('{"training": []}')
    with pytest.raises(AugmintError, match="no list of cases under `training`"):
        open_dataset(path)


def make_bids(root, *, sessions=("",), suffixes=("T1w",)):
    for subject in ("sub-01", "sub-02"):
        for session in sessions:
            inside = [subject] + ([session] if session else [])
            stem = "_".join(inside)
            for suffix in suffixes:
                folder = root.joinpath(*inside, "anat")
                save(folder / f"{stem}_{suffix}.nii.gz", picture(shape=(5, 6, 7)))
            derived = root.joinpath("derivatives", "manual", *inside, "anat")
            save(derived / f"{stem}_space-orig_dseg.nii.gz", labels_picture((5, 6, 7), value=17))
    (root / "dataset_description.json").write_text('{"Name": "Brains", "License": "CC0"}')
    (root / "derivatives" / "manual" / "dseg.tsv").write_text(
        "index\tname\n0\tBackground\n17\thippocampus\n"
    )
    return root


@pytest.mark.parametrize("sessions", [("",), ("ses-1", "ses-2")])
def test_bids_pairs_images_with_their_segmentations(tmp_path, sessions):
    dataset = open_dataset(make_bids(tmp_path, sessions=sessions))
    assert (dataset.layout, dataset.name, dataset.licence) == ("bids", "Brains", "CC0")
    assert len(dataset) == 2 * len(sessions)
    assert dataset.patients == ("sub-01", "sub-02")
    assert "sub-*" in dataset.patient_rule
    assert dataset.labels == {"background": 0, "hippocampus": 1}
    assert dataset.modality == "MR"
    assert [item.columns["session"] for item in dataset.items[: len(sessions)]] == [
        session.removeprefix("ses-") for session in sessions
    ]
    assert all(case.mask.max() == 1 for case in dataset)


def test_bids_refuses_to_guess_between_images(tmp_path):
    make_bids(tmp_path, suffixes=("T1w", "T2w"))
    with pytest.raises(AugmintError, match=r"fits .*T1w.*T2w.*datalist\.json"):
        open_dataset(tmp_path)


def test_bids_refuses_two_segmentations_of_one_image(tmp_path):
    make_bids(tmp_path)
    other = tmp_path / "derivatives" / "auto" / "sub-01" / "anat" / "sub-01_dseg.nii.gz"
    save(other, labels_picture((5, 6, 7), value=17))
    with pytest.raises(AugmintError, match="two segmentations"):
        open_dataset(tmp_path)


def test_select_keeps_what_is_in_all_of_the_selections(tmp_path):
    names = [f"patient000{p}_{view}_ED" for p in (1, 2) for view in ("2CH", "4CH")]
    dataset = open_dataset(make_nnunet(tmp_path / "D", names))
    assert dataset.domains == ("2CH", "4CH")
    part = dataset.select(patients=["patient0001"], domains={"4CH"})
    assert isinstance(part, Dataset)
    assert [item.case_id for item in part.items] == ["patient0001_4CH_ED"]
    assert part.domains == ("4CH",)
    assert len(dataset.select(cases=names[:3])) == 3
    with pytest.raises(AugmintError, match="no patient named patient0009"):
        dataset.select(patients=["patient0001", "patient0009"])
    with pytest.raises(AugmintError, match="no domain named A4C"):
        dataset.select(domains=["A4C"])
    with pytest.raises(AugmintError, match="no case named x"):
        dataset.select(cases=["x"])
    with pytest.raises(AugmintError, match="leaves no case"):
        part.select(cases=[])


@pytest.mark.parametrize(
    ("names", "modality"),
    [
        (["cineMRI"], "MR"),
        (["MRI"], "MR"),
        (["T1w"], "MR"),
        (["FLAIR", "T2"], "MR"),
        (["CT"], "CT"),
        (["ultrasound"], "ultrasound"),
        (["US"], "ultrasound"),
        (["CT", "MRI"], ""),
        (["picture"], ""),
        (["R", "G", "B"], ""),
        ([], ""),
    ],
)
def test_modality_is_read_from_channel_names(names, modality):
    assert modality_of(names) == modality


@pytest.mark.parametrize(
    ("folder", "items", "patients"),
    [
        ("Dataset027_ACDC", 160, 80),
        ("Dataset050_CAMUS", 1600, 400),
        ("Dataset060_Sunnybrook", 228, 25),
        ("Dataset004_Hippocampus", 50, 50),
    ],
)
def test_real_datasets_have_their_documented_size(real_data, folder, items, patients):
    dataset = open_dataset(real_data / folder)
    assert (len(dataset), len(dataset.patients)) == (items, patients)
    case = dataset.load(dataset.items[0])
    assert case.image.min() == -1
    assert case.image.max() == 1
    assert case.mask.any()


def test_real_acdc_disowns_its_spacing(real_data):
    dataset = open_dataset(real_data / "Dataset027_ACDC")
    case = dataset.load(dataset.items[0])
    assert dataset.modality == "MR"
    assert case.dims == 3
    assert not case.grid.spacing_known
    assert len(list(case.slices())) == case.grid.shape[2] < 30


def test_real_camus_has_two_views_per_patient(real_data):
    dataset = open_dataset(real_data / "Dataset050_CAMUS")
    assert dataset.domains == ("2CH", "4CH")
    assert dataset.modality == "ultrasound"
    assert len(dataset.select(domains=["4CH"])) == 800
    assert {item.columns["phase"] for item in dataset.items} == {"ED", "ES"}
    case = dataset.load(dataset.items[0])
    stored = images_module.read_image(dataset.items[0].images)[0]
    assert (case.image[0].numpy()[stored[0] == 0] == -1).all()


def test_real_sunnybrook_annotates_two_of_three_labels(real_data):
    dataset = open_dataset(real_data / "Dataset060_Sunnybrook")
    assert {name for name, i in dataset.labels.items() if i in dataset.annotated} == {"MYO", "LV"}


def test_real_hippocampus_has_volumes_with_a_spacing(real_data):
    dataset = open_dataset(real_data / "Dataset004_Hippocampus")
    case = dataset.load(dataset.items[0])
    assert case.dims == 3
    assert case.grid.spacing_known
    assert np.allclose(case.grid.affine, nibabel.load(dataset.items[0].images[0]).affine)


def test_real_native_camus_opens_by_its_suffixes(real_data, tmp_path):
    native = real_data / "camus_native"
    for path in native.rglob("*_ED*"):
        target = tmp_path / path.relative_to(native)
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(path)
    (tmp_path / "labels.json").write_text('{"LV": 1, "MYO": 2, "LA": 3}')
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 4
    assert dataset.patients == ("patient0001", "patient0002")
    assert all(ending_of(item.images[0]) == ".mhd" for item in dataset.items)
    assert dataset.load(dataset.items[0]).mask.max() == 3


def write_datalist(folder, entries):
    folder.mkdir(exist_ok=True)
    path = folder / "mine.json"
    path.write_text(json.dumps(entries))
    return path


def test_equal_stems_outside_the_datalist_are_told_apart(tmp_path):
    entries = []
    for folder in (".a", "b"):
        save(tmp_path / folder / "img.png", picture())
        save(tmp_path / folder / "seg.png", labels_picture(value=255))
        entries.append({"image": f"../{folder}/img.png", "label": f"../{folder}/seg.png"})
    dataset = open_dataset(write_datalist(tmp_path / "lists", entries))
    assert [item.case_id for item in dataset.items] == ["a_img", "b_img"]


def test_one_name_for_two_cases_is_refused(tmp_path):
    save(tmp_path / "x.png", picture())
    path = write_datalist(tmp_path, [{"image": "x.png"}, {"image": "x.png"}])
    with pytest.raises(AugmintError, match="several cases are named x"):
        open_dataset(path)


def write_splits(root, training, validation, **row):
    """A datalist of those case names in each split, each with files of its own."""
    lists = {"training": training, "validation": validation}
    content = {}
    for split, names in lists.items():
        content[split] = []
        for name in names:
            save(root / split / f"{name}.png", picture())
            save(root / split / f"{name}_seg.png", labels_picture(value=255))
            entry = {"image": f"{split}/{name}.png", "label": f"{split}/{name}_seg.png"}
            content[split].append({**entry, **row})
    (root / "datalist.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize("split", ["train", "validation"])
@pytest.mark.parametrize(
    ("row", "regex", "patient"),
    [({"patient": "P7"}, None, "P7"), ({}, None, "patient001"), ({}, r"(\d+)_", "001")],
)
def test_a_patient_in_two_splits_of_a_datalist_is_a_leak(tmp_path, row, regex, patient, split):
    write_splits(tmp_path, ["patient001_ED", "patient002_ED"], ["patient001_ES"], **row)
    with pytest.raises(AugmintError, match=rf"leak: patient {patient} .*\.png in the .* split"):
        open_dataset(tmp_path, patient_regex=regex, split=split)


def test_an_image_in_two_splits_of_a_datalist_is_a_leak(tmp_path):
    save(tmp_path / "x.png", picture())
    save(tmp_path / "z.png", picture())
    lists = {"training": [{"image": "x.png"}, {"image": "z.png"}], "val": [{"image": "./x.png"}]}
    (tmp_path / "datalist.json").write_text(json.dumps(lists))
    with pytest.raises(AugmintError, match=r"leak: patient x .*x\.png in the validation split"):
        open_dataset(tmp_path)


def test_equal_case_names_in_two_splits_prove_nothing(tmp_path):
    dataset = open_dataset(write_splits(tmp_path, ["a", "b"], ["a"]))
    assert dataset.left_out == {"validation": 1}
    assert open_dataset(tmp_path, split="validation").left_out == {"train": 2}


def test_how_a_dataset_was_opened_is_on_record(tmp_path):
    root = make_nnunet(tmp_path / "D", ["a_001", "b_001"])
    dataset = open_dataset(root, patient_regex="^[ab]", label_map={"LV": "x"})
    assert (dataset.patient_regex, dataset.label_map) == ("^[ab]", {"LV": "x"})


def test_unknown_names_are_answered_with_the_known_ones(tmp_path):
    dataset = open_dataset(make_nnunet(tmp_path / "D", ["a_001", "b_001"]))
    with pytest.raises(AugmintError, match="no patient named nobody; choose from a_001, b_001"):
        dataset.select(patients=["nobody"])
    with pytest.raises(AugmintError, match="no domain named X; choose from none"):
        dataset.select(domains=["X"])
    with pytest.raises(AugmintError, match="nowhere: no such folder or JSON file; check"):
        open_dataset(tmp_path / "nowhere")


def test_a_mere_folder_of_images_is_a_dataset_where_masks_are_not_needed(tmp_path):
    for place in ("b/patient002_frame01", "b/patient002_frame02", "a/patient001_frame01"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        save(tmp_path / f"{place}.nii.gz", picture(shape=(8, 9, 3)))
    save(tmp_path / ".hidden.nii.gz", picture(shape=(8, 9, 3)))
    with pytest.raises(AugmintError, match="not a dataset"):
        open_dataset(tmp_path)
    dataset = open_dataset(tmp_path, bare=True)
    assert (dataset.layout, dataset.file_ending) == ("images", ".nii.gz")
    names = ["patient001_frame01", "patient002_frame01", "patient002_frame02"]
    assert [i.case_id for i in dataset.items] == names
    assert dataset.patients == ("patient001", "patient002")
    assert [i.columns["folder"] for i in dataset.items] == ["a", "b", "b"]
    assert all(case.mask is None for case in dataset)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AugmintError, match="not a dataset"):
        open_dataset(tmp_path / "empty", bare=True)


def test_a_labelled_dataset_is_none_of_images_alone(tmp_path):
    root = make_nnunet(tmp_path / "D", ["a_001"])
    assert open_dataset(root, bare=True) == open_dataset(root)


def test_numbered_files_of_a_mere_folder_are_channels(tmp_path):
    for name in ("a_001", "b_001"):
        for channel in (1, 0):
            save(tmp_path / f"{name}_{channel:04d}.png", picture(channel))
    dataset = open_dataset(tmp_path, bare=True)
    assert [i.case_id for i in dataset.items] == ["a_001", "b_001"]
    for item in dataset.items:
        assert [p.name[-8:-4] for p in item.images] == ["0000", "0001"]
    save(tmp_path / "c_001_0000.png", picture())
    # One that lacks a channel shows that the numbers mean something else.
    assert len(open_dataset(tmp_path, bare=True)) == 5


def test_numbers_of_patients_are_no_channels(tmp_path):
    for number in (1, 2, 3):
        save(tmp_path / f"patient_{number:04d}.png", picture(number))
    dataset = open_dataset(tmp_path, bare=True)
    assert [len(i.images) for i in dataset.items] == [1, 1, 1]


def test_one_stem_in_two_formats_is_refused(tmp_path):
    save(tmp_path / "a.png", picture())
    save(tmp_path / "a.nii.gz", picture())
    with pytest.raises(AugmintError, match="two images share the stem of a; keep one format"):
        open_dataset(tmp_path, bare=True)


def test_stems_that_collide_are_told_apart_by_their_folders(tmp_path):
    for folder in ("p1", "p2"):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder / "image.png", picture())
    dataset = open_dataset(tmp_path, bare=True)
    assert [i.case_id for i in dataset.items] == ["p1_image", "p2_image"]
