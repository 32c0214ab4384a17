"""nnU-Net v2 on a synthetic dataset: prepare, train and predict, every arm with one plan."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from augmint.data.dataset import Dataset, open_dataset
from augmint.data.layout import listed, read_json
from augmint.data.splits import check_leak, check_synthetic, patients_seen
from augmint.errors import AugmintError
from augmint.progress import Talk
from augmint.segmentation.nnunet.arms import (
    EPOCHS,
    ITERATIONS,
    TRAINER,
    VALIDATION_ITERATIONS,
    Arm,
    arm_of,
)
from augmint.segmentation.nnunet.commands import (
    default_processes,
    nnunet_folders,
    place_raw,
    require_nnunet,
    run_nnunet,
)
from augmint.segmentation.nnunet.planning import (
    CONFIGURATIONS,
    PLANS,
    id_of,
    plan_on_real,
    planned_configurations,
    preprocess,
    take_plan,
    write_arms,
)
from augmint.segmentation.nnunet.state import (
    begin_state,
    load_state,
    model_folder,
    save_state,
    spent_patients,
    train_command,
)
from augmint.staging import output_folder, write_text
from augmint.synthetic import load_rows


@dataclass(frozen=True)
class Prepared:
    """A dataset that nnU-Net can train on.

    Attributes:
        dataset: Its name, `DatasetNNN_Name`.
        folder: nnU-Net's preprocessed folder of it.
        arms: Names of the plans files, real cases alone first.
        configurations: Preprocessed ones.
        folds: Numbers of the folds, or `all` where nothing is held back.
        environment: Variables that nnU-Net's own commands need.
        commands: One training each, in nnU-Net's own words.
    """

    dataset: str
    folder: Path
    arms: tuple[str, ...]
    configurations: tuple[str, ...]
    folds: tuple[str, ...]
    environment: dict[str, str]
    commands: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "folder": str(self.folder)}

    def in_words(self) -> str:
        """What to type into a shell."""
        exports = [f"export {k}={shlex.quote(v)}" for k, v in self.environment.items()]
        return "\n".join([*exports, *self.commands])


def prepare_nnunet(
    dataset: Path | str,
    *,
    raw: Path | str | None = None,
    preprocessed: Path | str | None = None,
    results: Path | str | None = None,
    dataset_id: int | None = None,
    plans_from: str | int | None = None,
    plans_name: str = "nnUNetPlans",
    planner: str = "ExperimentPlanner",
    gpu_memory_gb: float | None = None,
    configurations: Sequence[str] = CONFIGURATIONS,
    probabilities: Sequence[float] = (0.5,),
    epochs: int = EPOCHS,
    iterations: int = ITERATIONS,
    validation_iterations: int = VALIDATION_ITERATIONS,
    processes: int | None = None,
    copy: bool = False,
    talk: Talk | None = None,
) -> Prepared:
    """Plan on the real cases, preprocess all of them, and set up the arms to compare.

    All arms share one dataset, one plan and one preprocessing: the arm of real cases alone, and
    one arm for each probability. Called again, it adds arms and repeats nothing else.

    Args:
        dataset: Made by `augment`.
        raw: nnU-Net's folder; nnUNet_raw by default, as the next two by their variables.
        preprocessed: nnU-Net's folder.
        results: nnU-Net's folder.
        dataset_id: nnU-Net's number for it, where its folder's name has none or another.
        plans_from: Take the plan of this dataset, by id or name, instead of making one.
        plans_name: Of the plans to take.
        planner: nnU-Net's planner, where one plans.
        gpu_memory_gb: What the planner may count on.
        configurations: Those to preprocess; 3d_fullres is left out where there are no volumes.
        probabilities: Of a synthetic sample, an arm for each.
        epochs: Of each training.
        iterations: Batches of an epoch.
        validation_iterations: Batches that estimate the Dice after an epoch.
        processes: For planning and preprocessing.
        copy: Copy into nnU-Net's raw folder instead of linking.
        talk: Where progress goes.

    Raises:
        AugmintError: if nnU-Net is missing or fails, a folder is unknown, the dataset is not one
            that `augment` made, a split leaks, or it was prepared from other cases or plans.
    """
    talk = talk or Talk()
    arms = tuple(
        Arm(p, epochs, iterations, validation_iterations)
        for p in dict.fromkeys((0, *probabilities))
    )
    folders = nnunet_folders(raw, preprocessed, results)
    processes = processes or default_processes()
    source = Path(dataset)
    facts = read_splits(source)
    require_nnunet()
    name = place_raw(source, folders, dataset_id=dataset_id, copy=copy)
    target = folders.preprocessed / name
    plan = {
        "from": None if plans_from is None else str(plans_from),
        "name": None if plans_from is None else plans_name,
        "planner": None if plans_from is not None else planner,
        "gpu_memory_gb": gpu_memory_gb,
    }
    state = begin_state(target, {**facts, "plan": plan})
    opened = open_dataset(source)
    if not state["planned"]:
        talk.say("nnU-Net makes its plan" if plans_from is None else "nnU-Net takes the plan over")
        if plans_from is None:
            plan_on_real(
                opened, set(facts["real"]), name, folders, planner=planner,
                gpu_memory_gb=gpu_memory_gb, processes=processes,
            )  # fmt: skip
        else:
            take_plan(str(plans_from), plans_name, name, len(opened.channel_names), folders)
        state["planned"] = True
        save_state(target, state)
    there, missing = planned_configurations(read_json(target / f"{PLANS}.json"), configurations)
    if missing:
        talk.say(f"{', '.join(missing)} left out: the plan has none, since there are no volumes")
    if todo := [c for c in there if c not in state["preprocessed"]]:
        talk.say(f"nnU-Net preprocesses {len(opened)} cases for {', '.join(todo)}")
        preprocess(name, todo, folders, processes=processes)
        state["preprocessed"] += todo
    write_text(target / "splits_final.json", json.dumps(facts["splits"], indent=1))
    write_arms(name, arms, folders)
    state["arms"] = sorted({*state["arms"], *(arm.name for arm in arms)})
    save_state(target, state)
    folds = _folds(facts["splits"])
    number = id_of(name)
    return Prepared(
        dataset=name,
        folder=target,
        arms=tuple(arm.name for arm in arms),
        configurations=there,
        folds=folds,
        environment=folders.environment(),
        commands=tuple(
            shlex.join(train_command(number, configuration, fold, arm.name))
            for configuration in there
            for arm in arms
            for fold in folds
        ),
    )


def read_splits(dataset: Path) -> dict[str, Any]:
    """Who is real and who is synthetic, the splits, and what each fold's networks saw.

    Raises:
        AugmintError: if a file is missing, a case of the splits is unknown, or a split leaks.
    """
    for name in ("dataset.json", "manifest.csv", "run.json", "splits_final.json"):
        if not (dataset / name).is_file():
            raise AugmintError(
                f"{dataset} has no {name}; give a dataset made by `augmint augment`, which writes "
                "its splits"
            )
    run = read_json(dataset / "run.json")
    splits = read_json(dataset / "splits_final.json")
    rows = {r["case"]: r for r in load_rows(dataset) if r["accepted"] == "1"}
    made = sorted(c for c, r in rows.items() if r["synthetic"] == "1")
    if not made:
        raise AugmintError(
            f"{dataset}: the manifest lists no accepted synthetic case; nothing to compare with"
        )
    folded = any(rows[c]["fold"] for c in made)
    folds = []
    for number, split in enumerate(splits):
        if unknown := sorted({*split["train"], *split["val"]} - set(rows)):
            raise AugmintError(
                f"{dataset}/splits_final.json: case {unknown[0]!r} is not in the manifest"
            )
        held = sorted({rows[c]["patient"] for c in split["val"]})
        real = sorted({rows[c]["patient"] for c in split["train"] if c not in set(made)})
        check_leak(real, held)
        check_synthetic([rows[c] for c in split["train"]], run, held)
        seen = patients_seen(run, number if folded else None)
        folds.append({"train_patients": real, "seen_patients": sorted(seen), "validation": held})
    content = (dataset / "manifest.csv").read_bytes() + json.dumps(splits).encode()
    return {
        "source": run.get("dataset", ""),
        "cases_sha256": hashlib.sha256(content).hexdigest(),
        "real": sorted(set(rows) - set(made)),
        "synthetic": made,
        "folds": folds,
        "splits": splits,
    }


def _folds(splits: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Folds that can be trained; `all` where the one split holds nothing back."""
    held = tuple(str(k) for k, split in enumerate(splits) if split["val"])
    return held or ("all",)


def train_nnunet(
    dataset: str | int | Path,
    arm: str,
    *,
    configuration: str = "2d",
    fold: str | int = 0,
    raw: Path | str | None = None,
    preprocessed: Path | str | None = None,
    results: Path | str | None = None,
    device: str = "auto",
    resume: bool = False,
    talk: Talk | None = None,
) -> Path:
    """Train one arm on one fold with nnU-Net, which predicts its validation cases at the end.

    Args:
        dataset: Id or name of a prepared dataset, or the folder it was prepared from.
        arm: A name that `prepare_nnunet` returned, such as `augmintReal`.
        configuration: `2d` or `3d_fullres`.
        fold: A number, or `all`.
        raw: nnU-Net's folder; nnUNet_raw by default, as the next two by their variables.
        preprocessed: nnU-Net's folder.
        results: nnU-Net's folder.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        resume: Go on from the last checkpoint.
        talk: Where progress goes.

    Returns:
        nnU-Net's folder of the fold.

    Raises:
        AugmintError: if the dataset or arm is not prepared, a finished training would be
            overwritten, or nnU-Net fails.
    """
    talk = talk or Talk()
    folders = nnunet_folders(raw, preprocessed, results)
    name, _ = load_state(dataset, arm, configuration, folders)
    made = model_folder(folders, name, arm, configuration) / f"fold_{fold}"
    if made.is_dir() and any(made.glob("checkpoint_*.pth")) and not resume:
        raise AugmintError(f"{made} holds a training; add --continue to go on, or move it")
    kind, variables = nnunet_device(device)
    command = train_command(id_of(name), configuration, str(fold), arm, device=kind, resume=resume)
    talk.say(shlex.join(command))
    folders.results.mkdir(parents=True, exist_ok=True)
    log = made.parent / f"train_fold_{fold}.log" if talk.quiet else None
    run_nnunet(command, folders, variables, log=log)
    return made


def nnunet_device(device: str) -> tuple[str, dict[str, str]]:
    """nnU-Net's word for a device, and the variables that choose among GPUs."""
    from augmint.fit import resolve_device

    where = resolve_device(device)
    if where.type == "cuda" and where.index is not None:
        # nnU-Net always takes the first GPU that it sees; torch counts among those visible here.
        visible = [v for v in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if v]
        chosen = visible[where.index] if visible else str(where.index)
        return "cuda", {"CUDA_VISIBLE_DEVICES": chosen}
    return where.type, {}


def predict_nnunet(
    dataset: str | int | Path,
    arm: str,
    data: Path | str | Dataset,
    out: Path | str,
    *,
    configuration: str = "2d",
    folds: Sequence[str | int] = (0,),
    patients: Sequence[str] | None = None,
    checkpoint: str = "final",
    raw: Path | str | None = None,
    preprocessed: Path | str | None = None,
    results: Path | str | None = None,
    device: str = "auto",
    resume: bool = False,
    talk: Talk | None = None,
) -> Path:
    """Predict the real cases of a dataset with a trained arm; several folds are averaged.

    OUT holds a mask for each case under the case's name, as `augmint score` wants them, and
    nnU-Net's dataset.json with the names of the labels.

    Args:
        dataset: Id or name of a prepared dataset, or the folder it was prepared from.
        arm: A name that `prepare_nnunet` returned.
        data: Any dataset; masks are not needed.
        out: The folder to make.
        configuration: `2d` or `3d_fullres`.
        folds: Trained folds.
        patients: Which patients of the data; all by default.
        checkpoint: `final` or `best`.
        raw: nnU-Net's folder; nnUNet_raw by default, as the next two by their variables.
        preprocessed: nnU-Net's folder.
        results: nnU-Net's folder.
        device: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`.
        resume: Continue unfinished predictions.
        talk: Where progress goes.

    Raises:
        AugmintError: if a fold is not trained, a patient was trained on or seen by what made the
            synthetic cases, the channels differ, or nnU-Net fails.
    """
    from augmint.segmentation.nnunet.images import stage_images

    talk = talk or Talk()
    folders = nnunet_folders(raw, preprocessed, results)
    name, state = load_state(dataset, arm, configuration, folders)
    model = model_folder(folders, name, arm, configuration)
    for fold in folds:
        path = model / f"fold_{fold}" / f"checkpoint_{checkpoint}.pth"
        if not path.is_file():
            raise AugmintError(f"{path} does not exist; train fold {fold} of {arm} first")
    opened = data if isinstance(data, Dataset) else open_dataset(data)
    opened = opened.select(cases=[i.case_id for i in opened.items if not i.synthetic])
    chosen = opened if patients is None else opened.select(patients=list(patients))
    if chosen.name == state["source"]:
        settings = arm_of(read_json(folders.preprocessed / name / f"{arm}.json"))
        _refuse_leak(chosen, opened, spent_patients(state, folds, settings))
    kind, variables = nnunet_device(device)
    request = dict(
        command="nnunet predict", dataset=name, arm=arm, configuration=configuration,
        folds=[str(f) for f in folds], checkpoint=checkpoint, data=str(chosen.root.resolve()),
        patients=list(chosen.patients),
    )  # fmt: skip
    facts = read_json(folders.preprocessed / name / "dataset.json")
    with output_folder(Path(out), request, resume=resume) as folder:
        images = folder / ".work" / "images"
        talk.say(f"nnU-Net predicts {len(chosen)} cases with {arm}")
        files = len(list((folders.raw / name / "imagesTr").glob(f"{state['real'][0]}_[0-9]*")))
        stage_images(chosen, images, str(facts["file_ending"]), facts["channel_names"], files)
        command = [
            "nnUNetv2_predict", "-i", str(images), "-o", str(folder), "-d", f"{id_of(name):03d}",
            "-p", arm, "-tr", TRAINER, "-c", configuration, "-f", *(str(f) for f in folds),
            "-chk", f"checkpoint_{checkpoint}.pth", "-device", kind, "-npp", "1", "-nps", "1",
            "--disable_progress_bar", *(["--continue_prediction"] if resume else []),
        ]  # fmt: skip
        run_nnunet(command, folders, variables, log=folder / "nnunet.log")
        write_text(folder / "run.json", json.dumps(request, indent=1))
    talk.say(f"wrote predictions to {out}; next: augmint score {out} {chosen.root} -o SCORES")
    return Path(out)


def _refuse_leak(chosen: Dataset, everyone: Dataset, spent: frozenset[str]) -> None:
    used = [p for p in chosen.patients if p in spent]
    if not used:
        return
    free = [p for p in everyone.patients if p not in spent]
    others = f"--patients {','.join(free[:10])}" if free else "those of another dataset"
    raise AugmintError(
        f"leak: the arm, or what made its synthetic cases, was fitted on {len(used)} of the "
        f"{len(chosen.patients)} patients to predict: {listed(used, 10)}; predict {others}"
    )
