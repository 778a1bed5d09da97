"""Prompts to their continuations."""
