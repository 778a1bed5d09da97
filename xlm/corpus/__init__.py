"""Rows of text from files of several formats."""
