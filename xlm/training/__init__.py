"""The causal language modelling objective: optimiser, loop, checkpoints, what is seen of a run."""
