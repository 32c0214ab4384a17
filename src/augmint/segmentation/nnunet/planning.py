"""One plan for all arms, made on real cases alone, and the data preprocessed by it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from augmint.data.dataset import Dataset
from augmint.data.layout import read_json
from augmint.errors import AugmintError
from augmint.segmentation.nnunet.arms import Arm
from augmint.segmentation.nnunet.commands import NAME, Folders, run_nnunet
from augmint.staging import write_text

PLANS = "augmintPlans"
FINGERPRINT = "dataset_fingerprint.json"
AUGMENTERS = "nnUNet_n_proc_DA"
CONFIGURATIONS = ("2d", "3d_fullres")


def plan_on_real(
    dataset: Dataset,
    real: Collection[str],
    name: str,
    folders: Folders,
    *,
    planner: str,
    gpu_memory_gb: float | None,
    processes: int,
) -> None:
    """Fingerprint and plan of the real cases, as if nnU-Net knew no others.

    nnU-Net plans on every case of a dataset, so it is shown one of the same name, in folders that
    exist for this alone, whose dataset.json lists the real files where they lie.
    """
    target = folders.preprocessed / name
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".planning-", dir=target) as temporary:
        apart = Folders(*(Path(temporary) / part for part in ("raw", "preprocessed", "results")))
        facts = read_json(dataset.root / "dataset.json")
        text = json.dumps(real_description(facts, dataset, real), indent=1)
        write_text(apart.raw / name / "dataset.json", text)
        made = apart.preprocessed / name
        made.mkdir(parents=True)
        command = [
            "nnUNetv2_plan_and_preprocess", "-d", name[7:10], "--no_pp", "--no_pbar",
            "--verify_dataset_integrity", "-npfp", str(processes),
            "-pl", planner, "-overwrite_plans_name", PLANS,
        ]  # fmt: skip
        if gpu_memory_gb is not None:
            command += ["-gpu_memory_target", f"{gpu_memory_gb:g}"]
        _run(command, apart, target)
        for file in (FINGERPRINT, f"{PLANS}.json"):
            shutil.copyfile(made / file, target / file)


def real_description(
    facts: Mapping[str, Any], dataset: Dataset, real: Collection[str]
) -> dict[str, Any]:
    """A dataset.json of the real cases alone, with the paths of their files."""
    listed = {
        item.case_id: {
            "images": [str(path.resolve()) for path in item.images],
            "label": str(item.masks[0].resolve()),
        }
        for item in dataset.items
        if item.case_id in real
    }
    return {**facts, "numTraining": len(listed), "dataset": listed}


def take_plan(source: str, plans_name: str, name: str, channels: int, folders: Folders) -> None:
    """Move the plan of another dataset over, with the fingerprint that it was made from.

    Args:
        source: The other dataset's id or name.
        plans_name: Of its plans, without `.json`.
        name: The dataset that gets the plan.
        channels: Of that dataset.
        folders: Where nnU-Net keeps its data.

    Raises:
        AugmintError: if there is no such plan, or it is for other channels.
    """
    other = find_prepared(source, folders)
    found = folders.preprocessed / other / f"{plans_name}.json"
    if other == name:
        raise AugmintError(f"--plans-from {source} is the dataset itself; leave it out")
    fingerprint = folders.preprocessed / other / FINGERPRINT
    for path in (found, fingerprint):
        if not path.is_file():
            raise AugmintError(
                f"{path} does not exist; plan that dataset first, or name its plans with "
                "--plans-name"
            )
    schemes = read_json(found)["configurations"].get("2d", {}).get("normalization_schemes")
    if schemes is not None and len(schemes) != channels:
        raise AugmintError(
            f"{found} is a plan for {len(schemes)} channel(s), {name} has {channels}; take the "
            "plan of a dataset with the same channels"
        )
    target = folders.preprocessed / name
    target.mkdir(parents=True, exist_ok=True)
    command = [
        "nnUNetv2_move_plans_between_datasets", "-s", other, "-t", name,
        "-sp", plans_name, "-tp", PLANS,
    ]  # fmt: skip
    _run(command, folders, target)
    shutil.copyfile(fingerprint, target / FINGERPRINT)


def find_prepared(which: str, folders: Folders) -> str:
    """The name of a dataset in nnU-Net's preprocessed folder, by id or name.

    Raises:
        AugmintError: if it is not there.
    """
    number = f"{int(which):03d}" if which.isdecimal() else None
    names = [p.name for p in sorted(folders.preprocessed.glob("Dataset*")) if p.is_dir()]
    matches = [n for n in names if n == which or (number is not None and n[7:10] == number)]
    if len(matches) != 1:
        what = f"{len(matches)} datasets" if matches else "no dataset"
        raise AugmintError(f"{folders.preprocessed} has {what} {which}; plan or prepare it first")
    return matches[0]


def planned_configurations(
    plans: Mapping[str, Any], wanted: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The wanted configurations that the plan has, and those that it lacks.

    Raises:
        AugmintError: if it has none of them.
    """
    known = set(plans["configurations"])
    there = tuple(c for c in wanted if c in known)
    if not there:
        raise AugmintError(
            f"the plan has the configurations {', '.join(sorted(known))}, not "
            f"{', '.join(wanted)}; 3d_fullres needs volumes"
        )
    return there, tuple(c for c in wanted if c not in known)


def preprocess(
    name: str, configurations: Sequence[str], folders: Folders, *, processes: int
) -> None:
    """Preprocess every case, real and synthetic, by the shared plan."""
    target = folders.preprocessed / name
    shutil.copyfile(folders.raw / name / "dataset.json", target / "dataset.json")
    command = [
        "nnUNetv2_preprocess", "-d", name[7:10], "-plans_name", PLANS, "--no_pbar",
        "-c", *configurations, "-np", str(processes),
    ]  # fmt: skip
    _run(command, folders, target)


def write_arms(name: str, arms: Sequence[Arm], folders: Folders) -> None:
    """A plans file for each arm, all with the same data, network, patch and batch."""
    target = folders.preprocessed / name
    shared = read_json(target / f"{PLANS}.json")
    for arm in arms:
        write_text(target / f"{arm.name}.json", json.dumps(arm.plans(shared), indent=1))


def id_of(name: str) -> int:
    """502 of `Dataset502_Heart`."""
    match = NAME.fullmatch(name)
    if match is None:
        raise AugmintError(f"nnU-Net wants names like Dataset502_Heart, not {name!r}")
    return int(match[1])


def _run(command: Sequence[str], folders: Folders, target: Path) -> None:
    # While it plans, nnU-Net starts as many processes, too, and crashes if that is none.
    variables = {AUGMENTERS: "1"} if os.environ.get(AUGMENTERS) == "0" else None
    run_nnunet(command, folders, variables, log=target / "augmint_prepare.log")
