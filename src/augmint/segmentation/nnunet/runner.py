"""`python -m augmint.segmentation.nnunet.runner COMMAND...`: an nnU-Net that knows our trainer."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import entry_points

from augmint.segmentation.nnunet.arms import TRAINER

TRAINS = ("nnUNetv2_train", "nnUNetv2_predict")


def register_trainer() -> None:
    """Let nnU-Net find our trainer at once.

    It searches all of its own trainers before those that `nnUNet_extTrainer` names, and importing
    some of them fails where a library that only they need is missing or broken. The module of the
    stock trainer comes first, so ours is found there.
    """
    first = import_module("nnunetv2.training.nnUNetTrainer.nnUNetTrainer")
    ours = import_module("augmint.segmentation.nnunet.trainer.augmint_trainer")
    setattr(first, TRAINER, getattr(ours, TRAINER))


def main() -> None:
    """Run the command as its console script would."""
    sys.argv = command = sys.argv[1:]
    print("+", *command, flush=True)
    (script,) = set(entry_points(group="console_scripts", name=command[0]))
    if command[0] in TRAINS:
        register_trainer()
    script.load()()


if __name__ == "__main__":
    main()
