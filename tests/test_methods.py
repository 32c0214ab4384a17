"""One contract over all methods, and the determinism that generation promises."""

import dataclasses
import random
from dataclasses import replace
from typing import get_type_hints

import numpy as np
import pytest
import torch

from augmint.case import Case, Grid, IntensityMap
from augmint.diffusion.networks import build_network
from augmint.errors import AugmintError
from augmint.imaging.working import WorkingGrid
from augmint.methods import METHODS, DatasetFacts, Method, Samples, build_method
from augmint.methods.mask_to_image import MaskToImage, condition

LABELS = {"background": 0, "ring": 1, "pool": 2}


def facts_of(dims, window=16):
    grid = WorkingGrid(dims, (window + 8,) * dims, (window,) * dims, longest=window + 8)
    return DatasetFacts(1, LABELS, ("ring", "pool"), grid, "MR", ("A",))


def case_of(shape, name, *, mask=True):
    """A labelled case on the canvas, as `to_working` leaves it."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    axes = torch.meshgrid(*[torch.arange(n) - n / 2 for n in shape], indexing="ij")
    radius = sum(a.float() ** 2 for a in axes[:2]) ** 0.5 + torch.rand(1, generator=generator) * 2
    labels = (radius < 6).long() + (radius < 3).long()
    return Case(
        image=torch.rand(1, *shape, generator=generator) * 2 - 1,
        mask=labels if mask else None,
        annotated=frozenset({1, 2}),
        grid=Grid(shape, np.eye(len(shape) + 1), False),
        intensity=IntensityMap((0.0,), (255.0,), "uint8"),
        case_id=name,
        patient_id=f"patient of {name}",
        domain="A",
    )


def networks_of(method, facts):
    """Tiny networks with random weights everywhere: fresh ones predict zero."""
    built = {}
    for name, spec in method.networks(facts).items():
        network = build_network(spec.config)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for p in network.parameters():
                scale = p[0].numel() ** -0.5 if p.ndim > 1 else 0.3
                p.copy_(torch.randn(p.shape, generator=generator) * scale)
        built[name] = network.eval()
    return built


def tiny(name, **settings):
    fields = {f.name for f in dataclasses.fields(METHODS[name])}
    small = {"network": "tiny", "num_steps": 2, "batch_size": 4}
    if name == "reference_shift":
        small["strength"] = 0.4  # nothing is calibrated here
    return build_method(name, {**{k: v for k, v in small.items() if k in fields}, **settings})


def make(method, networks, orders, facts, seed=0):
    """{(source, copy): (image bytes, mask bytes)}"""
    made = {}
    for new in method.generate(networks, orders, facts, seed=seed):
        assert new.mask is not None
        key = (new.provenance.source_case, new.provenance.copy)
        made[key] = (new.image.numpy().tobytes(), new.mask.numpy().tobytes())
    return made


# sector_outpaint needs frames with a fan, which its own tests draw.
@pytest.fixture(params=[name for name in METHODS if name != "sector_outpaint"])
def name(request):
    return request.param


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_a_frozen_dataclass_with_defaults_and_a_docstring(name):
    kind = METHODS[name]
    assert isinstance(kind(), Method)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(kind(), dataclasses.fields(kind)[0].name, 1)
    for field in dataclasses.fields(kind):
        assert f"{field.name}:" in kind.__doc__, f"{field.name} is not documented"
        assert field.name in get_type_hints(kind)


@pytest.mark.parametrize("dims", [2, 3])
def test_examples_of_a_fit_fit_their_networks(name, dims):
    method, facts = tiny(name), facts_of(dims)
    canvas = facts.grid.canvas
    samples = Samples(
        torch.rand(3, 1, *canvas) * 2 - 1,
        torch.randint(3, (3, *canvas)),
        torch.tensor([-1, 0, 1.0]),
    )
    for spec in method.networks(facts).values():
        target, given = spec.example(samples, torch.Generator().manual_seed(1))
        again, _ = spec.example(samples, torch.Generator().manual_seed(1))
        assert torch.equal(target, again)
        assert target.shape == (3, spec.config.channels, *facts.grid.window)
        assert float(target.abs().max()) <= 1
        assert given is None or given.shape == (
            3, spec.config.condition_channels, *facts.grid.window,
        )  # fmt: skip
        with torch.no_grad():
            v = build_network(spec.config)(target, torch.full((3,), 0.5), given)
        assert v.shape == target.shape


@pytest.mark.parametrize(("dims", "shape"), [(2, (24, 24)), (2, (24, 24, 3)), (3, (24, 24, 24))])
def test_new_cases_are_whole_labelled_and_tell_where_they_come_from(name, dims, shape):
    method, facts = tiny(name), facts_of(dims)
    source = case_of(shape, "s1")
    orders = [(source, 0), (source, 3)]
    one, two = method.generate(networks_of(method, facts), orders, facts, seed=5)
    for new, copy in ((one, 0), (two, 3)):
        window = (16,) * dims if dims == len(shape) else (16, 16, 3)
        assert new.case_id == f"s1__s5_c{copy}"
        assert new.image.shape == (1, *window)
        assert new.image.dtype == torch.float32
        assert new.mask.shape == window
        assert -1 <= float(new.image.min()) < float(new.image.max()) <= 1
        assert set(new.mask.unique().tolist()) <= {0, 1, 2}
        assert int((new.mask == 2).sum()) > 10
        assert (new.patient_id, new.domain) == (source.patient_id, "A")
        assert new.annotated == source.annotated
        assert new.intensity == source.intensity
        origin = new.provenance
        assert (origin.source_case, origin.method, origin.seed, origin.copy) == (
            "s1",
            name,
            5,
            copy,
        )
        assert (origin.evaluations > 0) == bool(method.networks(facts))
        assert origin.walk
    # A shift keeps masks as they are; all others warp them.
    assert torch.equal(one.mask, two.mask) == (name == "reference_shift")
    assert not torch.equal(one.image, two.image)


def sources(kind, count):
    if kind == "frames":
        return [case_of((24, 24), f"f{i}") for i in range(count)]
    if kind == "volumes":
        return [case_of((24, 24, 1 + i % 5), f"v{i}") for i in range(count)]
    return [case_of((24, 24, 24), f"s{i}") for i in range(count)]


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize(
    ("kind", "dims", "most"), [("frames", 2, 64), ("volumes", 2, 20), ("solids", 3, 5)]
)
def test_bytes_depend_on_nothing_but_seed_case_and_copy(name, kind, dims, most, guidance):
    fields = {f.name for f in dataclasses.fields(METHODS[name])}
    if guidance != 1 and "guidance" not in fields:
        pytest.skip("this method has no guidance")
    method = tiny(name, **({"guidance": guidance} if "guidance" in fields else {}))
    facts = facts_of(dims)
    networks, cases = networks_of(method, facts), sources(kind, most)
    whole = make(method, networks, [(c, 0) for c in cases], facts)
    assert len(set(whole.values())) == most
    for count in (1, 2, 7):
        part = make(method, networks, [(c, 0) for c in cases[:count]], facts)
        assert part == {k: whole[k] for k in part}
    shuffled = random.Random(1).sample(cases, min(most, 9))
    part = make(method, networks, [(c, 0) for c in shuffled], facts)
    assert part == {k: whole[k] for k in part}
    # Other copies, before and between, change nothing and are themselves stable.
    mixed = [(c, copy) for c in cases[1:4] for copy in (2, 0, 1)]
    several = make(method, networks, mixed, facts)
    assert {k: v for k, v in several.items() if k[1] == 0} == {
        (c.case_id, 0): whole[c.case_id, 0] for c in cases[1:4]
    }
    alone = make(method, networks, [(cases[2], 1)], facts)
    assert alone == {(cases[2].case_id, 1): several[cases[2].case_id, 1]}
    assert make(method, networks, [(cases[0], 0)], facts, seed=1) != {
        (cases[0].case_id, 0): whole[cases[0].case_id, 0]
    }


@pytest.mark.parametrize(("dims", "shape"), [(2, (24, 24, 3)), (3, (24, 24, 24))])
def test_warped_pairs_have_the_masks_of_mask_to_image(dims, shape):
    facts, orders = facts_of(dims), [(case_of(shape, "a"), 0), (case_of(shape, "b"), 2)]
    painted = tiny("mask_to_image")
    painted = painted.generate(networks_of(painted, facts), orders, facts, seed=3)
    for one, two in zip(painted, tiny("warped_pairs").generate({}, orders, facts, seed=3)):
        assert one.case_id == two.case_id
        assert torch.equal(one.mask, two.mask)


def test_warped_pairs_move_image_and_mask_together():
    facts, case = facts_of(2), case_of((24, 24), "a")
    # An image that shows its mask still does after the warp, but for interpolated edges.
    case = replace(case, image=case.mask[None].float() - 1)
    (new,) = tiny("warped_pairs").generate({}, [(case, 0)], facts, seed=0)
    assert not torch.equal(new.mask, case.mask[4:20, 4:20])
    assert float(((new.image[0] + 1).round().long() == new.mask).float().mean()) > 0.97
    (still,) = tiny("warped_pairs", warp=0.0).generate({}, [(case, 0)], facts, seed=0)
    torch.testing.assert_close(still.image, case.image[:, 4:20, 4:20], atol=1e-4, rtol=0)


def test_orders_are_read_lazily(name):
    method, facts = tiny(name), facts_of(2)
    read = []

    def orders():
        for case in sources("frames", 20):
            read.append(case.case_id)
            yield case, 0

    next(iter(method.generate(networks_of(method, facts), orders(), facts, seed=0)))
    assert len(read) <= 8


def test_guidance_and_steps_are_counted():
    plain = MaskToImage(num_steps=6, solver="multistep")
    assert plain.evaluations == 6
    assert replace(plain, guidance=2.0).evaluations == 12
    # Heun evaluates twice a step, but for the last.
    assert replace(plain, solver="heun").evaluations == 11
    facts = facts_of(2)
    method = tiny("mask_to_image", guidance=1.5, solver="heun", num_steps=3)
    networks, passes = networks_of(method, facts), []
    networks["image"].register_forward_hook(lambda m, args, out: passes.append(len(args[0])))
    (new,) = method.generate(networks, [(case_of((24, 24), "a"), 0)], facts, seed=0)
    assert sum(passes) == new.provenance.evaluations * method.batch_size


def test_settings_change_the_images():
    facts, case = facts_of(2), case_of((24, 24, 3), "a")
    networks = networks_of(tiny("mask_to_image"), facts)

    def image(**settings):
        (new,) = tiny("mask_to_image", **settings).generate(networks, [(case, 0)], facts, seed=0)
        return new

    plain = image()
    assert torch.equal(plain.image, image().image)
    for settings in ({"guidance": 2.0}, {"num_steps": 3}, {"shift": 3.0}, {"shared_noise": 0.5}):
        other = image(**settings)
        assert torch.equal(other.mask, plain.mask), settings
        assert not torch.equal(other.image, plain.image), settings
    still = image(warp=0.0)
    assert torch.equal(still.mask, case.mask[4:20, 4:20])


def test_one_warp_moves_all_slices_of_a_volume():
    facts, case = facts_of(2), case_of((24, 24, 4), "a")
    method = tiny("mask_to_image", warp=2.0)
    (new,) = method.generate(networks_of(method, facts), [(case, 0)], facts, seed=0)
    # The slices of this source are alike, so after one common warp they still are.
    assert torch.equal(case.mask[..., 0], case.mask[..., 3])
    assert all(torch.equal(new.mask[..., 0], new.mask[..., z]) for z in range(4))


def test_shared_noise_makes_slices_alike():
    facts, case = facts_of(2), case_of((24, 24, 4), "a")

    def spread(share):
        method = tiny("mask_to_image", shared_noise=share, conditioning="concat")
        (new,) = method.generate(networks_of(method, facts), [(case, 0)], facts, seed=0)
        return float(new.image.std(-1).mean())

    assert spread(0.95) < 0.7 * spread(0.0)


def test_a_case_without_a_mask_is_refused_by_name():
    facts, method = facts_of(2), tiny("mask_to_image")
    orders = [(case_of((24, 24), "bare", mask=False), 0)]
    with pytest.raises(AugmintError, match="case 'bare' has no mask"):
        list(method.generate(networks_of(method, facts), orders, facts, seed=0))


def test_a_dataset_without_labels_is_refused():
    facts = replace(facts_of(2), labels={"background": 0})
    with pytest.raises(AugmintError, match="at least one label"):
        MaskToImage().networks(facts)


def test_the_condition_is_one_hot_with_a_plane_of_the_position():
    masks = torch.tensor([[[0, 1], [2, 0]], [[1, 1], [1, 1]]])
    given = condition(masks, torch.tensor([-1.0, 0.25]), 3)
    assert given.shape == (2, 4, 2, 2)
    assert torch.equal(given[:, :3].argmax(1), masks)
    assert torch.equal(given[:, :3].sum(1), torch.ones(2, 2, 2))
    assert given[0, 3].unique().tolist() == [-1]
    assert given[1, 3].unique().tolist() == [0.25]


def test_facts_survive_json():
    import json

    facts = facts_of(2)
    assert DatasetFacts.from_json(json.loads(json.dumps(facts.to_json()))) == facts
    assert facts.num_classes == 3


def test_strings_are_read_as_the_type_of_their_field():
    method = build_method("mask_to_image", {"num_steps": "4", "guidance": "1.5", "solver": "euler"})
    assert method == MaskToImage(num_steps=4, guidance=1.5, solver="euler")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "mask2image",
            {},
            "unknown method 'mask2image'; known are mask_to_image, reference_shift, "
            "sector_outpaint, warped_pairs",
        ),
        ("mask_to_image", {"colour": 1}, "no field 'colour'; its fields are masks, conditioning"),
        ("mask_to_image", {"num_steps": "many"}, "field num_steps cannot be 'many'"),
        ("mask_to_image", {"solver": "rk4"}, "field solver cannot be 'rk4'"),
        ("no_such_module:Method", {}, "cannot be imported"),
        ("augmint.case:Nothing", {}, "cannot be imported"),
        ("json:dumps", {}, "frozen dataclass"),
    ],
)
def test_a_wrong_name_or_field_is_one_clear_error(name, settings, message):
    with pytest.raises(AugmintError, match=message):
        build_method(name, settings)


def test_a_method_of_ones_own_is_named_by_module_and_class():
    assert build_method("augmint.methods.mask_to_image:MaskToImage") == MaskToImage()
