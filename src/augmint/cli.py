"""The command line: parses, calls the function of the same name, prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from augmint import options as opt
from augmint.errors import AugmintError
from augmint.progress import Talk

if TYPE_CHECKING:
    from augmint.data.dataset import Dataset


Tolerance = Annotated[
    float, typer.Option("--tolerance", help="Of the surface Dice, in mm or pixels.")
]


Cardiac = Annotated[
    bool,
    typer.Option(
        "--cardiac/--no-cardiac",
        help="Measure LV volumes and EF where patients have an LV at ED and ES.",
    ),
]


class _Group(TyperGroup):
    """Turns an error of the user into a message and an exit code, in one place."""

    def invoke(self, ctx: Any) -> Any:
        given = list(ctx.args)
        try:
            return super().invoke(ctx)
        except AugmintError as error:
            print(f"error: {error}", file=sys.stderr)
            if "--json" in given:
                print(json.dumps({"error": str(error)}))
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            print("\nstopped; go on with --continue", file=sys.stderr)
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Group,
    name="augmint",
    help="Mint new, checked image-mask pairs from a labelled medical dataset.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


nnunet = typer.Typer(help="Train nnU-Net on a synthetic dataset.", no_args_is_help=True)
app.add_typer(nnunet, name="nnunet")
NnunetDataset = Annotated[
    str, typer.Argument(metavar="DATASET", help="Number, name or folder of a prepared dataset.")
]
NnunetArm = Annotated[
    str, typer.Argument(metavar="ARM", help="As `augmint nnunet prepare` named it.")
]
NnunetConfiguration = Annotated[str, typer.Option("--configuration", help="2d or 3d_fullres.")]
NnunetRaw = Annotated[
    Path | None, typer.Option("--raw", help="nnU-Net's folder of raw datasets, or nnUNet_raw.")
]
NnunetPreprocessed = Annotated[
    Path | None, typer.Option("--preprocessed", help="Likewise nnUNet_preprocessed.")
]
NnunetResults = Annotated[Path | None, typer.Option("--results", help="Likewise nnUNet_results.")]


def main() -> None:
    """The entry point of `augmint`."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"augmint {version('augmint')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-v", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


@app.command()
def inspect(
    data: opt.Data = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="Folder for inspect.json and a sheet.")
    ] = None,
    patient_regex: opt.PatientRegex = None,
    label_map: opt.LabelMap = None,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Show what a dataset holds and what is wrong with it."""
    from augmint.inspect import in_words, inspect

    facts = inspect(_open(data, patient_regex, label_map), out, talk=Talk(quiet=quiet))
    _print(facts, as_json, in_words(facts))


@app.command()
def methods(as_json: opt.Json = False) -> None:
    """List the methods and the fields that --set changes."""
    from augmint.catalogue import list_methods

    found = list_methods()
    lines = []
    for method in found:
        lines.append(f"{method['name']}: {method['summary']}")
        for field in method["fields"]:
            start = f"  {field['name']} = {field['default']}  ({field['type']})"
            lines.append(f"{start}\n      {field['meaning']}")
    _print({"methods": found}, as_json, "\n".join(lines))


@app.command()
def fit(
    context: typer.Context,
    data: opt.Data = None,
    out: opt.Out = None,
    method: opt.MethodName = "mask_to_image",
    settings: opt.Set = None,
    preset: opt.PresetName = "quick",
    patients: opt.Patients = None,
    steps: opt.Steps = None,
    dims: opt.Dims = None,
    init: Annotated[Path | None, typer.Option("--init", help="A fitted run to start from.")] = None,
    unlabelled: Annotated[
        Path | None, typer.Option("--unlabelled", help="A dataset whose images join the fit.")
    ] = None,
    patient_regex: opt.PatientRegex = None,
    label_map: opt.LabelMap = None,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    resume: opt.Continue = False,
    dry_run: opt.DryRun = False,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Fit a method on the labelled real cases of a dataset."""
    talk = Talk(quiet=quiet)
    asked: dict[str, Any] = dict(
        method=method, settings=opt.settings_of(context, settings), preset=preset,
        patients=opt.read_patients(patients), steps=steps, dims=dims, seed=seed, device=device,
    )  # fmt: skip
    dataset = _open(data, patient_regex, label_map)
    if dry_run:
        from augmint.estimate import in_words, plan_fit

        plan = plan_fit(dataset, out, talk=talk, unlabelled=unlabelled is not None, **asked)
        return _print(plan, as_json, in_words(plan))
    from augmint.fit import fit

    made = fit(
        dataset, _given(out, "-o"), init=init,
        unlabelled=unlabelled and _open(unlabelled, patient_regex, None, bare=True),
        resume=resume, talk=talk, **asked,
    )  # fmt: skip
    _print(_folder(made), as_json)


@app.command()
def generate(
    context: typer.Context,
    run: Annotated[
        str, typer.Argument(metavar="RUN|METHOD", help="A run, or a method that needs no fit.")
    ],
    data: opt.Data = None,
    out: opt.Out = None,
    settings: opt.Set = None,
    ask: opt.Ask = None,
    copies: opt.Copies = 5,
    patients: opt.Patients = None,
    shard: Annotated[
        str | None, typer.Option("--shard", help="i/n makes part i (from 0) of n, for n machines.")
    ] = None,
    preset: opt.PresetName = "quick",
    dims: opt.Dims = None,
    patient_regex: opt.PatientRegex = None,
    label_map: opt.LabelMap = None,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    ray: opt.Ray = None,
    ray_cpus: opt.RayCpus = None,
    resume: opt.Continue = False,
    dry_run: opt.DryRun = False,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Make synthetic cases with a fitted method, or one that needs no fit; no gate judges them."""
    talk = Talk(quiet=quiet)
    asked: dict[str, Any] = dict(
        copies=copies, patients=opt.read_patients(patients), shard=opt.read_shard(shard),
        settings=opt.settings_of(context, settings, ask), preset=preset, dims=dims, seed=seed,
        device=device,
    )  # fmt: skip
    dataset = _open(data, patient_regex, label_map)
    if dry_run:
        from augmint.estimate import in_words, plan_generate

        plan = plan_generate(run, dataset, out, talk=talk, **asked)
        return _print(plan, as_json, in_words(plan))
    from augmint.generate import generate

    made = generate(
        run, dataset, _given(out, "-o"), ray=ray, ray_cpus=ray_cpus, resume=resume, talk=talk,
        **asked,
    )  # fmt: skip
    _print(_folder(made), as_json)


@app.command()
def adapt(
    context: typer.Context,
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run of `fit --method reference_shift`.")
    ],
    data: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TARGET]", help="A dataset, labelled or not, or a folder of images."
        ),
    ] = None,
    out: opt.Out = None,
    settings: opt.Set = None,
    segmenter: Annotated[
        Path | None,
        typer.Option("--segmenter", help="A run of `segment` that segments each image."),
    ] = None,
    repeats: Annotated[
        int,
        typer.Option(
            "--repeats", help="Translations of each image that --segmenter averages over."
        ),
    ] = 1,
    largest_component: opt.LargestComponent = False,
    patients: opt.Patients = None,
    patient_regex: opt.PatientRegex = None,
    label_map: opt.LabelMap = None,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    resume: opt.Continue = False,
    dry_run: opt.DryRun = False,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Shift images of another scanner towards the source of a run; no label of theirs is read."""
    talk = Talk(quiet=quiet)
    asked: dict[str, Any] = dict(
        settings=opt.settings_of(context, settings, None), segmenter=segmenter, repeats=repeats,
        largest_component=largest_component, patients=opt.read_patients(patients), seed=seed,
        device=device,
    )  # fmt: skip
    dataset = _open(data, patient_regex, label_map, name="TARGET", bare=True)
    if dry_run:
        from augmint.estimate import in_words, plan_adapt

        plan = plan_adapt(run, dataset, out, talk=talk, **asked)
        return _print(plan, as_json, in_words(plan))
    from augmint.adapt import adapt

    made = adapt(run, dataset, _given(out, "-o"), resume=resume, talk=talk, **asked)
    _print(_folder(made), as_json)


@app.command()
def augment(
    context: typer.Context,
    data: opt.Data = None,
    out: opt.Out = None,
    method: opt.MethodName = "mask_to_image",
    settings: opt.Set = None,
    ask: opt.Ask = None,
    copies: opt.Copies = 5,
    preset: opt.PresetName = "quick",
    patients: opt.Patients = None,
    num_folds: Annotated[
        int, typer.Option("--folds", min=0, help="Cross-validation: one generator for each fold.")
    ] = 0,
    held_fraction: Annotated[
        float, typer.Option("--hold-back", help="Share of patients kept for validation.")
    ] = 0.2,
    gates: opt.Gates = "agreement",
    rules: opt.Rules = None,
    steps: opt.Steps = None,
    dims: opt.Dims = None,
    patient_regex: opt.PatientRegex = None,
    label_map: opt.LabelMap = None,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    resume: opt.Continue = False,
    dry_run: opt.DryRun = False,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Fit, generate, check and write a synthetic dataset: the main job."""
    talk = Talk(quiet=quiet)
    asked: dict[str, Any] = dict(
        method=method, settings=opt.settings_of(context, settings, ask), copies=copies,
        preset=preset, patients=opt.read_patients(patients), num_folds=num_folds,
        held_fraction=held_fraction, gates=opt.read_gates(gates), rules=rules, steps=steps,
        dims=dims, seed=seed, device=device,
    )  # fmt: skip
    dataset = _open(data, patient_regex, label_map)
    if dry_run:
        from augmint.estimate import in_words, plan_augment

        plan = plan_augment(dataset, out, talk=talk, **asked)
        return _print(plan, as_json, in_words(plan))
    from augmint.augment import augment

    made = augment(dataset, _given(out, "-o"), resume=resume, talk=talk, **asked)
    _print(_folder(made), as_json)


@app.command()
def audit(
    synthetic: Annotated[
        Path,
        typer.Argument(
            metavar="SYNTHETIC",
            help="A dataset made by augmint, or any labelled folder of another generator.",
        ),
    ],
    data: opt.Data = None,
    out: opt.Out = None,
    rules: opt.Rules = None,
    judge: Annotated[
        Path | None,
        typer.Option(
            "--judge",
            help="A run of `augmint segment` that judges agreement, instead of two fitted here.",
        ),
    ] = None,
    judge_steps: Annotated[
        int | None, typer.Option("--judge-steps", min=1, help="Optimiser steps of the judges.")
    ] = None,
    copy_false_alarms: Annotated[
        float,
        typer.Option(
            "--copy-false-alarms",
            help="Share of unseen patients that may have an image called a copy.",
        ),
    ] = 0.01,
    quarter_turns: Annotated[
        bool, typer.Option("--quarter-turns", help="Look for copies turned by 90 degrees, too.")
    ] = False,
    generator_patients: Annotated[
        str | None,
        typer.Option(
            "--generator-patients",
            help="Whom of DATA the generator saw, where SYNTHETIC does not say.",
        ),
    ] = None,
    fold: Annotated[
        int | None, typer.Option("--fold", min=0, help="The synthetic cases of one fold alone.")
    ] = None,
    preset: opt.PresetName = "quick",
    dims: opt.Dims = None,
    patient_regex: opt.PatientRegex = None,
    label_map: opt.LabelMap = None,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    resume: opt.Continue = False,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Check a synthetic dataset: masks, agreement, copies, images and shapes, beside real ones."""
    from augmint.audit import audit, in_words

    made = audit(
        _open(synthetic, None, label_map), _open(data, patient_regex, label_map),
        _given(out, "-o"), rules=rules, judge=judge, judge_steps=judge_steps,
        copy_false_alarms=copy_false_alarms, quarter_turns=quarter_turns,
        generator_patients=opt.read_patients(generator_patients, "--generator-patients"),
        fold=fold, preset=preset, dims=dims, seed=seed, device=device, resume=resume,
        talk=Talk(quiet=quiet),
    )  # fmt: skip
    facts = json.loads((made / "audit.json").read_text(encoding="utf-8"))
    _print({"out": str(made), **facts}, as_json, "\n".join(in_words(facts)))


@app.command()
def segment(
    context: typer.Context,
    data: opt.Data = None,
    synthetic: Annotated[
        Path | None,
        typer.Argument(metavar="[SYNTHETIC]", help="Its accepted synthetic cases join."),
    ] = None,
    out: opt.Out = None,
    network: Annotated[
        str,
        typer.Option(
            "--network", help="unet, residual_unet, attention_unet, resnet50_unet or swin_unetr."
        ),
    ] = "unet",
    width: Annotated[
        int | None, typer.Option("--width", min=1, help="Channels of its first level.")
    ] = None,
    settings: opt.Set = None,
    preset: opt.PresetName = "quick",
    patients: opt.Patients = None,
    fold: Annotated[
        int | None, typer.Option("--fold", min=0, help="Which fold of a dataset made with --folds.")
    ] = None,
    validation: Annotated[
        str | None, typer.Option("--validation", help="Patients to validate on: 5, or 0.2 of all.")
    ] = None,
    augmentation: Annotated[
        str,
        typer.Option(
            "--augmentation",
            help="Classical augmentation: none, weak, strong, or oriented (never mirrored).",
        ),
    ] = "strong",
    synthetic_probability: Annotated[
        float,
        typer.Option("--synthetic-probability", help="Chance of each sample to be synthetic."),
    ] = 0.5,
    unfiltered: Annotated[
        bool, typer.Option("--unfiltered", help="Let rejected synthetic cases join, too.")
    ] = False,
    steps: opt.Steps = None,
    dims: opt.Dims = None,
    patient_regex: opt.PatientRegex = None,
    label_map: opt.LabelMap = None,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    resume: opt.Continue = False,
    dry_run: opt.DryRun = False,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Train a segmenter on real cases, or on real and synthetic ones."""
    talk = Talk(quiet=quiet)
    asked: dict[str, Any] = dict(
        synthetic=None if synthetic is None else _open(synthetic, None, label_map),
        network=network, width=width, settings=opt.settings_of(context, settings), preset=preset,
        patients=opt.read_patients(patients), fold=fold,
        validation=opt.read_amount(validation, "--validation"), augmentation=augmentation,
        synthetic_probability=synthetic_probability, steps=steps, dims=dims, seed=seed,
        device=device, unfiltered=unfiltered,
    )  # fmt: skip
    dataset = _open(data, patient_regex, label_map)
    if dry_run:
        from augmint.estimate import in_words, plan_segment

        plan = plan_segment(dataset, out, talk=talk, **asked)
        return _print(plan, as_json, in_words(plan))
    from augmint.segment import segment

    made = segment(dataset, _given(out, "-o"), resume=resume, talk=talk, **asked)
    _print(_folder(made), as_json)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Made by `augmint segment`.")],
    data: opt.Data = None,
    out: opt.Out = None,
    patients: opt.Patients = None,
    largest_component: opt.LargestComponent = False,
    sliding: Annotated[
        bool, typer.Option("--sliding", help="Look outside the run's window, too.")
    ] = False,
    tolerance: Tolerance = 2.0,
    cardiac: Cardiac = True,
    allow_same_names: Annotated[
        bool,
        typer.Option(
            "--allow-same-names", help="Patients of equal names in another dataset are others."
        ),
    ] = False,
    looks: Annotated[
        list[Path] | None,
        typer.Option(
            "--looks",
            help="Further images of the cases to average over: a folder, or what `adapt --repeats` "
            "made; repeatable.",
        ),
    ] = None,
    patient_regex: opt.PatientRegex = None,
    label_map: opt.LabelMap = None,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    resume: opt.Continue = False,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Predict and score with a segmenter on patients that it never saw."""
    from augmint.evaluate import evaluate, in_words

    summary = evaluate(
        run, _open(data, patient_regex, label_map), _given(out, "-o"),
        patients=opt.read_patients(patients), largest_component=largest_component,
        sliding=sliding, tolerance=tolerance, cardiac=cardiac, seed=seed, device=device,
        resume=resume, allow_same_names=allow_same_names, looks=tuple(looks or ()),
        talk=Talk(quiet=quiet),
    )  # fmt: skip
    _print({"out": str(out), **summary.to_dict()}, as_json, in_words(summary))


@app.command()
def score(
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", help="A folder of masks, one for each case.")
    ],
    references: Annotated[
        Path, typer.Argument(metavar="REFERENCES", help="A labelled dataset, or a folder of masks.")
    ],
    out: opt.Out = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="JSON with name: value, for a bare folder.")
    ] = None,
    split: Annotated[
        str, typer.Option("--split", help="Of a dataset: train, or test if its masks are there.")
    ] = "train",
    patients: opt.Patients = None,
    tolerance: Tolerance = 2.0,
    cardiac: Cardiac = True,
    patient_regex: opt.PatientRegex = None,
    label_map: opt.LabelMap = None,
    resume: opt.Continue = False,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Score a folder of predictions, whoever made them, named as nnU-Net names them."""
    from augmint.evaluate import in_words
    from augmint.score import score

    summary = score(
        predictions, references, _given(out, "-o"), labels=labels,
        label_map=opt.read_label_map(label_map), patient_regex=patient_regex,
        patients=opt.named_patients(patients),
        split=split, tolerance=tolerance, cardiac=cardiac, resume=resume, talk=Talk(quiet=quiet),
    )  # fmt: skip
    _print({"out": str(out), **summary.to_dict()}, as_json, in_words(summary))


@app.command()
def study(
    file: Annotated[
        Path, typer.Argument(metavar="STUDY", help="A YAML file: what to compare, and how.")
    ],
    out: opt.Out = None,
    device: opt.Device = "auto",
    ray: opt.Ray = None,
    ray_cpus: opt.RayCpus = None,
    resume: opt.Continue = False,
    dry_run: opt.DryRun = False,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
) -> None:
    """Run a study: arms, draws, seeds and tests from a file, to a report with a conclusion."""
    if dry_run:
        from augmint.study.estimate import estimate_study, in_words

        plan = estimate_study(file, device=device, talk=Talk(quiet=quiet))
        return _print(plan, as_json, in_words(plan))
    from augmint.study import study

    made = study(
        file,
        _given(out, "-o"),
        device=device,
        ray=ray,
        ray_cpus=ray_cpus,
        resume=resume,
        talk=Talk(quiet=quiet),
    )
    _print(_folder(made), as_json)


@app.command()
def prove(
    context: typer.Context,
    data: opt.Data = None,
    out: opt.Out = None,
    budget: Annotated[str, typer.Option("--budget", help="Time there is: 8h, 90min or 2d.")] = "8h",
    method: opt.MethodName = "mask_to_image",
    settings: opt.Set = None,
    copies: opt.Copies = 5,
    augmentation: Annotated[
        str, typer.Option("--augmentation", help="Of every arm but the first, such as oriented.")
    ] = "strong",
    segmenter: Annotated[
        list[str] | None,
        typer.Option("--segmenter", help="A field of the segmenter, name=value; repeatable."),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option("--size", min=1, help="Training patients of a draw; half of what there is."),
    ] = None,
    tests: Annotated[
        list[Path] | None,
        typer.Option("--test", help="A further dataset to test on; repeatable."),
    ] = None,
    allow_same_names: Annotated[
        bool,
        typer.Option(
            "--allow-same-names", help="Patients of equal names in these datasets are others."
        ),
    ] = False,
    preset: opt.PresetName = "quick",
    steps: opt.Steps = None,
    dims: opt.Dims = None,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    ray: opt.Ray = None,
    ray_cpus: opt.RayCpus = None,
    resume: opt.Continue = False,
    dry_run: opt.DryRun = False,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Does it help here? A study from a dataset alone, as thorough as the budget allows."""
    from augmint.study.prove import Request, plan_proof, prove

    talk, place = Talk(quiet=quiet), _given(data, "DATA")
    asked: dict[str, Any] = dict(
        budget=budget, method=method, settings=opt.settings_of(context, settings), copies=copies,
        augmentation=augmentation, segmenter=opt.read_settings(segmenter, {}, "--segmenter"),
        size=size, tests=tuple(map(str, tests or ())), allow_same_names=allow_same_names,
        preset=preset, steps=steps, dims=dims, seed=seed,
    )  # fmt: skip
    if dry_run:
        proof = plan_proof(Request(str(place), **asked), device=device, talk=talk)
        return _print(proof.to_dict(), as_json, proof.in_words() + "; nothing was written")
    made = prove(
        place, _given(out, "-o"), device=device, ray=ray, ray_cpus=ray_cpus, resume=resume,
        talk=talk, **asked,
    )  # fmt: skip
    _print(_folder(made), as_json)


@nnunet.command("prepare")
def nnunet_prepare(
    dataset: Annotated[
        Path, typer.Argument(metavar="OUT", help="A dataset made by `augmint augment`.")
    ],
    raw: NnunetRaw = None,
    preprocessed: NnunetPreprocessed = None,
    results: NnunetResults = None,
    dataset_id: Annotated[
        int | None, typer.Option("--id", help="Number of the dataset, where its name has none.")
    ] = None,
    plans_from: Annotated[
        str | None, typer.Option("--plans-from", help="Take over the plan of another dataset.")
    ] = None,
    plans_name: Annotated[
        str, typer.Option("--plans-name", help="Name of nnU-Net's plan.")
    ] = "nnUNetPlans",
    configuration: Annotated[
        list[str] | None, typer.Option("--configuration", help="2d or 3d_fullres; repeatable.")
    ] = None,
    synthetic_probability: Annotated[
        list[float] | None,
        typer.Option(
            "--synthetic-probability", help="Chance of a sample to be synthetic; repeatable."
        ),
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Of a training.")] = 1000,
    iterations: Annotated[int, typer.Option("--iterations", min=1, help="Of an epoch.")] = 250,
    copy: Annotated[bool, typer.Option("--copy", help="Copy files instead of linking.")] = False,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
) -> None:
    """Plan nnU-Net on the real cases alone, preprocess all, print the training commands."""
    from augmint.nnunet import CONFIGURATIONS, prepare_nnunet

    made = prepare_nnunet(
        dataset, raw=raw, preprocessed=preprocessed, results=results, dataset_id=dataset_id,
        plans_from=plans_from, plans_name=plans_name,
        configurations=tuple(configuration or CONFIGURATIONS),
        probabilities=tuple(synthetic_probability or (0.5,)), epochs=epochs,
        iterations=iterations, copy=copy, talk=Talk(quiet=quiet),
    )  # fmt: skip
    _print(made.to_dict(), as_json, made.in_words())


@nnunet.command("train")
def nnunet_train(
    dataset: NnunetDataset,
    arm: NnunetArm,
    configuration: NnunetConfiguration = "2d",
    fold: Annotated[str, typer.Option("--fold", help="A number, or all.")] = "0",
    raw: NnunetRaw = None,
    preprocessed: NnunetPreprocessed = None,
    results: NnunetResults = None,
    device: opt.Device = "auto",
    resume: opt.Continue = False,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
) -> None:
    """Train one arm on one fold with nnU-Net."""
    from augmint.nnunet import train_nnunet

    made = train_nnunet(
        dataset, arm, configuration=configuration, fold=fold, raw=raw, preprocessed=preprocessed,
        results=results, device=device, resume=resume, talk=Talk(quiet=quiet),
    )  # fmt: skip
    _print({"out": str(made)}, as_json)


@nnunet.command("predict")
def nnunet_predict(
    dataset: NnunetDataset,
    arm: NnunetArm,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Its real cases are predicted.")],
    out: opt.Out = None,
    configuration: NnunetConfiguration = "2d",
    fold: Annotated[
        list[str] | None, typer.Option("--fold", help="Repeatable; several are averaged.")
    ] = None,
    patients: opt.Patients = None,
    raw: NnunetRaw = None,
    preprocessed: NnunetPreprocessed = None,
    results: NnunetResults = None,
    device: opt.Device = "auto",
    resume: opt.Continue = False,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
) -> None:
    """Predict a dataset with a trained arm; score with `augmint score`."""
    from augmint.nnunet import predict_nnunet

    made = predict_nnunet(
        dataset, arm, data, _given(out, "-o"), configuration=configuration,
        folds=tuple(fold or ("0",)), patients=opt.named_patients(patients), raw=raw,
        preprocessed=preprocessed, results=results, device=device, resume=resume,
        talk=Talk(quiet=quiet),
    )  # fmt: skip
    _print({"out": str(made)}, as_json)


@app.command()
def phantoms(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="cine-mr or apical-ultrasound.")],
    out: opt.Out = None,
    vendor: Annotated[str, typer.Option("--vendor", help="Whose pictures to imitate.")] = "A",
    patients: Annotated[int, typer.Option("--patients", min=1, help="How many to draw.")] = 12,
    slices: Annotated[int, typer.Option("--slices", help="Planes of a cine MR stack.")] = 8,
    size: Annotated[int | None, typer.Option("--size", help="Pixels per side.")] = None,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Draw a cohort of simulated patients to try everything on."""
    from augmint.data.phantoms import make_phantoms

    made = make_phantoms(
        kind, out=_given(out, "-o"), vendor=vendor, patients=patients, seed=seed, slices=slices,
        size=size,
    )  # fmt: skip
    _print(_folder(made), as_json, f"wrote {patients} patients to {made}")


@app.command()
def stack(
    data: opt.Data = None,
    out: opt.Out = None,
    spacing: Annotated[
        str | None,
        typer.Option("--spacing", help="mm along rows, along columns, between slices: 1.3,1.3,10."),
    ] = None,
    pattern: Annotated[
        str | None,
        typer.Option("--pattern", help="Finds (?P<number>...) in a case's name; its last number."),
    ] = None,
    patients: opt.Patients = None,
    patient_regex: opt.PatientRegex = None,
    label_map: opt.LabelMap = None,
    seed: opt.Seed = 0,
    resume: opt.Continue = False,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Stack slices that are cases of their own into volumes."""
    from augmint.stacking import NUMBER, stack

    made = stack(
        _open(data, patient_regex, label_map, bare=True), _given(out, "-o"),
        spacing=opt.read_spacing(spacing), pattern=pattern or NUMBER,
        patients=opt.read_patients(patients), seed=seed, resume=resume, talk=Talk(quiet=quiet),
    )  # fmt: skip
    _print(_folder(made), as_json)


@app.command()
def stress(
    data: opt.Data = None,
    out: opt.Out = None,
    width: Annotated[
        str, typer.Option("--width", help="Least and largest factor of the sector's angle.")
    ] = "0.6,0.8",
    depth: Annotated[
        str, typer.Option("--depth", help="Least and largest factor of its depth.")
    ] = "0.65,0.85",
    tilt: Annotated[
        float, typer.Option("--tilt", help="Largest tilt to either side, degrees.")
    ] = 8.0,
    gain: Annotated[float, typer.Option("--gain", help="Largest gain to either side, dB.")] = 0.0,
    attenuation: Annotated[
        float, typer.Option("--attenuation", help="Largest attenuation over the depth, dB.")
    ] = 0.0,
    fixed: Annotated[
        bool, typer.Option("--fixed", help="Changes as large as the ranges allow, not within them.")
    ] = False,
    strength: Annotated[
        float, typer.Option("--strength", help="From 0 to 1, scales every change.")
    ] = 1.0,
    fill: Annotated[
        bool, typer.Option("--fill", help="Show the smaller field as large as the old one.")
    ] = False,
    labels: Annotated[
        str, typer.Option("--labels", help="clip cuts masks to the new sector, keep leaves them.")
    ] = "clip",
    patients: opt.Patients = None,
    patient_regex: opt.PatientRegex = None,
    label_map: opt.LabelMap = None,
    seed: opt.Seed = 0,
    resume: opt.Continue = False,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
    config: opt.Config = None,
) -> None:
    """Copy labelled ultrasound with a smaller field of view; nothing is generated."""
    from augmint.stress import stress

    made = stress(
        _open(data, patient_regex, label_map), _given(out, "-o"),
        width=opt.read_range(width, "--width"), depth=opt.read_range(depth, "--depth"), tilt=tilt,
        gain=gain, attenuation=attenuation, fixed=fixed, strength=strength, fill=fill,
        labels=labels, patients=opt.read_patients(patients), seed=seed, resume=resume,
        talk=Talk(quiet=quiet),
    )  # fmt: skip
    _print(_folder(made), as_json)


@app.command()
def survey(
    synthetic: Annotated[
        Path | None, typer.Argument(metavar="[SYNTHETIC]", help="A synthetic dataset.")
    ] = None,
    data: Annotated[
        Path | None, typer.Argument(metavar="[DATA]", help="The real dataset beside it.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="The folder to make; with --score the one that was made."),
    ] = None,
    images: Annotated[
        int, typer.Option("--images", help="How many frames, half of them generated.")
    ] = 60,
    rejected: Annotated[
        bool, typer.Option("--rejected", help="Also show cases that the gate rejected.")
    ] = False,
    answers: Annotated[
        list[Path] | None,
        typer.Option("--score", help="Answers that a reader saved; once for each reader."),
    ] = None,
    patient_regex: opt.PatientRegex = None,
    seed: opt.Seed = 0,
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
) -> None:
    """Make a visual Turing test for readers, or score their answers."""
    if answers:
        if synthetic or data:
            raise typer.BadParameter("--score takes no datasets; give the survey's folder as -o")
        from augmint.survey import score_survey

        result = score_survey(answers, _given(out, "-o", config=False))
        return _print(result.to_dict(), as_json, result.in_words())
    from augmint.survey import survey

    place = _given(synthetic, "SYNTHETIC", config=False)
    real = _open(_given(data, "DATA", config=False), patient_regex, None)
    made = survey(
        place, real, _given(out, "-o", config=False), images=images, seed=seed,
        accepted_only=not rejected, talk=Talk(quiet=quiet),
    )  # fmt: skip
    _print(_folder(made), as_json)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("-o", "--out", help="Its folder.")] = Path("demo"),
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    quiet: opt.Quiet = False,
    as_json: opt.Json = False,
) -> None:
    """Phantoms, synthetic cases from them, a report: minutes on two cores; goes on if stopped."""
    from augmint.demo import demo

    made = demo(out, seed=seed, device=device, talk=Talk(quiet=quiet))
    _print(_folder(made), as_json)


@app.command()
def doctor(as_json: opt.Json = False) -> None:
    """Check this machine: devices, memory, libraries, extras."""
    from augmint.doctor import doctor, in_words

    facts = doctor()
    _print(facts, as_json, in_words(facts))
    if facts["broken"]:
        raise typer.Exit(1)


def _open(
    data: Path | None,
    patient_regex: str | None,
    label_map: list[str] | None,
    *,
    name: str = "DATA",
    bare: bool = False,
) -> Dataset:
    from augmint.data.dataset import open_dataset

    return open_dataset(
        _given(data, name), patient_regex=patient_regex,
        label_map=opt.read_label_map(label_map), bare=bare,
    )  # fmt: skip


def _given(value: Path | None, name: str, *, config: bool = True) -> Path:
    if value is None:
        raise typer.BadParameter(f"{name} is missing{'; give it here or in --config' * config}")
    return value


def _folder(made: Path) -> dict[str, Any]:
    """What a command that wrote a folder answers."""
    facts: dict[str, Any] = {"out": str(made)}
    if (made / "run.json").is_file():
        run = json.loads((made / "run.json").read_text(encoding="utf-8"))
        facts.update({k: run[k] for k in ("dataset", "counts") if k in run})
    if (made / "report.html").is_file():
        facts["report"] = str(made / "report.html")
    return facts


def _print(result: Any, as_json: bool, text: str = "") -> None:
    if as_json:
        print(json.dumps(result, default=str))
    elif text or (isinstance(result, dict) and "out" in result):
        print(text or result["out"])
