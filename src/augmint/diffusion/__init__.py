"""The noise path, the sampler, the networks and their training."""
