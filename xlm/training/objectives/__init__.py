"""What a run can optimise: one file per objective, all behind the protocol in ``objective.py``."""
