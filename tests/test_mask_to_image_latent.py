"""Images of `mask_to_image` diffused as latents: the method, its fit, its run folder."""

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml

from augmint.data import open_dataset
from augmint.data.phantoms import make_phantoms
from augmint.diffusion.autoencoder import Autoencoder
from augmint.errors import AugmintError
from augmint.estimate import plan_fit
from augmint.fit import fit, load_run
from augmint.generate import generate
from augmint.methods import Samples, build_method
from augmint.methods.mask_to_image import condition
from augmint.progress import Talk
from test_methods import case_of, facts_of, make

QUIET = Talk(quiet=True)
SETTINGS = {"space": "latent", "network": "tiny", "num_steps": 2, "batch_size": 4}


def latent(**settings):
    return build_method("mask_to_image", {**SETTINGS, **settings})


def networks_of(method, facts):
    """Tiny networks; denoisers with random weights everywhere, since fresh ones predict zero."""
    built = {}
    for name, spec in method.networks(facts).items():
        torch.manual_seed(7)
        network = spec.config.build()
        if name != "autoencoder":
            with torch.no_grad():
                for p in network.parameters():
                    p.copy_(torch.randn(p.shape) * (p[0].numel() ** -0.5 if p.ndim > 1 else 0.3))
        built[name] = network.eval()
    return built


@pytest.mark.parametrize("factor", [2, 4])
def test_a_coarser_grid_is_told_every_pixel_of_the_mask(factor):
    generator = torch.Generator().manual_seed(0)
    masks = torch.randint(3, (2, 16, 8), generator=generator)
    positions = torch.tensor([-1.0, 0.5])
    given = condition(masks, positions, 3, factor)
    assert given.shape == (2, 3 * factor**2 + 1, 16 // factor, 8 // factor)
    assert given[1, -1].unique().tolist() == [0.5]
    # Cell by cell the channels are the pixels, class by class, from left to right and down.
    cells = masks.reshape(2, 16 // factor, factor, 8 // factor, factor).permute(0, 2, 4, 1, 3)
    classes = given[:, :-1].reshape(2, 3, factor, factor, 16 // factor, 8 // factor)
    assert torch.equal(classes.argmax(1), cells)
    assert torch.equal(classes.sum(1), torch.ones_like(cells).float())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("conditioning", ["concat", "spade"])
def test_examples_fit_their_networks(dims, conditioning):
    method, facts = latent(conditioning=conditioning), facts_of(dims)
    canvas = facts.grid.canvas
    samples = Samples(
        torch.rand(2, 1, *canvas) * 2 - 1, torch.randint(3, (2, *canvas)), torch.tensor([-1, 1.0])
    )
    specs = method.networks(facts)
    assert list(specs) == ["autoencoder", "image"]
    fitted = {}
    for name, spec in specs.items():
        target, given = spec.example(samples, torch.Generator().manual_seed(1))
        assert target.shape == (2, 1, *facts.grid.window)
        network = spec.config.build()
        loss = spec.loss(fitted)(
            network, target, given, torch.randn(target.shape), torch.full((2,), 0.5)
        )
        loss.backward()
        assert loss.shape == ()
        assert float(loss.detach()) > 0
        fitted[name] = network
    assert given.shape == (2, 3 * 4**dims + 1, *[4] * dims)
    assert specs["image"].config.stem == 1


@pytest.mark.parametrize(("dims", "shape"), [(2, (24, 24)), (2, (24, 24, 3)), (3, (24, 24, 24))])
def test_new_cases_are_on_the_window_and_in_range(dims, shape):
    method, facts = latent(), facts_of(dims)
    (new,) = method.generate(networks_of(method, facts), [(case_of(shape, "a"), 2)], facts, seed=5)
    window = (16,) * dims if dims == len(shape) else (16, 16, 3)
    assert new.image.shape == (1, *window)
    assert new.mask.shape == window
    assert new.image.dtype == torch.float32
    assert -1 <= float(new.image.min()) < float(new.image.max()) <= 1
    assert new.provenance.evaluations == 2


@pytest.mark.parametrize("masks", ["warped", "generated", "both"])
def test_bytes_depend_on_nothing_but_seed_case_and_copy(masks):
    method, facts = latent(masks=masks, label_network="tiny", label_steps=2), facts_of(2)
    facts = replace(facts, areas={n: ((0.2,) * 41,) * 5 for n in ("ring", "pool")})
    networks = networks_of(method, facts)
    assert list(method.networks(facts))[-2:] == ["autoencoder", "image"]
    orders = [(case_of((24, 24, 1 + i), f"v{i}"), i % 2) for i in range(5)]
    whole = make(method, networks, orders, facts)
    assert len(set(whole.values())) == 5
    assert make(method, networks, orders[2:4], facts).items() <= whole.items()
    assert make(method, networks, orders[::-1], facts) == whole
    assert make(method, networks, orders, facts, seed=1) != whole


def test_the_same_masks_as_in_pixels():
    facts, orders = facts_of(2), [(case_of((24, 24, 3), "a"), 1)]
    pixel = replace(latent(), space="pixel")
    (one,) = latent().generate(networks_of(latent(), facts), orders, facts, seed=3)
    (two,) = pixel.generate(networks_of(pixel, facts), orders, facts, seed=3)
    assert torch.equal(one.mask, two.mask)


def test_shared_noise_makes_slices_alike():
    facts, case = facts_of(2), case_of((24, 24, 4), "a")

    def spread(share):
        method = latent(shared_noise=share)
        (new,) = method.generate(networks_of(method, facts), [(case, 0)], facts, seed=0)
        return float(new.image.std(-1).mean())

    assert spread(0.95) < 0.7 * spread(0.0)


def test_guidance_counts_twice_and_decoding_is_no_evaluation():
    facts, method = facts_of(2), latent(guidance=2.0)
    networks, passes = networks_of(method, facts), []
    networks["image"].register_forward_hook(lambda m, args, out: passes.append(len(args[0])))
    (new,) = method.generate(networks, [(case_of((24, 24), "a"), 0)], facts, seed=0)
    assert new.provenance.evaluations == 4
    assert sum(passes) == 4 * method.batch_size


def test_a_window_that_cannot_be_divided_is_refused():
    with pytest.raises(
        AugmintError,
        match=r"tiny network with latent_factor 8 needs sizes that are multiples of 16, the "
        r"working window is \(24, 24\); use a smaller network or latent_factor",
    ):
        latent(latent_factor=8).networks(facts_of(2, 24))


@pytest.mark.parametrize("factor", [0, 1, 3, 32])
def test_a_factor_that_is_not_offered_is_refused(factor):
    with pytest.raises(AugmintError, match=f"latent_factor is 2, 4, 8 or 16; got {factor}"):
        latent(latent_factor=factor)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "data"
    return open_dataset(make_phantoms("cine-mr", out=folder, patients=2, slices=3, size=32))


def fit_tiny(dataset, out, **changes):
    given = dict(settings=SETTINGS, preset="tiny", steps=3, device="cpu", talk=QUIET)
    return fit(dataset, out, **{**given, **changes})


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    return fit_tiny(dataset, tmp_path_factory.mktemp("run") / "run")


def weights(run: Path) -> dict[str, bytes]:
    best = run / "checkpoints" / "best"
    return {p.parent.name: p.read_bytes() for p in best.rglob("network.safetensors")}


def test_a_run_holds_both_networks_and_loads(run):
    assert set(weights(run)) == {"autoencoder", "image"}
    fitted = load_run(run, device="cpu")
    assert list(fitted.hashes) == ["autoencoder", "image"]
    assert isinstance(fitted.networks["autoencoder"], Autoencoder)
    assert float((fitted.networks["autoencoder"].deviation - 1).abs().min()) > 0
    assert yaml.safe_load((run / "config.yaml").read_text())["settings"]["space"] == "latent"
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    assert [x["network"] for x in lines] == ["autoencoder"] * 3 + ["image"] * 3
    assert (run / "sheets" / "samples.png").exists()


def test_the_same_seed_gives_the_same_weights(dataset, run, tmp_path):
    assert weights(fit_tiny(dataset, tmp_path / "again")) == weights(run)
    assert weights(fit_tiny(dataset, tmp_path / "other", seed=1)) != weights(run)


class KilledError(Exception):
    """Stands for a kill."""


@pytest.mark.parametrize("moment", ["finish", "save", "image"])
def test_a_kill_between_the_networks_loses_nothing(dataset, run, tmp_path, monkeypatch, moment):
    module = import_module("augmint.fit")

    real = {"fit": module.fit_network, "save": module.save_network}

    def fit_network(*given, name, **named):
        if moment == "image" and name == "image":
            raise KilledError
        done = real["fit"](*given, name=name, **named)
        if moment == "finish":
            raise KilledError
        return done

    def save_network(folder, network):
        if moment == "save":
            raise KilledError
        return real["save"](folder, network)

    with monkeypatch.context() as patch:
        patch.setattr(module, "fit_network", fit_network)
        patch.setattr(module, "save_network", save_network)
        with pytest.raises(KilledError):
            fit_tiny(dataset, tmp_path / "run")
    assert weights(fit_tiny(dataset, tmp_path / "run", resume=True)) == weights(run)


def test_cases_are_generated_from_the_run(dataset, run, tmp_path):
    out = generate(run, dataset, tmp_path / "OUT", copies=1, device="cpu", talk=QUIET)
    rows = (out / "manifest.csv").read_text().splitlines()
    assert len(rows) == 1 + 2 * len(dataset)
    both = "+".join(load_run(run, device="cpu").hashes.values())
    assert sum(both in row for row in rows) == len(dataset)
    made = list((out / "imagesTr").glob("*__s0_c0_0000*"))
    assert len(made) == len(dataset)


def test_fields_that_need_a_new_fit_are_refused(run):
    assert load_run(run, settings={"num_steps": 1, "shared_noise": 0.5}, device="cpu")
    for changed in ({"space": "pixel"}, {"latent_factor": 2}, {"network": "small"}):
        with pytest.raises(AugmintError, match="need another network than the one that was fitted"):
            load_run(run, settings=changed, device="cpu")


def test_runs_in_pixels_from_before_still_load(dataset, tmp_path):
    settings = {k: v for k, v in SETTINGS.items() if k != "space"}
    run = fit_tiny(dataset, tmp_path / "run", settings=settings)
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for field in ("space", "latent_factor"):
        del config["settings"][field]
    path.write_text(yaml.safe_dump(config))
    fitted = load_run(run, device="cpu")
    assert fitted.method.space == "pixel"
    assert list(fitted.networks) == ["image"]
    with pytest.raises(AugmintError, match="need another network than the one that was fitted"):
        load_run(run, settings={"space": "latent"}, device="cpu")
    with pytest.raises(AugmintError, match=r"--init .*it has no network 'autoencoder'"):
        fit_tiny(dataset, tmp_path / "tuned", init=run)


def test_a_fit_can_start_from_a_run(dataset, run, tmp_path):
    tuned = fit_tiny(dataset, tmp_path / "tuned", init=run, steps=1)
    assert set(weights(tuned)) == {"autoencoder", "image"}
    assert weights(tuned) != weights(run)
    with pytest.raises(AugmintError, match="--init"):
        fit_tiny(dataset, tmp_path / "other", init=run, settings={**SETTINGS, "latent_factor": 2})


def test_the_plan_measures_both_networks(dataset):
    plan = plan_fit(
        dataset, None, method="mask_to_image", settings=SETTINGS, preset="tiny", patients=None,
        steps=None, dims=None, seed=0, device="cpu", talk=QUIET,
    )  # fmt: skip
    assert set(plan["networks"]) == {"autoencoder", "image"}
    assert plan["minutes"]["fit"] > 0
