"""Tests of xlm/distributed."""
