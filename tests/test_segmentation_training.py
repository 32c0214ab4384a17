import json
from dataclasses import dataclass, replace

import pytest
import torch

from augmint.errors import AugmintError
from augmint.segmentation.checkpoint import load_segmenter
from augmint.segmentation.predict import predict_mask
from augmint.segmentation.samples import Stock, draw_samples
from augmint.segmentation.training import (
    SegmenterConfig,
    fit_segmenter,
    learning_rate,
    step_generator,
    validation_dice,
)

TINY = SegmenterConfig(
    width=8, steps=6, batch_size=2, warmup=2, save_every=3, validate_every=2, precision="fp32"
)


@dataclass(frozen=True)
class Samples:
    images: torch.Tensor
    masks: torch.Tensor
    annotated: tuple[frozenset[int], ...]
    patient_ids: tuple[str, ...]


def toy(count=2, *, size=32, shift=0, annotated=frozenset({1, 2})):
    """Noisy images of a bright square (1) and a dark bar (2), elsewhere in each."""
    generator = torch.Generator().manual_seed(shift)
    masks = torch.zeros(count, size, size, dtype=torch.uint8)
    for i in range(count):
        top = 4 + (7 * i + shift) % 12
        masks[i, top : top + 9, 4:14] = 1
        masks[i, top : top + 12, 20:26] = 2
    levels = torch.tensor([0.0, 0.6, -0.7])
    noise = 0.1 * torch.randn(count, 1, size, size, generator=generator)
    images = (levels[masks.long()][:, None] + noise).half()
    patients = tuple(f"p{i}" for i in range(count))
    return Samples(images, masks, (annotated,) * count, patients)


def same_weights(one, two):
    first, second = one.state_dict(), two.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


class InterruptionError(Exception):
    pass


def stop_at(step):
    def progress(done):
        if done == step:
            raise InterruptionError

    return progress


def test_training_overfits_two_samples():
    config = SegmenterConfig(
        width=16, steps=100, batch_size=2, warmup=5, augmentation="none", lr=5e-3
    )
    data = toy()
    network = fit_segmenter(config, data, num_classes=3)
    assert not network.training
    assert validation_dice(network, data, 3, "cpu") > 0.9


def test_volumes_are_fitted_too():
    image = torch.randn(2, 1, 10, 12, 8, generator=torch.Generator().manual_seed(0))
    data = Samples(image, (image[:, 0] > 0).long(), (frozenset({1}),) * 2, ("a", "b"))
    network = fit_segmenter(replace(TINY, steps=2), data, num_classes=2)
    assert predict_mask(network, image).shape == (2, 10, 12, 8)


@pytest.mark.parametrize("stop", [2, 3, 5])
@pytest.mark.parametrize("validated", [False, True])
def test_interrupted_and_continued_equals_uninterrupted(tmp_path, stop, validated):
    arguments = {
        "num_classes": 3,
        "synthetic": toy(3, shift=5),
        "validation": toy(1, shift=2) if validated else None,
    }
    whole = fit_segmenter(TINY, toy(), **arguments, folder=tmp_path / "whole")
    parts = tmp_path / "parts"
    with pytest.raises(InterruptionError):
        fit_segmenter(TINY, toy(), **arguments, folder=parts, progress=stop_at(stop))
    torch.manual_seed(99)  # the global generator must not matter
    resumed = fit_segmenter(TINY, toy(), **arguments, folder=parts, resume=True)
    assert same_weights(whole, resumed)
    metrics = [(f / "metrics.jsonl").read_text() for f in (parts, tmp_path / "whole")]
    assert metrics[0] == metrics[1]


def test_a_finished_fit_resumes_to_itself(tmp_path):
    first = fit_segmenter(TINY, toy(), num_classes=3, folder=tmp_path)
    again = fit_segmenter(TINY, toy(), num_classes=3, folder=tmp_path, resume=True)
    assert same_weights(first, again)


def test_without_resume_a_fit_starts_afresh(tmp_path):
    fit_segmenter(TINY, toy(), num_classes=3, folder=tmp_path)
    steps = []
    fit_segmenter(TINY, toy(), num_classes=3, folder=tmp_path, progress=steps.append)
    assert steps == [1, 2, 3, 4, 5, 6]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [6]


def test_resuming_with_another_configuration_is_refused(tmp_path):
    fit_segmenter(TINY, toy(), num_classes=3, folder=tmp_path)
    with pytest.raises(AugmintError, match="another configuration"):
        fit_segmenter(replace(TINY, lr=1.0), toy(), num_classes=3, folder=tmp_path, resume=True)


def test_the_last_weights_are_on_disk_without_pickle(tmp_path):
    network = fit_segmenter(TINY, toy(), num_classes=3, folder=tmp_path)
    stored, progress = load_segmenter(tmp_path / "checkpoints" / "last")
    assert same_weights(network, stored)
    assert progress["step"] == 6
    names = {path.name for path in (tmp_path / "checkpoints").rglob("*") if path.is_file()}
    assert names == {"network.safetensors", "optimizer.safetensors", "config.json"}


def test_a_damaged_checkpoint_is_refused(tmp_path):
    fit_segmenter(TINY, toy(), num_classes=3, folder=tmp_path)
    last = tmp_path / "checkpoints" / "last"
    (last / "network.safetensors").write_bytes(b"damaged")
    with pytest.raises(AugmintError, match="cannot be read"):
        load_segmenter(last)


def test_the_best_weights_by_validation_are_returned(tmp_path):
    # Negatives: the more the network learns, the worse it does on them.
    validation = toy(2, shift=3)
    validation = replace(validation, images=-validation.images)
    config = replace(TINY, steps=12, lr=2e-2, validate_every=1)
    network = fit_segmenter(config, toy(), num_classes=3, validation=validation, folder=tmp_path)
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    best = max(line["dice"] for line in lines)
    assert validation_dice(network, validation, 3, "cpu", "fp32") == pytest.approx(best)
    stored, progress = load_segmenter(tmp_path / "checkpoints" / "best")
    assert same_weights(network, stored)
    assert progress["dice"] == best
    assert lines[-1]["dice"] < best
    assert not same_weights(network, load_segmenter(tmp_path / "checkpoints" / "last")[0])


def test_patience_stops_a_fit_that_no_longer_improves():
    config = replace(TINY, steps=40, lr=1e-12, validate_every=2, patience=2)
    steps = []
    fit_segmenter(config, toy(), num_classes=3, validation=toy(1), progress=steps.append)
    # The first validation at step 2 is the best; two more do not improve on it.
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_fit_that_patience_stops_is_continued_to_the_same_end(tmp_path):
    config = replace(TINY, steps=40, lr=1e-12, validate_every=2, patience=2, save_every=1)
    arguments = {"num_classes": 3, "validation": toy(1)}
    whole = fit_segmenter(config, toy(), **arguments)
    with pytest.raises(InterruptionError):
        fit_segmenter(config, toy(), **arguments, folder=tmp_path, progress=stop_at(5))
    steps = []
    resumed = fit_segmenter(
        config, toy(), **arguments, folder=tmp_path, resume=True, progress=steps.append
    )
    assert steps == [6]
    assert same_weights(whole, resumed)


@pytest.mark.parametrize(
    ("network", "width"), [("attention_unet", 8), ("resnet50_unet", 8), ("swin_unetr", 12)]
)
def test_every_network_is_fitted_and_continued_exactly(tmp_path, network, width):
    config = replace(TINY, network=network, width=width, steps=3, save_every=1)
    whole = fit_segmenter(config, toy(), num_classes=3)
    with pytest.raises(InterruptionError):
        fit_segmenter(config, toy(), num_classes=3, folder=tmp_path, progress=stop_at(2))
    resumed = fit_segmenter(config, toy(), num_classes=3, folder=tmp_path, resume=True)
    assert same_weights(whole, resumed)


def test_randomised_images_join_the_fit_and_it_is_continued_exactly(tmp_path):
    config = replace(TINY, randomisation_probability=0.5)
    whole = fit_segmenter(config, toy(), num_classes=3)
    with pytest.raises(InterruptionError):
        fit_segmenter(config, toy(), num_classes=3, folder=tmp_path, progress=stop_at(4))
    resumed = fit_segmenter(config, toy(), num_classes=3, folder=tmp_path, resume=True)
    assert same_weights(whole, resumed)
    assert not same_weights(whole, fit_segmenter(TINY, toy(), num_classes=3))


def test_a_network_fitted_on_randomised_images_alone_segments_another_contrast():
    """The point of label-driven randomisation: no intensity of the data was ever seen."""
    config = SegmenterConfig(
        width=8, steps=90, batch_size=8, warmup=5, lr=5e-3, augmentation="none", seed=1,
        randomisation_probability=1.0,
    )  # fmt: skip
    data = toy(4)
    swapped = replace(data, images=-data.images)
    network = fit_segmenter(config, data, num_classes=3)
    plain = fit_segmenter(
        replace(config, steps=30, randomisation_probability=0.0), data, num_classes=3
    )
    found, missed = (validation_dice(n, swapped, 3, "cpu") for n in (network, plain))
    assert found > missed + 0.3


def test_a_checkpoint_of_before_a_field_existed_is_continued(tmp_path):
    with pytest.raises(InterruptionError):
        fit_segmenter(TINY, toy(), num_classes=3, folder=tmp_path, progress=stop_at(4))
    file = tmp_path / "checkpoints" / "last" / "config.json"
    facts = json.loads(file.read_text())
    del facts["progress"]["config"]["randomisation_probability"]
    file.write_text(json.dumps(facts))
    whole = fit_segmenter(TINY, toy(), num_classes=3)
    assert same_weights(
        whole, fit_segmenter(TINY, toy(), num_classes=3, folder=tmp_path, resume=True)
    )


def test_a_seed_fixes_the_weights_and_another_changes_them():
    one, two, other = (
        fit_segmenter(replace(TINY, steps=2, seed=s), toy(), num_classes=3) for s in (1, 1, 2)
    )
    assert same_weights(one, two)
    assert not same_weights(one, other)


def test_fitting_leaves_the_global_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    fit_segmenter(replace(TINY, steps=1), toy(), num_classes=3)
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_synthetic_probability_is_the_share_of_synthetic_samples(probability):
    real, synthetic = toy(2), toy(3)
    pools = [
        Stock(replace(real, images=torch.zeros_like(real.images)), 3, "cpu"),
        Stock(replace(synthetic, images=torch.ones_like(synthetic.images)), 3, "cpu"),
    ]
    means = [
        float(draw_samples(pools, 50, probability, step_generator(0, s))[0][0].mean())
        for s in range(40)
    ]
    assert sum(means) / len(means) == pytest.approx(probability, abs=0.03)


def test_without_synthetic_samples_all_are_real():
    data = toy(4)
    (image,), mask, known = draw_samples([Stock(data, 3, "cpu")], 2, 0.5, step_generator(0, 0))
    assert image.shape == (2, 1, 32, 32)
    assert mask.shape == (2, 32, 32)
    assert bool(known.all())
    assert all(any(torch.equal(i, r.float()) for r in data.images) for i in image)


def test_unannotated_classes_are_learnt_from_the_samples_that_have_them():
    """Half of the samples lack class 2 in mask and annotation; it is found in them all the same."""
    full, blind = toy(2), toy(2, annotated=frozenset({1}))
    masks = torch.cat([full.masks, blind.masks.where(blind.masks != 2, 0)])
    data = Samples(
        torch.cat([full.images, blind.images]),
        masks,
        full.annotated + blind.annotated,
        ("a", "b", "c", "d"),
    )
    config = SegmenterConfig(
        width=8, steps=60, batch_size=4, warmup=5, augmentation="none", lr=5e-3
    )
    network = fit_segmenter(config, data, num_classes=3)
    found = predict_mask(network, blind.images) == 2
    truth = blind.masks == 2
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.8


def test_the_learning_rate_warms_up_and_falls_to_nearly_nothing():
    config = SegmenterConfig(steps=100, warmup=10, lr=1.0)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == 0.1
    assert max(rates) == rates[9] == 1.0
    assert rates[-1] < 1e-3
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_unusable_samples_are_refused():
    data = toy()
    unlabelled = replace(data, masks=torch.full_like(data.masks, 255))
    with pytest.raises(AugmintError, match="unlabelled"):
        fit_segmenter(TINY, unlabelled, num_classes=3)
    with pytest.raises(AugmintError, match="one working grid"):
        fit_segmenter(TINY, data, toy(size=40), num_classes=3)
    none = Samples(data.images[:0], data.masks[:0], (), ())
    with pytest.raises(AugmintError, match="no synthetic samples"):
        fit_segmenter(TINY, data, none, num_classes=3)
    with pytest.raises(AugmintError, match="synthetic_probability"):
        fit_segmenter(replace(TINY, synthetic_probability=2.0), data, num_classes=3)
    with pytest.raises(AugmintError, match="randomisation_probability"):
        fit_segmenter(replace(TINY, randomisation_probability=-0.1), data, num_classes=3)
