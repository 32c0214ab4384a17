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
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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

        plan = plan_fit(dataset, out, talk=talk, **asked)
        return _print(plan, as_json, in_words(plan))
    from augmint.fit import fit

    made = fit(
        dataset, _given(out, "-o"), init=init,
        unlabelled=None if unlabelled is None else _open(unlabelled, patient_regex, None),
        resume=resume, talk=talk, **asked,
    )  # fmt: skip
    _print(_folder(made), as_json)


@app.command()
def generate(
    context: typer.Context,
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, or a method without one.")],
    data: opt.Data = None,
    out: opt.Out = None,
    settings: opt.Set = None,
    copies: opt.Copies = 5,
    patients: opt.Patients = None,
    shard: Annotated[
        str | None, typer.Option("--shard", help="i/n makes part i (from 0) of n, for n machines.")
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
    """Make synthetic cases with a fitted method; no gate judges them."""
    _needs_fit(run)
    talk = Talk(quiet=quiet)
    asked: dict[str, Any] = dict(
        copies=copies, patients=opt.read_patients(patients), shard=opt.read_shard(shard),
        settings=opt.settings_of(context, settings), seed=seed, device=device,
    )  # fmt: skip
    dataset = _open(data, patient_regex, label_map)
    if dry_run:
        from augmint.estimate import in_words, plan_generate

        plan = plan_generate(run, dataset, out, **asked)
        return _print(plan, as_json, in_words(plan))
    from augmint.generate import generate

    made = generate(run, dataset, _given(out, "-o"), resume=resume, talk=talk, **asked)
    _print(_folder(made), as_json)


@app.command()
def augment(
    context: typer.Context,
    data: opt.Data = None,
    out: opt.Out = None,
    method: opt.MethodName = "mask_to_image",
    settings: opt.Set = None,
    copies: opt.Copies = 5,
    preset: opt.PresetName = "quick",
    patients: opt.Patients = None,
    num_folds: Annotated[
        int, typer.Option("--folds", min=0, help="Cross-validation: one generator for each fold.")
    ] = 0,
    held_fraction: Annotated[
        float, typer.Option("--hold-back", help="Share of patients kept for validation.")
    ] = 0.2,
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
        method=method, settings=opt.settings_of(context, settings), copies=copies, preset=preset,
        patients=opt.read_patients(patients), num_folds=num_folds, held_fraction=held_fraction,
        steps=steps, dims=dims, seed=seed, device=device,
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
def segment(
    context: typer.Context,
    data: opt.Data = None,
    synthetic: Annotated[
        Path | None,
        typer.Argument(metavar="[SYNTHETIC]", help="Its accepted synthetic cases join."),
    ] = None,
    out: opt.Out = None,
    network: Annotated[
        str, typer.Option("--network", help="unet, residual_unet or attention_unet.")
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
        device=device,
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
    largest_component: Annotated[
        bool, typer.Option("--largest-component", help="Keep the largest part of each label.")
    ] = False,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Of the surface Dice, in mm or pixels.")
    ] = 2.0,
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
        tolerance=tolerance, seed=seed, device=device, resume=resume, talk=Talk(quiet=quiet),
    )  # fmt: skip
    _print({"out": str(out), **summary.to_dict()}, as_json, in_words(summary))


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


def _open(data: Path | None, patient_regex: str | None, label_map: list[str] | None) -> Dataset:
    from augmint.data.dataset import open_dataset

    return open_dataset(
        _given(data, "DATA"), patient_regex=patient_regex, label_map=opt.read_label_map(label_map)
    )


def _given(value: Path | None, name: str) -> Path:
    if value is None:
        raise typer.BadParameter(f"{name} is missing; give it here or in --config")
    return value


def _needs_fit(run: str) -> None:
    """A method's name where a run was expected gets a better answer than 'no such run'."""
    if Path(run).exists():
        return
    from augmint.methods import METHODS, build_method

    if run in METHODS or ":" in run:
        build_method(run)
        raise AugmintError(
            f"{run} needs a fit, as all of {', '.join(METHODS)} do; first "
            f"`augmint fit DATA --method {run} -o RUN`, then `augmint generate RUN DATA -o OUT`"
        )


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
    elif text:
        print(text)
