"""Fingerprints: digests of named fields. Two results are comparable if their fingerprints are equal.

A fingerprint is the SHA-256 of one line of JSON with a line feed: ASCII, sorted keys, no spaces, and each float as the
shortest decimal that reads back the same. So the same fields have the same fingerprint in every process, on every
machine and in every version of Python, and different fields have different fingerprints.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

FORMAT = 2
"""Version of the format. Version 1 digested the ``repr`` of a tokenizer, which left out some settings."""


def fingerprint(kind: str, fields: Mapping[str, Any]) -> str:
    """Return the fingerprint of some fields, in hexadecimal.

    Args:
        kind: What the fields describe, such as ``"tokenizer"``.
        fields: JSON values by name; a tuple counts as a list, and the keys of mappings are str.
    """
    return hashlib.sha256(line_of({"kind": kind, "format": FORMAT, "fields": fields})).hexdigest()


def line_of(value: object) -> bytes:
    """Return a JSON value as one line of bytes; equal values give equal lines, different values different lines."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii") + b"\n"
