"""Training: objectives, optimiser, loop, checkpoints, log and report.

``loop.py`` runs the steps; ``step.py`` computes one. ``objectives/__init__.py`` says what an objective must have, and
how to add one.
"""
