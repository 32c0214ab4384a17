"""Reading and writing one image or mask: NIfTI, MetaImage, PNG, JPEG, BMP and TIFF."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from augmint.case import Grid
from augmint.errors import AugmintError

NIFTI = (".nii.gz", ".nii")
META = (".mhd", ".mha")
TIFF = (".tif", ".tiff")
PLAIN = (".png", ".jpg", ".jpeg", ".bmp")
IMAGE_ENDINGS = NIFTI + META + TIFF + PLAIN
LOSSY = (".jpg", ".jpeg")

# Array (C, *spatial), affine, and whether the format carries a spacing.
Stored = tuple[np.ndarray, np.ndarray, bool]


def ending_of(path: Path) -> str:
    """The known image ending of a file name in lower case, or an empty string."""
    name = path.name.lower()
    return next((ending for ending in IMAGE_ENDINGS if name.endswith(ending)), "")


def stem_of(path: Path) -> str:
    """The file name without its image ending (`.nii.gz` counts as one)."""
    return path.name[: len(path.name) - len(ending_of(path))]


def read_image(
    paths: Path | Sequence[Path], *, channels: int | None = None, frame: int | None = None
) -> Stored:
    """Read one image, one file per channel or one file that holds them all.

    NIfTI and MetaImage keep their axes as stored (x, y, z) and an affine in RAS; the last axis of
    a 4-D file is its channels, and a singleton one is dropped. The arrays of PNG, JPEG and TIFF
    are (H, W), of TIFF stacks (H, W, pages). Colour files whose three channels are equal are read
    as one grey channel.

    Args:
        paths: The files, in the order of the channels.
        channels: The number of channels expected; None for as many as there are.
        frame: Read this index on the last axis of a 4-D NIfTI file alone, from 0: that axis is
            then time, and the rest of the file stays on the disk.

    Returns:
        The array (C, *spatial) in its stored type, the affine (n + 1, n + 1) for n spatial axes,
        and whether the format carries a spacing.

    Raises:
        AugmintError: if a file is missing, unreadable, truncated, empty or not finite, if it has
            no such frame, or if the files differ in shape or affine.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    if not files:
        raise AugmintError("an image needs one file at least, none was given")
    stored = [_read(path, as_mask=False, frame=frame) for path in files]
    array, affine, known = stored[0]
    for path, (other, other_affine, _) in zip(files[1:], stored[1:]):
        if other.shape != array.shape:
            raise AugmintError(
                f"{path}: shape {other.shape[1:]} differs from {array.shape[1:]} of "
                f"{files[0].name}; resample all channels of a case onto one grid"
            )
        if not np.allclose(other_affine, affine, atol=1e-2):
            raise AugmintError(
                f"{path}: its affine differs from that of {files[0].name}; resample all channels "
                "of a case onto one grid"
            )
    if len(stored) > 1:
        array = np.concatenate([entry[0] for entry in stored])
    elif array.shape[0] == 3 and channels != 3 and ending_of(files[0]) in PLAIN + TIFF:
        array = _without_copies(array)
    if channels is not None and array.shape[0] != channels:
        raise AugmintError(
            f"{files[0]}: {array.shape[0]} channel(s) where the dataset names {channels}; "
            "add the missing channel files or correct the channel names"
        )
    if array.size == 0:
        raise AugmintError(f"{files[0]}: the image is empty, its shape is {array.shape[1:]}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise AugmintError(
            f"{files[0]}: {bad} of {array.size} values are NaN or infinite; replace them"
        )
    return array, affine, known


def read_mask(path: Path, *, frame: int | None = None) -> Stored:
    """Read one mask file.

    Args:
        path: The file.
        frame: Read this index on the last axis of a 4-D NIfTI file alone, from 0.

    Returns:
        The labels (*spatial) as stored, int64; the affine; whether the format has a spacing.

    Raises:
        AugmintError: if the file is missing, unreadable, in colour, has no such frame, or holds
            non-integer values.
    """
    array, affine, known = _read(path, as_mask=True, frame=frame)
    if array.shape[0] in (2, 3, 4) and ending_of(path) in PLAIN + TIFF:
        array = _without_copies(array)
    if array.shape[0] != 1:
        raise AugmintError(
            f"{path}: a mask must have one channel, got {array.shape[0]}; store one integer per "
            "class in a single-channel file"
        )
    mask = array[0]
    if mask.dtype.kind == "f" and not (np.isfinite(mask).all() and (mask == np.round(mask)).all()):
        raise AugmintError(
            f"{path}: a mask must hold whole numbers, got values such as "
            f"{mask[~(mask == np.round(mask))][0]:g}; resample masks with nearest neighbour"
        )
    return mask.astype(np.int64), affine, known


def read_affine(path: Path) -> np.ndarray | None:
    """The affine of a file without its pixels; None where the format has none."""
    ending = ending_of(path)
    if ending in NIFTI:
        import nibabel

        header = nibabel.load(path)  # type: ignore[attr-defined]
        affine = _fit_affine(header.affine, header.ndim)  # type: ignore[attr-defined]
        return _turned(affine) if header.ndim == 2 else affine  # type: ignore[attr-defined]
    return _read(path, as_mask=True)[1] if ending in META else None


def write_image(path: Path, array: np.ndarray, grid: Grid) -> None:
    """Write an image without loss and atomically.

    Args:
        path: Its ending names the format: .nii.gz, .nii, .mhd, .mha, .png, .tif or .tiff. An .mhd
            holds its pixels itself, so that one rename completes it.
        array: (C, *spatial) in the type to store.
        grid: Its lattice; formats without a spacing drop the affine.

    Raises:
        AugmintError: if the format cannot hold the array without loss.
    """
    array = np.asarray(array)
    if array.shape[1:] != grid.shape:
        raise AugmintError(
            f"{path}: an array of shape {array.shape} does not lie on the grid {grid.shape}; "
            "give (channels, *spatial)"
        )
    if array.dtype == bool:
        array = array.astype(np.uint8)
    ending = ending_of(path)
    writers: dict[tuple[str, ...], Callable[[Path, np.ndarray, Grid], None]] = {
        NIFTI: _write_nifti,
        META: _write_meta,
        TIFF: _write_tiff,
        (".png",): _write_png,
    }
    write = next((writer for endings, writer in writers.items() if ending in endings), None)
    if write is None:
        raise AugmintError(
            f"{path}: cannot be written without loss; use .nii.gz, .mha, .mhd, .png or .tif"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = ".mha" if ending in META else ending
    temporary = path.with_name(f".{stem_of(path)}.{os.getpid()}.tmp{kept}")
    try:
        write(temporary, array, grid)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def keep_header(path: Path, source: Path) -> None:
    """Give a written NIfTI file of a source's grid and type all else that its header says.

    Other formats keep nothing beside the grid, and are left as they are.

    Args:
        path: As `write_image` wrote it.
        source: The file that its image was made from, on the same grid.
    """
    if ending_of(path) not in NIFTI or ending_of(source) not in NIFTI:
        return
    import nibabel

    new = nibabel.load(path)  # type: ignore[attr-defined]
    old = nibabel.load(source)  # type: ignore[attr-defined]
    values = np.asanyarray(new.dataobj)  # type: ignore[attr-defined]
    if new.shape != old.shape:  # type: ignore[attr-defined]
        return
    header = old.header.copy()
    header.set_data_dtype(values.dtype)  # type: ignore[attr-defined]
    header.set_slope_inter(1, 0)  # type: ignore[attr-defined]
    image = nibabel.Nifti1Image(values, None, header)  # type: ignore[no-untyped-call]
    temporary = path.with_name(f".{stem_of(path)}.{os.getpid()}.tmp{ending_of(path)}")
    try:
        nibabel.save(image, temporary)  # type: ignore[attr-defined]
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_mask(path: Path, mask: np.ndarray, grid: Grid) -> None:
    """Write a mask (*spatial) of labels 0 to 65535 in the smallest unsigned type, atomically.

    Raises:
        AugmintError: if a label is negative, too large, or not a whole number.
    """
    mask = np.asarray(mask)
    if mask.size and (mask.min() < 0 or mask.max() > 65535 or (mask != np.round(mask)).any()):
        raise AugmintError(f"{path}: a mask must hold whole numbers from 0 to 65535")
    small = mask.size == 0 or mask.max() < 256
    write_image(path, mask.astype(np.uint8 if small else np.uint16)[None], grid)


def _read(path: Path, *, as_mask: bool, frame: int | None = None) -> Stored:
    """One file as (C, *spatial), its affine, and whether the format carries a spacing."""
    if not path.is_file():
        raise AugmintError(f"{path}: no such file")
    ending = ending_of(path)
    if frame is not None and ending not in NIFTI:
        raise AugmintError(f"{path}: frames are read of 4-D NIfTI files alone; give a file each")
    try:
        if ending in NIFTI:
            stored = _read_nifti(path, frame)
        elif ending in META:
            stored = _read_meta(path)
        elif ending in TIFF:
            stored = _read_tiff(path)
        elif ending in PLAIN:
            stored = _read_plain(path, as_mask=as_mask)
        else:
            raise AugmintError(f"{path}: unknown format; known are {', '.join(IMAGE_ENDINGS)}")
    except AugmintError:
        raise
    # Each reader fails in its own way on a damaged file (EOFError, SyntaxError, RuntimeError ...).
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise AugmintError(
            f"{path}: unreadable or truncated ({reason}); copy the file again"
        ) from error
    array, affine, known = stored
    if array.dtype.kind not in "buif":
        raise AugmintError(f"{path}: values of type {array.dtype} are not supported")
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if known and not (np.isfinite(affine).all() and abs(np.linalg.det(affine)) > 1e-12):
        raise AugmintError(f"{path}: its affine cannot be inverted; correct the header")
    return array.astype(array.dtype.newbyteorder("="), copy=False), affine, known


def _fit_affine(affine: np.ndarray, dims: int) -> np.ndarray:
    """An affine for 2 or 3 axes; an oblique plane keeps its spacing and loses its tilt."""
    affine = np.asarray(affine, dtype=np.float64)
    if dims >= 3:
        return affine
    if np.allclose(affine[2, :2], 0):
        return affine[np.ix_([0, 1, 3], [0, 1, 3])]
    return np.diag([*np.linalg.norm(affine[:3, :2], axis=0), 1.0])


def _without_copies(array: np.ndarray) -> np.ndarray:
    """The first channel alone where all channels are equal, else the array itself."""
    return array[:1] if (array == array[:1]).all() else array


def _read_nifti(path: Path, frame: int | None) -> Stored:
    import nibabel

    image = nibabel.load(path, mmap=False)  # type: ignore[attr-defined]
    if frame is None:
        array = np.asanyarray(image.dataobj)  # type: ignore[attr-defined]
    else:
        shape = image.shape  # type: ignore[attr-defined]
        if len(shape) != 4:
            raise AugmintError(f"{path}: shape {shape} holds no frames; give a 4-D file")
        if not 0 <= frame < shape[3]:
            raise AugmintError(
                f"{path}: no frame {frame}, its {shape[3]} frames count from 0; correct the table "
                "that names its frames"
            )
        array = np.asanyarray(image.dataobj[..., frame])  # type: ignore[attr-defined]
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim == 5 and array.shape[3] == 1:  # NIfTI stores vectors on the fifth axis
        array = array[:, :, :, 0]
    if array.ndim not in (2, 3, 4):
        raise AugmintError(f"{path}: shape {array.shape} is neither a plane, a volume nor channels")
    affine = _fit_affine(image.affine, array.ndim)  # type: ignore[attr-defined]
    if array.ndim == 2:
        array, affine = array.T, _turned(affine)
    stacked = np.moveaxis(array, -1, 0) if array.ndim == 4 else array[None]
    return stacked, affine, True


def _turned(affine: np.ndarray) -> np.ndarray:
    """The affine of a plane whose two axes change places.

    NIfTI and MetaImage store x first, pictures rows first; here all planes run rows, columns.
    """
    return affine[:, [1, 0, 2]]


def _write_nifti(path: Path, array: np.ndarray, grid: Grid) -> None:
    import nibabel

    if array.dtype == np.int64 and array.size and np.abs(array).max() < 2**31:
        array = array.astype(np.int32)
    if array.shape[0] > 1 and grid.dims == 2:
        raise AugmintError(f"{path}: a NIfTI plane holds one channel; write a file for each")
    data = np.moveaxis(array, 0, -1) if array.shape[0] > 1 else array[0]
    affine = np.eye(4)
    n, own = grid.dims, grid.affine
    if n == 2:
        data, own = data.T, _turned(own)
    affine[:n, :n], affine[:n, 3] = own[:n, :n], own[:n, n]
    image = nibabel.Nifti1Image(data, affine, dtype=data.dtype)  # type: ignore[no-untyped-call]
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(axes.T @ axes, np.eye(3), atol=1e-6):
        # The sform keeps such axes as they are, and ITK refuses a file that has no other: nnU-Net
        # reads through ITK. The qform can only hold a rotation, the nearest one.
        image.set_qform(affine, code="scanner")  # type: ignore[no-untyped-call]
    image.header.set_xyzt_units("mm")  # type: ignore[no-untyped-call]
    nibabel.save(image, path)  # type: ignore[attr-defined]


def _read_meta(path: Path) -> Stored:
    import SimpleITK as sitk  # noqa: N813

    image = sitk.ReadImage(str(path))
    dims = image.GetDimension()
    if dims not in (2, 3):
        raise AugmintError(f"{path}: {dims} axes; give planes or volumes")
    array = sitk.GetArrayFromImage(image)  # (z, y, x[, channel])
    channels_first = np.moveaxis(array, -1, 0) if array.ndim > dims else array[None]
    stored = np.transpose(channels_first, (0, *range(dims, 0, -1)))
    affine = np.eye(dims + 1)
    direction = np.reshape(image.GetDirection(), (dims, dims))
    affine[:dims, :dims] = direction * np.asarray(image.GetSpacing())
    affine[:dims, dims] = image.GetOrigin()
    affine[:2] *= -1  # LPS to RAS
    if dims == 2:
        stored, affine = stored.swapaxes(1, 2), _turned(affine)
    return stored, affine + 0.0, True  # + 0.0 turns -0.0 into 0.0


def _write_meta(path: Path, array: np.ndarray, grid: Grid) -> None:
    import SimpleITK as sitk  # noqa: N813

    n = grid.dims
    # A plane runs rows, columns already.
    reversed_axes = array if n == 2 else np.transpose(array, (0, *range(n, 0, -1)))
    several = array.shape[0] > 1
    data = np.moveaxis(reversed_axes, 0, -1) if several else reversed_axes[0]
    image = sitk.GetImageFromArray(np.ascontiguousarray(data), isVector=several)
    affine = np.array(grid.affine if n == 3 else _turned(grid.affine), dtype=np.float64)
    affine[:2] *= -1  # RAS to LPS
    spacing = np.linalg.norm(affine[:n, :n], axis=0)
    image.SetSpacing([float(s) for s in spacing])
    image.SetDirection([float(d) for d in (affine[:n, :n] / spacing).ravel()])
    image.SetOrigin([float(o) for o in affine[:n, n]])
    sitk.WriteImage(image, str(path), useCompression=True)


def _read_tiff(path: Path) -> Stored:
    import tifffile

    with tifffile.TiffFile(path) as file:
        if len(file.series) != 1:
            raise AugmintError(f"{path}: {len(file.series)} images in one TIFF; give one file each")
        axes, array = file.series[0].axes, file.series[0].asarray()
    for axis in reversed(range(len(axes))):
        if axes[axis] not in "ZYX" and array.shape[axis] == 1:
            array, axes = array.squeeze(axis), axes[:axis] + axes[axis + 1 :]
    channel = next((axes.index(name) for name in "SC" if name in axes), None)
    array = array[None] if channel is None else np.moveaxis(array, channel, 0)
    if channel is not None and axes[channel] == "S":
        array = _without_alpha(array, path)
    if array.ndim == 4:  # pages first on disk, slices last here, as in every other format
        array = np.moveaxis(array, 1, -1)
    if array.ndim not in (3, 4):
        raise AugmintError(f"{path}: TIFF axes {axes} are neither a plane nor a stack of planes")
    return array, np.eye(array.ndim), False


def _write_tiff(path: Path, array: np.ndarray, grid: Grid) -> None:
    import tifffile

    if grid.dims == 3:
        if array.shape[0] > 1:
            raise AugmintError(f"{path}: a TIFF stack holds one channel; write a file for each")
        pages = np.ascontiguousarray(np.moveaxis(array[0], -1, 0))
        tifffile.imwrite(
            path, pages, photometric="minisblack", compression="zlib", metadata={"axes": "ZYX"}
        )
    elif array.shape[0] == 3:
        colours = np.ascontiguousarray(np.moveaxis(array, 0, -1))
        tifffile.imwrite(path, colours, photometric="rgb", compression="zlib")
    elif array.shape[0] == 1:
        tifffile.imwrite(path, array[0], photometric="minisblack", compression="zlib")
    else:
        tifffile.imwrite(
            path, array, photometric="minisblack", compression="zlib", metadata={"axes": "CYX"}
        )


def _read_plain(path: Path, *, as_mask: bool) -> Stored:
    from PIL import Image

    with Image.open(path) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise AugmintError(f"{path}: an animation of {image.n_frames} frames; give one each")  # type: ignore[attr-defined]
        if image.mode == "P" and not as_mask:  # a mask's palette only colours its labels
            pixels = np.array(image.convert("RGB"))
        elif image.mode in ("1", "L", "P", "I;16", "I;16B", "I", "F", "LA", "RGB", "RGBA"):
            pixels = np.array(image)
        else:
            raise AugmintError(f"{path}: pixels of mode {image.mode}; convert to grey or RGB")
    array = np.moveaxis(pixels, -1, 0) if pixels.ndim == 3 else pixels[None]
    return _without_alpha(array, path), np.eye(3), False


def _without_alpha(array: np.ndarray, path: Path) -> np.ndarray:
    """The colours without an opaque last channel of 2 or 4."""
    if array.shape[0] not in (2, 4):
        return array
    if array.dtype.kind != "u" or (array[-1] != np.iinfo(array.dtype).max).any():
        raise AugmintError(f"{path}: its alpha channel is not opaque; flatten the image")
    return array[:-1]


def _write_png(path: Path, array: np.ndarray, grid: Grid) -> None:
    from PIL import Image

    grey = array.shape[0] == 1 and array.dtype in (np.uint8, np.uint16)
    colour = array.shape[0] == 3 and array.dtype == np.uint8
    if grid.dims != 2 or not (grey or colour):
        raise AugmintError(
            f"{path}: PNG holds planes of 8- or 16-bit grey or 8-bit RGB, got {array.dtype} of "
            f"shape {array.shape}; write .tif or .nii.gz"
        )
    pixels = array[0] if grey else np.ascontiguousarray(np.moveaxis(array, 0, -1))
    Image.fromarray(pixels).save(path, format="PNG")
