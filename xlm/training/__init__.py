"""Training: objectives, optimiser, loop, checkpoints, log and report."""
