"""New label maps: what the network is told, and stacks that are drawn slice by slice."""

import numpy as np
import pytest
import torch

from augmint.data.pool import Pool
from augmint.diffusion.networks import LEAST_LEVEL
from augmint.diffusion.sampling import descend
from augmint.errors import AugmintError
from augmint.fit import drawer, slices_before
from augmint.imaging.label_codes import encode
from augmint.methods import Samples
from augmint.methods.label_diffusion import (
    AMPLITUDE,
    Ask,
    draw_stacks,
    label_condition,
    label_loss,
    label_spec,
    read_asks,
)
from augmint.methods.protocol import (
    POSITIONS,
    QUANTILES,
    DatasetFacts,
    label_size,
    position_range,
)
from augmint.prepare import label_areas
from test_methods import LABELS, case_of, facts_of, make, networks_of, tiny

SMALL = {"label_network": "tiny", "label_stem": 2, "label_steps": 2}


def facts_with_areas(dims=2):
    """Of `ring` the sizes run from 0 to 0.4, a little larger from one range to the next."""
    facts = facts_of(dims)
    rows = tuple(
        tuple(float(q) for q in np.linspace(0.01 * b, 0.4 + 0.01 * b, QUANTILES))
        for b in range(POSITIONS)
    )
    return DatasetFacts(**{**vars(facts), "areas": {"ring": rows, "pool": rows}})


class Told:
    """A denoiser that remembers what it is told and always paints the same maps."""

    def __init__(self, maps):
        self.maps, self.given = maps, []
        self.weight = torch.zeros(1)

    def parameters(self):
        return iter([self.weight])

    def __call__(self, x, t, given):
        self.given.append(given)
        # The velocity whose path ends in the map that belongs to the slice's position.
        z = ((given[:, 0, 0, 0] + 1) * (len(self.maps) - 1) / 2).round().long()
        target = encode(self.maps[z], 3, "one_hot")
        return (x - target) / t.reshape(-1, 1, 1, 1)


def drawn(told, orders, **changes):
    asked = dict(coding="one_hot", asks=(), batch_size=4, seed=0)
    return draw_stacks(told, orders, facts_with_areas(), descend(3), **{**asked, **changes})


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, (5, 16, 16), generator=generator)


def test_asks():
    assert read_asks("LV area > p95; RV area<p2.5", ["LV", "RV"]) == (
        Ask("LV", 0.95, 1.0),
        Ask("RV", 0.0, 0.025),
    )
    assert read_asks("", ["LV"]) == ()
    assert read_asks("left atrium area > p5", ["left atrium"])[0].label == "left atrium"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("LV > p95", "wants LABEL area > pNN"),
        ("LV area > 95", "wants LABEL area > pNN"),
        ("LV area > p101", "from 0 to 100; got 'LV area > p101'"),
        ("LA area > p5", "no label named 'LA'; choose from LV, RV"),
        ("LV area > p5; LV area < p9", "LV is asked for twice"),
    ],
)
def test_a_wrong_ask_is_one_clear_error(text, message):
    with pytest.raises(AugmintError, match=message):
        read_asks(text, ["LV", "RV"])


def test_the_condition_by_hand():
    below = torch.tensor([[[0, 2]], [[255, 255]]])
    sizes = torch.tensor([[0.25, torch.nan], [torch.nan, 0.5]])
    given = label_condition(torch.tensor([-1.0, 0.5]), below, sizes, 3)
    assert given.shape == (2, 8, 1, 2)
    assert given[0, :, 0].T.tolist() == [
        [-1, 1, 0, 0, 0.25, 1, 0, 0],
        [-1, 0, 0, 1, 0.25, 1, 0, 0],
    ]
    assert given[1, :, 0, 0].tolist() == [0.5, 0, 0, 0, 0, 0, 0.5, 1]


def test_slices_before():
    names = ["a#z000", "a#z001", "b#z000", "a#z002", "b#z002", "frame"]
    assert slices_before(names).tolist() == [-1, 0, -1, 1, -1, -1]


def test_sizes_of_real_slices():
    masks = torch.zeros(10, 4, 4, dtype=torch.uint8)
    for n in range(10):
        masks[n].flatten()[: n + 1] = 1
    pool = Pool(
        torch.zeros(10, 1, 4, 4), masks, torch.linspace(-1, 1, 10),
        (frozenset({1}),) * 10, tuple("abcdefghij"), tuple("abcdefghij"),
    )  # fmt: skip
    (rows,) = label_areas(pool, {"background": 0, "organ": 1}).values()
    assert len(rows) == POSITIONS
    assert len(rows[0]) == QUANTILES
    # Two slices in each range: the first has 1 and 2 pixels of 16, the last 9 and 10.
    assert rows[0][0] == pytest.approx((1 / 16) ** 0.5, abs=1e-5)
    assert rows[0][-1] == pytest.approx((2 / 16) ** 0.5, abs=1e-5)
    assert rows[-1][0] == pytest.approx((9 / 16) ** 0.5, abs=1e-5)
    assert rows[-1][-1] == pytest.approx((10 / 16) ** 0.5, abs=1e-5)
    # A frame lies in the middle; where no sample lies, all of them count.
    frames = Pool(pool.images, masks, torch.zeros(10), *[pool.annotated] * 1, *[pool.case_ids] * 2)
    (rows,) = label_areas(frames, {"background": 0, "organ": 1}).values()
    assert rows[0] == rows[2]
    assert position_range(torch.tensor([-1.0, -0.1, 0.1, 1.0])).tolist() == [0, 2, 2, 4]


def test_facts_keep_their_areas():
    facts = facts_with_areas()
    assert DatasetFacts.from_json(facts.to_json()) == facts


def test_what_is_learned_fits_together():
    facts = facts_of(2, window=64)
    spec = label_spec(facts, coding="one_hot", size="tiny", stem=2, warp=0.0)
    masks = torch.stack([case_of((72, 72), n).mask for n in "abcd"] * 20)
    below = masks.roll(1, 0)
    below[::4] = 255
    samples = Samples(
        torch.zeros(80, 1, 72, 72), masks, torch.linspace(-1, 1, 80), ("",) * 80, below
    )
    target, given = spec.example(samples, torch.Generator().manual_seed(0))
    assert spec.labelled
    assert target.shape[1] == spec.config.channels == 3
    assert given.shape[1] == spec.config.condition_channels == 8
    window = masks[:, 4:68, 4:68]
    assert torch.equal(target, AMPLITUDE * encode(window, 3, "one_hot"))
    shown = given[:, 1:4].sum(1)
    known = shown.flatten(1).all(1)
    assert not known[::4].any()
    assert 30 < int(known.sum()) < 60
    # The slice below is moved a little more, so it is near the real one and seldom the same.
    real = below[:, 4:68, 4:68]
    alike = (given[:, 1:4].argmax(1) == real).float().mean((1, 2))[known]
    assert float(alike.min()) > 0.95
    assert float(alike.mean()) < 1
    sizes, told = given[:, 4::2, 0, 0], given[:, 5::2, 0, 0] > 0
    for k in (1, 2):
        assert torch.allclose(sizes[told[:, k - 1], k - 1], label_size(window == k)[told[:, k - 1]])
    assert 0.1 < float(told.float().mean()) < 0.4
    assert (sizes[~told] == 0).all()


def test_unlabelled_images_do_not_teach_empty_masks():
    facts = facts_of(2)
    spec = label_spec(facts, coding="one_hot", size="tiny", stem=2, warp=0.0)
    names = tuple("abcdef")
    masks = torch.ones(6, 24, 24, dtype=torch.uint8)
    pool = Pool(
        torch.zeros(6, 1, 24, 24).half(), masks, torch.zeros(6), (frozenset(),) * 6, names, names
    )
    bare = Pool(
        pool.images, torch.full_like(masks, 255), torch.zeros(6), pool.annotated, names, names
    )
    target, given = drawer(spec, pool, bare)(torch.Generator().manual_seed(0), 60)
    assert (target[:, 1] == torch.tensor(AMPLITUDE)).all()
    assert given is not None


def test_a_stack_is_drawn_from_its_first_slice_to_its_last(maps):
    told = Told(maps)
    (stack,) = drawn(told, [(case_of((24, 24, 5), "a"), 1)])
    assert torch.equal(stack.mask, maps.movedim(0, -1))
    # Three evaluations for each slice, the batch padded to four.
    positions = [float(g[0, 0, 0, 0]) for g in told.given]
    first = sorted(set(positions))
    assert first == [-1, -0.5, 0, 0.5, 1]
    assert positions == sorted(positions)
    for given in told.given:
        z = round(float((given[0, 0, 0, 0] + 1) * 2))
        below = given[0, 1:4]
        if z == 0:
            assert (below == 0).all()
        else:
            assert torch.equal(below.argmax(0), maps[z - 1])
    assert all((g[:, 4:] == 0).all() for g in told.given)


def test_what_is_asked_for_is_told_at_every_slice(maps):
    told = Told(maps)
    asks = read_asks("ring area > p95", ["ring", "pool"])
    stacks = drawn(told, [(case_of((24, 24, 5), n), 0) for n in "abcd"], asks=asks)
    quantiles = [s.asked["ring"] for s in stacks]
    assert len(set(quantiles)) == 4
    assert all(0.95 <= q <= 1 for q in quantiles)
    for given in told.given:
        place = int(position_range(given[:1, 0, 0, 0]))
        wanted = [0.01 * place + 0.4 * q for q in quantiles]
        assert given[:, 4, 0, 0].tolist() == pytest.approx(wanted, abs=1e-5)
        assert (given[:, 5] == 1).all()
        assert (given[:, 6:] == 0).all()


@pytest.mark.parametrize("shape", [(24, 24), (24, 24, 3)])
@pytest.mark.parametrize("coding", ["one_hot", "analog_bits", "signed_distance"])
def test_masks_and_images_are_new(shape, coding):
    facts = facts_with_areas()
    method = tiny("mask_to_image", masks="generated", coding=coding, ask="pool area < p10", **SMALL)
    networks = networks_of(method, facts)
    assert set(networks) == {"label", "image"}
    case = case_of(shape, "a")
    orders = [(case, 0), (case, 1)]
    new, other = method.generate(networks, orders, facts, seed=3)
    assert new.image.shape == (1, 16, 16, *shape[2:])
    assert new.mask.shape == (16, 16, *shape[2:])
    assert set(new.mask.unique().tolist()) <= set(LABELS.values())
    assert not torch.equal(new.mask, other.mask)
    assert not torch.equal(new.image, other.image)
    assert new.case_id == "a__s3_c0"
    assert new.provenance.evaluations == method.evaluations == 2 + 2
    details = new.provenance.details
    assert details["masks"] == "generated"
    assert details["label_evaluations"] == 2
    assert 0 <= details["asked_pool"] <= 0.1


def test_a_volume_is_drawn_whole_by_a_3d_network():
    facts = facts_with_areas(3)
    method = tiny("mask_to_image", masks="generated", **{**SMALL, "label_stem": 1})
    networks = networks_of(method, facts)
    (new,) = method.generate(networks, [(case_of((24, 24, 24), "a"), 0)], facts, seed=0)
    assert new.mask.shape == new.image.shape[1:] == (16, 16, 16)


def test_both_kinds_in_turn():
    facts = facts_with_areas()
    both = tiny("mask_to_image", masks="both", **SMALL)
    networks = networks_of(both, facts)
    orders = [(case_of((24, 24, 2), n), copy) for n in "ab" for copy in range(4)]
    made = list(both.generate(networks, orders, facts, seed=0))
    assert [m.provenance.copy for m in made] == [0, 1, 2, 3] * 2
    kinds = [m.provenance.details["masks"] for m in made]
    assert kinds == ["warped", "generated"] * 4
    assert [m.provenance.evaluations for m in made] == [2, 4] * 4
    # Each is what it would be if all were of its kind.
    warped = tiny("mask_to_image")
    alone = list(warped.generate({"image": networks["image"]}, orders, facts, seed=0))
    for k in (0, 2, 4, 6):
        assert torch.equal(made[k].image, alone[k].image)
        assert torch.equal(made[k].mask, alone[k].mask)


def test_companions_and_order_do_not_matter():
    facts = facts_with_areas()
    method = tiny("mask_to_image", masks="generated", **SMALL)
    networks = networks_of(method, facts)
    orders = [
        (case_of((24, 24, z), n), c) for n, z in (("a", 3), ("b", 1), ("c", 2)) for c in (0, 1)
    ]
    together = make(method, networks, orders, facts)
    assert make(method, networks, orders[::-1], facts) == together
    for order in orders:
        assert make(method, networks, [order], facts).items() <= together.items()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ask": "ring area > p95"}, "needs generated masks; set masks=generated"),
        ({"masks": "drawn"}, "field masks cannot be 'drawn'"),
        ({"coding": "bits"}, "field coding cannot be 'bits'"),
        ({"label_steps": 0}, "label_steps is from 1 to 1000; got 0"),
        ({"label_stem": 0}, "label_stem is 1 or more; got 0"),
        ({"label_warp": -1}, "label_warp is 0 or more; got -1"),
    ],
)
def test_a_wrong_field_is_one_clear_error(settings, message):
    with pytest.raises(AugmintError, match=message):
        tiny("mask_to_image", **settings)


def test_what_does_not_suit_the_data_is_one_clear_error():
    with pytest.raises(AugmintError, match="no label named 'LV'; choose from ring, pool"):
        tiny("mask_to_image", masks="generated", ask="LV area > p5").networks(facts_of(2))
    with pytest.raises(AugmintError, match="label_stem 16 needs sizes that are multiples of"):
        tiny("mask_to_image", masks="generated", label_stem=16).networks(facts_of(2))


def test_the_loss_is_the_error_of_the_codes_at_every_level_alike():
    off = 0.3

    class Near(torch.nn.Module):
        """Points at codes that are `off` of their size away from the true ones."""

        def forward(self, x_t, t, condition):
            wide = t.reshape(-1, 1, 1, 1).clamp(min=LEAST_LEVEL)
            return (x_t - (clean + off * AMPLITUDE)) / wide

    clean = AMPLITUDE * encode(torch.randint(0, 3, (4, 8, 8)), 3, "one_hot")
    eps = torch.randn(clean.shape)
    for level in (0.01, 0.2, 0.9):
        found = label_loss(Near(), clean, None, eps, torch.full((4,), level))
        assert found.item() == pytest.approx(off**2, rel=1e-3)
    spec = label_spec(facts_of(2), coding="one_hot", size="tiny", stem=2, warp=0.0)
    assert spec.loss is not None
    assert spec.loss({}) is label_loss
