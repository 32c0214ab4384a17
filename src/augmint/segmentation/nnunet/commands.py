"""nnU-Net's folders and commands, run in processes of their own."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from augmint.errors import AugmintError

INSTALL = 'install it with `pip install "augmint[nnunet]"`'
NAME = re.compile(r"Dataset(\d{3})_(\w+)")
TRAINERS = Path(__file__).parent / "trainer"
RUNNER = "augmint.segmentation.nnunet.runner"
# Folders in which nnU-Net looks for trainers that are not its own.
EXTERNAL = "nnUNet_extTrainer"
VARIABLES = {
    "raw": "nnUNet_raw",
    "preprocessed": "nnUNet_preprocessed",
    "results": "nnUNet_results",
}


@dataclass(frozen=True)
class Folders:
    """nnU-Net's three folders."""

    raw: Path
    preprocessed: Path
    results: Path

    def environment(self) -> dict[str, str]:
        """The variables that nnU-Net reads, with the folder of our trainer."""
        others = [p for p in os.environ.get(EXTERNAL, "").split(os.pathsep) if p]
        trainers = [str(TRAINERS), *(p for p in others if p != str(TRAINERS))]
        named = {v: str(getattr(self, k)) for k, v in VARIABLES.items()}
        return {**named, EXTERNAL: os.pathsep.join(trainers)}


def nnunet_folders(
    raw: Path | str | None = None,
    preprocessed: Path | str | None = None,
    results: Path | str | None = None,
) -> Folders:
    """The folders given, or those of nnU-Net's environment variables.

    Raises:
        AugmintError: if one is neither given nor set.
    """
    found: dict[str, Path] = {}
    for name, value in (("raw", raw), ("preprocessed", preprocessed), ("results", results)):
        chosen = value or os.environ.get(VARIABLES[name])
        if not chosen:
            raise AugmintError(
                f"nnU-Net's folder for {name} data is not known; give --{name} FOLDER, or set "
                f"the variable {VARIABLES[name]}"
            )
        found[name] = Path(chosen).resolve()
    return Folders(**found)


def require_nnunet() -> None:
    """Make sure that an nnU-Net is there that finds trainers outside itself.

    Raises:
        AugmintError: if it is missing or too old.
    """
    spec = importlib.util.find_spec("nnunetv2")
    if spec is None or spec.origin is None:
        raise AugmintError(f"nnU-Net is not installed; {INSTALL}")
    paths = Path(spec.origin).parent / "paths.py"
    if EXTERNAL not in paths.read_text(encoding="utf-8"):
        raise AugmintError(
            f"this nnU-Net cannot load a trainer of another package (2.8 can); {INSTALL} --upgrade"
        )


def place_raw(
    dataset: Path, folders: Folders, *, dataset_id: int | None = None, copy: bool = False
) -> str:
    """Make a dataset known to nnU-Net: link or copy it into the raw folder, where it is not yet.

    Returns:
        Its name there, `DatasetNNN_Name`.

    Raises:
        AugmintError: if it has no such name and no id was given, or the id or name is taken.
    """
    match = NAME.fullmatch(dataset.name)
    name = dataset.name
    if dataset_id is not None:
        if not 1 <= dataset_id <= 999:
            raise AugmintError(f"nnU-Net's ids go from 1 to 999, got {dataset_id}")
        if not match or int(match[1]) != dataset_id:
            plain = re.sub(r"\W+", "", match[2] if match else dataset.name) or "Synthetic"
            name = f"Dataset{dataset_id:03d}_{plain}"
    elif not match:
        raise AugmintError(
            f"nnU-Net wants names like Dataset502_Heart, not {dataset.name!r}; give --id 502"
        )
    for folder in (folders.raw, folders.preprocessed, folders.results):
        taken = [p.name for p in folder.glob(f"{name[:10]}*") if p.name != name]
        if taken:
            raise AugmintError(
                f"nnU-Net's id {name[7:10]} belongs to {taken[0]} in {folder}; give another --id"
            )
    target = folders.raw / name
    if target.resolve() == dataset.resolve():
        return name
    if target.exists() or target.is_symlink():
        raise AugmintError(f"{target} is another dataset than {dataset}; give another --id")
    folders.raw.mkdir(parents=True, exist_ok=True)
    if copy:
        shutil.copytree(dataset, target)
    else:
        link_or_copy(dataset.resolve(), target)
    return name


def link_or_copy(source: Path, target: Path) -> None:
    """A symbolic link, or a copy where the system grants none."""
    try:
        os.symlink(source, target, target_is_directory=source.is_dir())
    except OSError:
        (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target)


def run_nnunet(
    command: Sequence[str],
    folders: Folders,
    variables: Mapping[str, str] | None = None,
    *,
    log: Path | None = None,
) -> None:
    """Run one of nnU-Net's commands in a process of its own.

    Args:
        command: Its words, `nnUNetv2_train` and so on.
        folders: Where nnU-Net works.
        variables: More of its variables, over those of this process.
        log: Where its output goes, standard error by default.

    Raises:
        AugmintError: if it fails, with the last words of the log.
    """
    require_nnunet()
    environment = {**os.environ, **folders.environment(), **(variables or {})}
    # nnU-Net starts eight processes for small tasks whatever the machine has.
    environment.setdefault("nnUNet_def_n_proc", str(default_processes()))
    words = [sys.executable, "-P", "-m", RUNNER, *command]
    if log is None:
        code = subprocess.run(words, env=environment, stdout=sys.__stderr__).returncode
        said = "its message stands above"
    else:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as stream:
            done = subprocess.run(words, env=environment, stdout=stream, stderr=subprocess.STDOUT)
        code = done.returncode
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = f"see {log}; it ends with: {' | '.join(lines[-3:])}"
    if code:
        raise AugmintError(f"nnU-Net failed with code {code} in `{shlex.join(command)}`; {said}")


def default_processes() -> int:
    """As many as there are cores, eight at most."""
    return max(1, min(8, os.cpu_count() or 1))
