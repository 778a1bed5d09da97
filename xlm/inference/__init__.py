"""Fast inference on the CPU with packed weights, and opening models by name."""
