"""Atomic writes, resumable runs, fingerprints, bounded reads and checks of arguments, for every package."""
