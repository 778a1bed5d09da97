"""Measurements: this library beside its peers and the machine's limits, in one run."""
