"""Fits a segmenter on real and synthetic samples: one visible loop that resumes exactly.

Every draw of a step comes from a generator seeded by (seed, step), so no random state has to be
stored, and two arms of a study with one seed draw alike.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from augmint.errors import AugmintError
from augmint.precision import Precision, autocast
from augmint.segmentation.augmentation import augment_views, named_augmentation
from augmint.segmentation.checkpoint import (
    load_segmenter,
    restore_optimizer,
    save_segmenter,
)
from augmint.segmentation.loss import annotated_classes
from augmint.segmentation.mixing import Mix, Mixing, MixWith, mixed_loss, partners
from augmint.segmentation.networks import Segmenter, build_segmenter
from augmint.segmentation.predict import predict_mask
from augmint.segmentation.randomisation import randomise_some
from augmint.segmentation.samples import Samples, Stock, check_samples, draw_pairs, draw_samples
from augmint.staging import forget_steps
from augmint.weights import folder_exists


@dataclass(frozen=True)
class SegmenterConfig:
    """How a segmenter is fitted.

    Attributes:
        network: A key of `SEGMENTERS`.
        width: Channels of its first level.
        steps: Optimiser steps.
        batch_size: Samples in a step.
        lr: Peak learning rate; linear warm-up, then half a cosine to 0.
        warmup: Steps of the warm-up.
        weight_decay: Of AdamW.
        clip: Largest norm of the gradient.
        augmentation: A key of `AUGMENTATIONS`.
        synthetic_probability: Chance of each sample to be synthetic, where there are any.
        randomisation_probability: Chance of each sample to lend its mask alone: its image is drawn
            anew, see `randomise`.
        mix: `sample`: each sample is real or synthetic. Otherwise each is real, and mixed with a
            synthetic one on the same mask: `image` mixes patches of the images, `logit` those of
            the logits of two forward passes, `loss` averages the losses of two passes. A real
            sample without a synthetic one is mixed with itself.
        mix_lambda: The share of real samples or patches, or the weight of the real one's loss; None
            for 1 - synthetic_probability.
        patch: Side of a patch in pixels of the working grid.
        mix_with: `synthetic`, or `augmented` to mix each real sample with itself under other
            changes of intensity, at the same cost: synthetic ones are not drawn then.
        precision: `bf16`, `fp32`, or `auto`, see `autocast`.
        seed: Of weights, draws and augmentation.
        validate_every: Steps between validations.
        patience: Validations without a better Dice before the fit stops; None never stops it.
        save_every: Steps between checkpoints to resume from.
    """

    network: str = "unet"
    width: int = 32
    steps: int = 1200
    batch_size: int = 16
    lr: float = 2e-3
    warmup: int = 50
    weight_decay: float = 1e-2
    clip: float = 1.0
    augmentation: str = "strong"
    synthetic_probability: float = 0.5
    precision: Precision = "auto"
    seed: int = 0
    validate_every: int = 200
    patience: int | None = None
    save_every: int = 200
    randomisation_probability: float = 0.0
    mix: Mix = "sample"
    mix_lambda: float | None = None
    patch: int = 16
    mix_with: MixWith = "synthetic"

    @property
    def synthetic_share(self) -> float:
        """The share of samples, patches or weight that is not real."""
        return self.synthetic_probability if self.mix_lambda is None else 1 - self.mix_lambda

    @property
    def mixing(self) -> Mixing | None:
        """How two views become one loss; None where each sample has one view."""
        mixing = Mixing(self.mix, 1 - self.synthetic_share, self.patch)
        return None if self.mix == "sample" else mixing

    @property
    def needs_synthetic(self) -> bool:
        """Whether nothing can be fitted without synthetic samples."""
        return self.mix != "sample" and self.mix_with == "synthetic"


def fit_segmenter(
    config: SegmenterConfig,
    real: Samples,
    synthetic: Samples | None = None,
    *,
    num_classes: int,
    validation: Samples | None = None,
    spacing: Sequence[float] | None = None,
    folder: Path | None = None,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
    resume: bool = False,
) -> Segmenter:
    """Fits a segmenter and returns it in evaluation mode.

    Args:
        config: How.
        real: Real samples.
        synthetic: Synthetic samples, or None.
        num_classes: Classes with the background.
        validation: Samples of validation patients; the weights with the best Dice on them are
            returned, without them the last ones.
        spacing: Voxel size per axis of the working grid, for rotations; None for equal sizes.
        folder: Gets `metrics.jsonl` and `checkpoints/{last,best}`; None writes nothing.
        device: Where to compute.
        progress: Called with the number of steps done.
        resume: Go on from `folder`'s last checkpoint, if there is one.

    Raises:
        AugmintError: for unusable samples, samples that cannot be mixed, or a checkpoint of another
            configuration.
    """
    check_config(config)
    needed = config.needs_synthetic
    check_samples(real, synthetic, validation, num_classes, needs_synthetic=needed)
    draw = _drawer(config, real, synthetic, num_classes, device)
    fit = _start(config, real, num_classes, folder, device, resume)
    augmentation = named_augmentation(config.augmentation)
    network, optimizer = fit.network, fit.optimizer
    network.train()

    def forward(image: Tensor) -> Tensor:
        if image.ndim == 4:
            image = image.contiguous(memory_format=torch.channels_last)
        with autocast(device, config.precision):
            logits: Tensor = network(image)
        return logits.float()

    for step in range(fit.step, config.steps):
        if fit.exhausted(config):
            break
        generator = step_generator(config.seed, step)
        views, mask, known = draw(generator)
        # Two views are never randomised: `check_config`.
        views[0], mask = randomise_some(
            views[0], mask, config.randomisation_probability, generator, spacing=spacing
        )
        views, mask = augment_views(views, mask, augmentation, generator, spacing=spacing)
        rate = learning_rate(config, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = mixed_loss(forward, views, mask, known, config.mixing, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        optimizer.step()
        fit.step = step + 1
        fit.after_step(config, loss, rate, validation, num_classes)
        if progress is not None:
            progress(fit.step)
    return fit.finish(config)


def step_generator(seed: int, step: int) -> Generator:
    """The generator of one step: independent of all others, known without running them."""
    digest = hashlib.sha256(f"segmenter {seed} {step}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def learning_rate(config: SegmenterConfig, step: int) -> float:
    """The learning rate of a step, counted from 0."""
    if step < config.warmup:
        return config.lr * (step + 1) / config.warmup
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * done))


def check_config(config: SegmenterConfig) -> None:
    """Refuse values that no fit can have, as far as can be told without samples.

    Raises:
        AugmintError: naming the field.
    """
    for name in ("synthetic_probability", "randomisation_probability", "mix_lambda"):
        value = getattr(config, name)
        if value is not None and not 0 <= value <= 1:
            raise AugmintError(f"{name} must lie in [0, 1], not {value}")
    if config.steps < 1 or config.batch_size < 1:
        raise AugmintError(
            f"a fit needs at least 1 step and 1 sample in a batch, got steps {config.steps} and "
            f"batch_size {config.batch_size}"
        )
    if config.patch < 1:
        raise AugmintError(f"patch, the side of a patch, is at least 1 pixel, not {config.patch}")
    if config.mix == "sample" and config.mix_with != "synthetic":
        raise AugmintError(
            f"mix_with {config.mix_with} needs two views of a sample, and mix is sample; set mix "
            "to image, logit or loss"
        )
    if config.mix != "sample" and config.randomisation_probability:
        raise AugmintError(
            f"mix {config.mix} needs two views under one mask, and randomised images have warped "
            "masks; set randomisation_probability to 0, or mix to sample"
        )


def _drawer(
    config: SegmenterConfig,
    real: Samples,
    synthetic: Samples | None,
    num_classes: int,
    device: torch.device | str,
) -> Callable[[Generator], tuple[list[Tensor], Tensor, Tensor]]:
    """Draws a batch: its views, one or two, their mask and the annotated classes."""
    made = None if config.mix_with == "augmented" else synthetic
    stocks = [Stock(s, num_classes, device) for s in (real, made) if s is not None]
    size = config.batch_size
    if config.mixing is None:
        return lambda generator: draw_samples(stocks, size, config.synthetic_share, generator)
    pairs = partners(real, made)
    return lambda generator: draw_pairs(stocks, pairs, size, generator)


@dataclass
class _Fit:
    """The state of a fit between two steps."""

    network: Segmenter
    optimizer: torch.optim.Optimizer
    folder: Path | None
    device: torch.device | str
    step: int = 0
    best_dice: float | None = None
    best_step: int = 0
    best: dict[str, Tensor] | None = None

    def exhausted(self, config: SegmenterConfig) -> bool:
        if config.patience is None or self.best_dice is None:
            return False
        return self.step - self.best_step >= config.patience * config.validate_every

    def after_step(
        self,
        config: SegmenterConfig,
        loss: Tensor,
        rate: float,
        validation: Samples | None,
        num_classes: int,
    ) -> None:
        last = self.step == config.steps
        line: dict[str, float] = {}
        if validation is not None and (self.step % config.validate_every == 0 or last):
            line["dice"] = validation_dice(
                self.network, validation, num_classes, self.device, config.precision
            )
            self._keep_best(line["dice"])
        if self.step % 20 == 0 or last or line:
            value = float(loss.detach())
            if not math.isfinite(value):
                raise AugmintError(
                    f"the segmenter's loss is {value} at step {self.step}; lower lr ({config.lr}) "
                    "or set precision to fp32"
                )
            self._log({"step": self.step, "loss": value, "lr": rate, **line})
        if self.folder is not None and (self.step % config.save_every == 0 or last):
            save_segmenter(
                self.folder / "checkpoints" / "last",
                self.network,
                optimizer=self.optimizer,
                progress=self._progress(config),
            )

    def finish(self, config: SegmenterConfig) -> Segmenter:
        if self.best is not None:
            self.network.load_state_dict(self.best)
        return self.network.eval()

    def _keep_best(self, dice: float) -> None:
        if self.best_dice is not None and dice <= self.best_dice:
            return
        self.best_dice, self.best_step = dice, self.step
        self.best = {k: v.detach().clone() for k, v in self.network.state_dict().items()}
        if self.folder is not None:
            facts = {"step": self.step, "dice": dice}
            save_segmenter(self.folder / "checkpoints" / "best", self.network, progress=facts)

    def _progress(self, config: SegmenterConfig) -> dict[str, Any]:
        return {
            "step": self.step,
            "best_dice": self.best_dice,
            "best_step": self.best_step,
            "config": asdict(config),
        }

    def _log(self, line: Mapping[str, float]) -> None:
        if self.folder is not None:
            with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def _start(
    config: SegmenterConfig,
    real: Samples,
    num_classes: int,
    folder: Path | None,
    device: torch.device | str,
    resume: bool,
) -> _Fit:
    dims, in_channels = real.images.ndim - 2, real.images.shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = build_segmenter(
            config.network,
            dims=dims,
            in_channels=in_channels,
            num_classes=num_classes,
            width=config.width,
        )
    progress: dict[str, Any] = {}
    last = None if folder is None else folder / "checkpoints" / "last"
    resumed = resume and last is not None and folder_exists(last)
    if resumed and last is not None:
        stored, progress = load_segmenter(last)
        # A field that a checkpoint does not know yet had its default's effect.
        known = {**asdict(SegmenterConfig()), **progress.get("config", {})}
        if known != asdict(config) or stored.spec != network.spec:
            raise AugmintError(
                f"checkpoint {last} was fitted with another configuration; resume with the same "
                "one, or choose another folder"
            )
        network.load_state_dict(stored.state_dict())
    network = network.to(device)
    if dims == 2:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True
    )
    fit = _Fit(network, optimizer, folder, device)
    if resumed and last is not None:
        restore_optimizer(last, optimizer)
        fit.step, fit.best_step = progress["step"], progress["best_step"]
        fit.best_dice = progress["best_dice"]
        if fit.best_dice is not None:
            best, _ = load_segmenter(last.with_name("best"), device)
            fit.best = best.state_dict()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        forget_steps(folder / "metrics.jsonl", fit.step)
    return fit


def validation_dice(
    network: Segmenter,
    samples: Samples,
    num_classes: int,
    device: torch.device | str,
    precision: Precision = "auto",
) -> float:
    """The mean Dice over patients and annotated classes, on the working grid.

    A patient's samples are pooled; a class that is absent from a patient's reference and
    prediction is left out.
    """
    prediction = predict_mask(network, samples.images, device=device, precision=precision)
    known = annotated_classes(samples.annotated, num_classes)
    dices = []
    for patient in dict.fromkeys(samples.patient_ids):
        index = torch.tensor([i for i, p in enumerate(samples.patient_ids) if p == patient])
        for label in range(1, num_classes):
            chosen = index[known[index, label]]
            reference, found = samples.masks[chosen] == label, prediction[chosen] == label
            total = int(reference.sum() + found.sum())
            if total:
                dices.append(2 * int((reference & found).sum()) / total)
    return sum(dices) / len(dices) if dices else 0.0
