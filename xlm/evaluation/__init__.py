"""Evaluation with minimal pairs: files of BLiMP and CLAMS, and suites of SyntaxGym.

``tasks.py`` reads a file into items, each with sentences and formulas; ``formula.py`` says whether a formula holds;
``evaluate.py`` scores the sentences and counts the items for which all formulas hold.
"""
