import gzip
import re

import nibabel
import numpy as np
import pytest
import SimpleITK

from augmint.case import Grid
from augmint.data.images import (
    ending_of,
    keep_header,
    read_affine,
    read_image,
    read_mask,
    stem_of,
    write_image,
    write_mask,
)
from augmint.errors import AugmintError

OBLIQUE = np.array(
    [[0.0, -1.5, 0.0, 10], [1.2, 0.0, 0.0, -20], [0.0, 0.0, 8.0, 3.5], [0, 0, 0, 1.0]]
)
SHEARED = np.array([[1.2, 0.1, 0.0, 5], [0.0, 1.5, 0.2, 6], [0.0, 0.0, 8.0, 7], [0, 0, 0, 1.0]])


def noise(shape, dtype, seed=0):
    generator = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return generator.normal(size=shape).astype(dtype)
    info = np.iinfo(dtype)
    return generator.integers(info.min, info.max, size=shape, dtype=dtype, endpoint=True)


def grid_for(shape, affine=None):
    affine = np.eye(len(shape) + 1) if affine is None else affine
    return Grid(tuple(shape), affine, True)


@pytest.mark.parametrize("affine", [OBLIQUE, SHEARED], ids=["oblique", "sheared"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mhd", ".mha"])
def test_volumes_round_trip_with_their_affine(tmp_path, ending, dtype, affine):
    array = noise((1, 4, 5, 6), dtype)
    path = tmp_path / f"case{ending}"
    write_image(path, array, grid_for((4, 5, 6), affine))
    again, again_affine, known = read_image(path)
    assert again.dtype == array.dtype
    assert np.array_equal(again, array)
    assert np.allclose(again_affine, affine, atol=1e-4)
    assert np.allclose(read_affine(path), affine, atol=1e-4)
    assert known
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("ending", [".nii.gz", ".mha"])
def test_channels_of_a_volume_round_trip(tmp_path, ending):
    array = noise((3, 4, 5, 6), "int16")
    write_image(tmp_path / f"a{ending}", array, grid_for((4, 5, 6), OBLIQUE))
    assert np.array_equal(read_image(tmp_path / f"a{ending}")[0], array)


@pytest.mark.parametrize("ending", [".nii.gz", ".mhd"])
def test_planes_of_medical_formats_round_trip(tmp_path, ending):
    array = noise((1, 4, 5), "uint8")
    affine = np.array([[0.3, 0, 1], [0, 0.15, 2], [0, 0, 1]])
    write_image(tmp_path / f"a{ending}", array, grid_for((4, 5), affine))
    again, again_affine, known = read_image(tmp_path / f"a{ending}")
    assert np.array_equal(again, array)
    assert np.allclose(again_affine, affine)
    assert known


@pytest.mark.parametrize(
    ("ending", "channels", "dtype"),
    [
        (".png", 1, "uint8"),
        (".png", 1, "uint16"),
        (".png", 3, "uint8"),
        (".tif", 1, "uint8"),
        (".tif", 1, "uint16"),
        (".tif", 1, "float32"),
        (".tif", 3, "uint8"),
        (".tif", 3, "uint16"),
        (".tif", 5, "uint16"),
        (".tiff", 2, "float32"),
    ],
)
def test_planes_of_picture_formats_round_trip(tmp_path, ending, channels, dtype):
    array = noise((channels, 6, 7), dtype)
    write_image(tmp_path / f"a{ending}", array, grid_for((6, 7)))
    again, affine, known = read_image(tmp_path / f"a{ending}")
    assert again.dtype == array.dtype
    assert np.array_equal(again, array)
    assert not known
    assert np.array_equal(affine, np.eye(3))


@pytest.mark.parametrize("slices", [1, 3, 4, 6])
def test_a_tiff_stack_has_its_slices_last(tmp_path, slices):
    array = noise((1, 6, 7, slices), "uint8")
    write_image(tmp_path / "a.tif", array, grid_for((6, 7, slices)))
    assert np.array_equal(read_image(tmp_path / "a.tif")[0], array)


def test_singleton_fourth_axis_is_dropped_and_one_slice_stays_a_volume(tmp_path):
    import nibabel

    nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 6, 1), np.uint8), OBLIQUE), tmp_path / "a.nii")
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 5, 1), np.uint8), OBLIQUE), tmp_path / "b.nii")
    assert read_image(tmp_path / "a.nii")[0].shape == (1, 4, 5, 6)
    assert read_image(tmp_path / "b.nii")[0].shape == (1, 4, 5, 1)


def test_big_endian_and_scaled_nifti_give_true_values(tmp_path):
    import nibabel

    header = nibabel.Nifti1Header(endianness=">")
    header.set_data_dtype(">i2")
    image = nibabel.Nifti1Image(np.arange(60, dtype=">i2").reshape(3, 4, 5), np.eye(4), header)
    image.to_filename(tmp_path / "big.nii")
    array = read_image(tmp_path / "big.nii")[0]
    assert array.dtype == np.dtype("int16")
    assert array.dtype.isnative
    assert array[0, 2, 3, 4] == 59
    scaled = nibabel.Nifti1Image(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    scaled.header.set_slope_inter(0.5, -10.0)
    scaled.to_filename(tmp_path / "scaled.nii")
    assert nibabel.load(tmp_path / "scaled.nii").dataobj.slope == 0.5
    assert np.array_equal(read_image(tmp_path / "scaled.nii")[0], 0.5 * array - 10)


@pytest.mark.parametrize("ending", [".png", ".tif", ".nii.gz", ".mha"])
def test_a_plane_runs_rows_then_columns_in_every_format(tmp_path, ending):
    import nibabel
    import SimpleITK as sitk  # noqa: N813
    import tifffile
    from PIL import Image

    picture = noise((6, 9), "uint8")  # rows, columns
    path = tmp_path / f"a{ending}"
    if ending == ".png":
        Image.fromarray(picture).save(path)
    elif ending == ".tif":
        tifffile.imwrite(path, picture)
    elif ending == ".nii.gz":
        # NIfTI stores x, which runs along a row, first.
        nibabel.save(nibabel.Nifti1Image(picture.T, np.diag([0.3, 0.7, 1.0, 1.0])), path)
    else:
        image = sitk.GetImageFromArray(picture)
        image.SetSpacing([0.3, 0.7])
        sitk.WriteImage(image, str(path))
    array, affine, known = read_image(path)
    assert np.array_equal(array[0], picture)
    grid = Grid(array.shape[1:], affine, known)
    if known:
        assert grid.spacing == pytest.approx((0.7, 0.3))
    write_image(tmp_path / f"b{ending}", array, grid)
    again, affine_again, _ = read_image(tmp_path / f"b{ending}")
    assert np.array_equal(again, array)
    np.testing.assert_allclose(affine_again, affine, atol=1e-6)
    if ending == ".nii.gz":
        assert nibabel.load(tmp_path / f"b{ending}").shape == (9, 6)
    if ending == ".mha":
        back = sitk.ReadImage(str(tmp_path / f"b{ending}"))
        assert back.GetSize() == (9, 6)
        assert back.GetSpacing() == pytest.approx((0.3, 0.7))


def test_oblique_plane_keeps_its_spacing(tmp_path):
    import nibabel

    affine = np.array([[0, 0, 1, 0], [0.5, 0, 0, 0], [0, 2.0, 0, 0], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 5), np.uint8), affine), tmp_path / "a.nii")
    _, plane, _ = read_image(tmp_path / "a.nii")
    # x runs along the columns of a plane.
    assert Grid((5, 4), plane, True).spacing == pytest.approx((2.0, 0.5))


def test_grey_stored_as_colour_is_one_channel_unless_three_are_expected(tmp_path):
    from PIL import Image

    grey = noise((6, 7), "uint8")
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png")[0], grey[None])
    assert read_image(tmp_path / "a.png", channels=3)[0].shape == (3, 6, 7)
    Image.fromarray(grey).convert("RGBA").save(tmp_path / "b.png")
    assert np.array_equal(read_image(tmp_path / "b.png")[0], grey[None])


def test_true_colour_is_three_channels(tmp_path):
    from PIL import Image

    colour = noise((6, 7, 3), "uint8")
    Image.fromarray(colour).save(tmp_path / "a.bmp")
    assert np.array_equal(read_image(tmp_path / "a.bmp")[0], np.moveaxis(colour, -1, 0))


def test_jpeg_is_read_and_never_written(tmp_path):
    from PIL import Image

    Image.fromarray(np.full((8, 9), 100, np.uint8)).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg")[0].shape == (1, 8, 9)
    with pytest.raises(AugmintError, match="cannot be written without loss"):
        write_image(tmp_path / "b.jpg", np.zeros((1, 8, 9), np.uint8), grid_for((8, 9)))


def test_transparency_is_refused(tmp_path):
    from PIL import Image

    pixels = np.full((6, 7, 4), 128, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.raises(AugmintError, match="alpha channel is not opaque"):
        read_image(tmp_path / "a.png")


def test_one_file_per_channel(tmp_path):
    first, second = noise((1, 4, 5, 6), "int16"), noise((1, 4, 5, 6), "int16", seed=1)
    paths = [tmp_path / "a_0000.nii.gz", tmp_path / "a_0001.nii.gz"]
    for path, array in zip(paths, (first, second)):
        write_image(path, array, grid_for((4, 5, 6), OBLIQUE))
    assert np.array_equal(read_image(paths)[0], np.concatenate([first, second]))
    with pytest.raises(AugmintError, match=r"1 channel\(s\) where the dataset names 2"):
        read_image(paths[:1], channels=2)


def test_channels_on_other_grids_are_refused(tmp_path):
    write_image(tmp_path / "a.nii", noise((1, 4, 5, 6), "uint8"), grid_for((4, 5, 6)))
    write_image(tmp_path / "b.nii", noise((1, 4, 5, 7), "uint8"), grid_for((4, 5, 7)))
    write_image(tmp_path / "c.nii", noise((1, 4, 5, 6), "uint8"), grid_for((4, 5, 6), OBLIQUE))
    with pytest.raises(AugmintError, match=r"shape .*differs.*resample"):
        read_image([tmp_path / "a.nii", tmp_path / "b.nii"])
    with pytest.raises(AugmintError, match="affine differs"):
        read_image([tmp_path / "a.nii", tmp_path / "c.nii"])


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".mha", ".png", ".tif"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.6])
def test_truncated_files_are_named(tmp_path, ending, kept):
    shape = (32, 33, 4) if ending in (".nii.gz", ".nii", ".mha") else (64, 65)
    path = tmp_path / f"case{ending}"
    write_image(path, noise((1, *shape), "uint8"), grid_for(shape))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(AugmintError, match=rf"{re.escape(str(path))}: unreadable or truncated"):
        read_image(path)


def test_a_header_without_its_pixels_is_unreadable(tmp_path):
    path = tmp_path / "a.mhd"
    path.write_text(
        "ObjectType = Image\nNDims = 2\nDimSize = 4 5\nElementType = MET_UCHAR\n"
        "ElementDataFile = gone.raw\n"
    )
    with pytest.raises(AugmintError, match="unreadable or truncated"):
        read_image(path)


def test_missing_and_unknown_files_are_named(tmp_path):
    with pytest.raises(AugmintError, match="no such file"):
        read_image(tmp_path / "a.png")
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(AugmintError, match="unknown format"):
        read_image(tmp_path / "a.xyz")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path, bad):
    array = noise((1, 4, 5, 6), "float32")
    array[0, 1, 2, 3] = bad
    write_image(tmp_path / "a.nii.gz", array, grid_for((4, 5, 6)))
    with pytest.raises(AugmintError, match="1 of 120 values are NaN or infinite"):
        read_image(tmp_path / "a.nii.gz")


def test_an_affine_without_inverse_is_refused(tmp_path):
    import nibabel

    image = nibabel.Nifti1Image(np.ones((4, 5, 6), np.uint8), None)
    image.header.set_sform(np.diag([1.0, 0, 1, 1]), code=1)
    image.to_filename(tmp_path / "a.nii")
    with pytest.raises(AugmintError, match="affine cannot be inverted"):
        read_image(tmp_path / "a.nii")


@pytest.mark.parametrize("ending", [".nii.gz", ".mha", ".tif", ".png"])
@pytest.mark.parametrize("top", [3, 300])
def test_masks_round_trip(tmp_path, ending, top):
    mask = np.zeros((6, 7), np.int64)
    mask[2:4, 3:5] = top
    write_mask(tmp_path / f"a{ending}", mask, grid_for((6, 7)))
    again, _, _ = read_mask(tmp_path / f"a{ending}")
    assert again.dtype == np.int64
    assert np.array_equal(again, mask)


def test_mask_in_colour_is_refused_unless_its_channels_agree(tmp_path):
    from PIL import Image

    mask = np.zeros((6, 7, 3), np.uint8)
    mask[2:4] = 1
    Image.fromarray(mask).save(tmp_path / "grey.png")
    assert read_mask(tmp_path / "grey.png")[0].sum() == 14
    mask[3, 3] = (1, 2, 3)
    Image.fromarray(mask).save(tmp_path / "colour.png")
    with pytest.raises(AugmintError, match="one channel, got 3; store one integer per class"):
        read_mask(tmp_path / "colour.png")


def test_a_palette_only_colours_a_mask(tmp_path):
    from PIL import Image

    labels = np.array([[0, 1], [2, 3]], np.uint8)
    image = Image.fromarray(labels).convert("P")
    image.putdata(labels.ravel().tolist())
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_mask(tmp_path / "a.png")[0], labels)


def test_mask_of_fractions_is_refused(tmp_path):
    array = np.zeros((1, 4, 5, 6), np.float32)
    array[0, 1, 2, 3] = 0.5
    write_image(tmp_path / "a.nii.gz", array, grid_for((4, 5, 6)))
    with pytest.raises(AugmintError, match=r"whole numbers, got values such as 0\.5"):
        read_mask(tmp_path / "a.nii.gz")
    array[0, 1, 2, 3] = 2
    write_image(tmp_path / "a.nii.gz", array, grid_for((4, 5, 6)))
    assert read_mask(tmp_path / "a.nii.gz")[0].max() == 2


@pytest.mark.parametrize("value", [-1, 65536, 0.5])
def test_masks_that_would_change_are_not_written(tmp_path, value):
    with pytest.raises(AugmintError, match="whole numbers from 0 to 65535"):
        write_mask(tmp_path / "a.png", np.full((4, 5), value), grid_for((4, 5)))


def test_png_refuses_what_it_would_change(tmp_path):
    with pytest.raises(AugmintError, match=r"PNG holds.*float32.*write \.tif"):
        write_image(tmp_path / "a.png", noise((1, 4, 5), "float32"), grid_for((4, 5)))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    path = tmp_path / "a.nii.gz"
    first = noise((1, 4, 5, 6), "uint8")
    write_image(path, first, grid_for((4, 5, 6)))

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("augmint.data.images.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_image(path, noise((1, 4, 5, 6), "uint8", 1), grid_for((4, 5, 6)))
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]
    assert np.array_equal(read_image(path)[0], first)


@pytest.mark.parametrize("ending", [".nii.gz", ".mhd", ".png", ".tif"])
def test_the_same_array_gives_the_same_bytes(tmp_path, ending):
    array = noise((1, 6, 7), "uint8")
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}{ending}", array, grid_for((6, 7)))
    assert (tmp_path / f"a{ending}").read_bytes() == (tmp_path / f"b{ending}").read_bytes()


def test_an_array_off_its_grid_is_not_written(tmp_path):
    with pytest.raises(AugmintError, match="does not lie on the grid"):
        write_image(tmp_path / "a.png", noise((6, 7), "uint8"), grid_for((6, 7)))


def test_double_endings_are_one():
    from pathlib import Path

    assert ending_of(Path("a.b.NII.GZ")) == ".nii.gz"
    assert stem_of(Path("a.b.nii.gz")) == "a.b"
    assert stem_of(Path("benign (1).png")) == "benign (1)"
    assert ending_of(Path("a.csv")) == ""


def test_gzip_of_garbage_is_unreadable(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(b"not an image"))
    with pytest.raises(AugmintError, match="unreadable or truncated"):
        read_image(tmp_path / "a.nii.gz")


def test_native_camus_is_readable_with_its_anisotropic_spacing(real_data):
    folder = real_data / "camus_native" / "patient0001"
    array, affine, known = read_image(folder / "patient0001_2CH_ED.mhd")
    mask, mask_affine, _ = read_mask(folder / "patient0001_2CH_ED_gt.mhd")
    assert array.shape == (1, 549, 778, 1)
    assert known
    assert Grid(array.shape[1:], affine, known).spacing == pytest.approx((0.308, 0.154, 1.54))
    assert mask.shape == array.shape[1:]
    assert set(np.unique(mask)) == {0, 1, 2, 3}
    assert np.allclose(affine, mask_affine)
    raw = np.fromfile(folder / "patient0001_2CH_ED.raw", np.uint8).reshape(778, 549)
    assert np.array_equal(array[0, :, :, 0], raw.T)


# --- Frames of 4-D files -----------------------------------------------------------------------


def cine(path, shape=(4, 5, 3, 6), dtype="int16", slope=None):
    """A 4-D file as nibabel writes it."""
    array = noise(shape, dtype)
    image = nibabel.Nifti1Image(array, OBLIQUE)
    if slope is not None:
        image.header.set_slope_inter(slope, 10)
    nibabel.save(image, path)
    return np.asanyarray(nibabel.load(path).dataobj)


@pytest.mark.parametrize("slope", [None, 0.5])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_one_frame_of_a_cine_is_a_volume(tmp_path, ending, slope):
    path = tmp_path / f"a{ending}"
    array = cine(path, slope=slope)
    for frame in range(6):
        stored, affine, known = read_image(path, channels=1, frame=frame)
        assert np.array_equal(stored, array[None, ..., frame])
        assert stored.dtype == array.dtype
        assert np.allclose(affine, OBLIQUE)
        assert known
    # Without a frame the fourth axis stays what it was: channels.
    assert read_image(path)[0].shape == (6, 4, 5, 3)


def test_one_frame_of_a_mask_is_a_mask(tmp_path):
    array = cine(tmp_path / "m.nii.gz", dtype="uint8")
    mask, _, _ = read_mask(tmp_path / "m.nii.gz", frame=4)
    assert np.array_equal(mask, array[..., 4])
    assert mask.dtype == np.int64
    with pytest.raises(AugmintError, match="one channel, got 6"):
        read_mask(tmp_path / "m.nii.gz")


def test_reading_a_frame_leaves_the_others_on_the_disk(tmp_path):
    """Frames before a torn end can be read, so nothing behind them was touched."""
    path = tmp_path / "a.nii"
    array = cine(path)
    path.write_bytes(path.read_bytes()[:-10])
    assert np.array_equal(read_image(path, frame=4)[0][0], array[..., 4])
    for frame in (5, None):
        with pytest.raises(AugmintError, match="unreadable or truncated"):
            read_image(path, frame=frame)


@pytest.mark.parametrize("frame", [-1, 6])
def test_a_frame_that_is_not_there_is_named(tmp_path, frame):
    cine(tmp_path / "a.nii.gz")
    with pytest.raises(AugmintError, match=rf"no frame {frame}, its 6 frames count from 0"):
        read_image(tmp_path / "a.nii.gz", frame=frame)


def test_files_without_frames_are_refused_where_one_is_asked_for(tmp_path):
    write_image(tmp_path / "a.nii.gz", noise((1, 4, 5, 6), "int16"), grid_for((4, 5, 6)))
    with pytest.raises(AugmintError, match=r"shape \(4, 5, 6\) holds no frames"):
        read_image(tmp_path / "a.nii.gz", frame=0)
    write_image(tmp_path / "a.mha", noise((1, 4, 5, 6), "int16"), grid_for((4, 5, 6)))
    with pytest.raises(AugmintError, match="frames are read of 4-D NIfTI files alone"):
        read_mask(tmp_path / "a.mha", frame=0)


def test_itk_reads_sheared_axes_by_the_nearest_rotation(tmp_path):
    """ITK refuses a NIfTI file whose only axes are not orthogonal, and nnU-Net reads through it."""
    path = tmp_path / "a.nii.gz"
    write_image(path, noise((1, 4, 5, 6), "int16"), grid_for((4, 5, 6), SHEARED))
    read = SimpleITK.ReadImage(str(path))
    spacing = np.linalg.norm(SHEARED[:3, :3], axis=0)
    assert read.GetSpacing() == pytest.approx(spacing, rel=1e-5)
    axes = np.reshape(read.GetDirection(), (3, 3))
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-4)
    assert np.allclose(np.diag([-1, -1, 1]) @ axes, SHEARED[:3, :3] / spacing, atol=0.1)
    write_image(path, noise((1, 4, 5, 6), "int16"), grid_for((4, 5, 6), OBLIQUE))
    assert int(nibabel.load(path).header["qform_code"]) == 0


@pytest.mark.parametrize("dtype", ["int16", "uint8", "float32"])
@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_all_else_of_a_header_is_kept(tmp_path, ending, dtype):
    old = nibabel.Nifti1Image(noise((4, 5, 6), "int16"), None)
    old.set_sform(OBLIQUE, code=4)
    old.set_qform(OBLIQUE, code=2)
    old.header["descrip"], old.header["cal_max"] = b"scanner B", 77
    old.header["pixdim"][4:] = 2.5
    old.header.set_slope_inter(2, 7)
    nibabel.save(old, tmp_path / "old.nii.gz")
    values, new = noise((1, 4, 5, 6), dtype, seed=1), tmp_path / f"new{ending}"
    write_image(new, values, grid_for((4, 5, 6), OBLIQUE))
    keep_header(new, tmp_path / "old.nii.gz")
    found, before = nibabel.load(new), nibabel.load(tmp_path / "old.nii.gz")
    assert np.array_equal(np.asanyarray(found.dataobj), values[0])
    assert found.get_data_dtype() == np.dtype(dtype)
    assert np.array_equal(found.affine, before.affine)
    for key in ("qform_code", "sform_code", "descrip", "pixdim", "cal_max", "xyzt_units"):
        assert np.array_equal(found.header[key], before.header[key]), key
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted({new.name, "old.nii.gz"})


def test_a_header_of_another_shape_or_format_is_not_taken(tmp_path):
    for name in ("new.nii.gz", "new.png", "flat.nii.gz"):
        shape = (4, 5, 6) if name == "new.nii.gz" else (4, 5)
        write_image(tmp_path / name, noise((1, *shape), "uint8"), grid_for(shape))
    for name in ("new.png", "new.nii.gz"):
        before = (tmp_path / name).read_bytes()
        keep_header(tmp_path / name, tmp_path / "flat.nii.gz")
        assert (tmp_path / name).read_bytes() == before
