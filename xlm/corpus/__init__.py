"""Rows of text from files of several formats.

``rows.py`` holds ``Corpus``, which iterates over the rows of files. ``formats.py`` holds a parser for each format, and
says how to add a format. ``read_ahead.py`` groups rows into windows that are scored together.
"""
