"""nnU-Net's trainer with a probability of synthetic samples and a length from the plans.

nnU-Net imports this file by itself, through `nnUNet_extTrainer`; nothing else should.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from augmint.errors import AugmintError
from augmint.segmentation.nnunet.arms import STATE, arm_cases, arm_of, case_probabilities

stock: Any = sys.modules[nnUNetTrainer.__module__]


class nnUNetTrainerAugmint(nnUNetTrainer):  # noqa: N801
    """The stock trainer; only who is drawn how often, and for how long, comes from the arm.

    The constructor must keep nnU-Net's exact signature: the base class looks its own local
    variables up by these names.
    """

    dataset_class: Any

    def __init__(
        self,
        plans: dict,
        configuration: str,
        fold: int,
        dataset_json: dict,
        device: torch.device = torch.device("cuda"),  # noqa: B008
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.arm = arm_of(self.plans_manager.plans)
        self.num_epochs = self.arm.epochs
        self.num_iterations_per_epoch = self.arm.iterations
        self.num_val_iterations_per_epoch = self.arm.validation_iterations
        self.synthetic = frozenset(self._read(STATE)["synthetic"])

    def do_split(self) -> tuple[list[str], list[str]]:
        """Training and validation cases of this arm; never nnU-Net's own random split."""
        if self.dataset_class is None:
            self.dataset_class = infer_dataset_class(self.preprocessed_dataset_folder)
        everyone = self.dataset_class.get_identifiers(self.preprocessed_dataset_folder)
        train, validation = arm_cases(
            self.arm, self._read("splits_final.json"), self.fold, self.synthetic, everyone
        )
        count = sum(c in self.synthetic for c in train)
        self.print_to_log_file(
            f"{len(train) - count} real and {count} synthetic training cases, a sample is "
            f"synthetic with probability {self.arm.synthetic_probability:g}; "
            f"{len(validation)} validation cases"
        )
        return train, validation

    def get_dataloaders(self) -> Any:
        """The stock loaders, the training one with this arm's probabilities."""
        plain = stock.nnUNetDataLoader
        wanted = self.arm.synthetic_probability

        def weighted(data: Any, *arguments: Any, **options: Any) -> Any:
            cases: Sequence[str] = list(data.identifiers)
            if any(c in self.synthetic for c in cases):
                chances = case_probabilities(cases, self.synthetic, wanted)
                options["sampling_probabilities"] = chances
            return plain(data, *arguments, **options)

        # The stock method builds its loaders in one go and takes no probabilities.
        stock.nnUNetDataLoader = weighted
        try:
            return super().get_dataloaders()
        finally:
            stock.nnUNetDataLoader = plain

    def _read(self, name: str) -> Any:
        path = Path(self.preprocessed_dataset_folder_base) / name
        if not path.is_file():
            raise AugmintError(f"{path} is missing; run `augmint nnunet prepare` first")
        return json.loads(path.read_text(encoding="utf-8"))
