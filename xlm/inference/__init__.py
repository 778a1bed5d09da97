"""Fast inference on the CPU: packed weights, and models by name in the form that computes fastest."""
