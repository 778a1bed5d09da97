"""Atomic writes, resumable runs, fingerprints, size-limited reads and checks of arguments, for every package."""
