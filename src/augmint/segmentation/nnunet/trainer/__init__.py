"""The folder that `nnUNet_extTrainer` names; nnU-Net searches it for trainers by name."""
