"""Digests of explicit fields: everything that must be equal for two results to be comparable.

A fingerprint is SHA-256 of one line of JSON: ASCII, keys in order, no spaces, floats as the shortest decimal that reads
back the same; then a line feed. So it is the same in every process, on every machine and in every version of Python,
and two sets of fields that differ have two.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

FORMAT = 2
"""Version of the format; version 1 digested a tokenizer's text representation, which left settings out."""


def fingerprint(kind: str, fields: Mapping[str, Any]) -> str:
    """Return the fingerprint of some fields, in hexadecimal.

    Args:
        kind: What they are the fields of, such as ``"tokenizer"``.
        fields: Values of JSON by name; a tuple counts as a list, and the keys of mappings are str.
    """
    return hashlib.sha256(line_of({"kind": kind, "format": FORMAT, "fields": fields})).hexdigest()


def line_of(value: object) -> bytes:
    """Return a value of JSON as one line of bytes, the same for equal values and another for others."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"
