"""Fixtures shared by all tests: where the recorded references are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

RECORDED = (
    "plain",
    "fp16_module_legacy",
    "monolingual_relu_sinusoidal",
    "adaptive_softmax",
    "untied",
    "no_lang_emb",
)
"""The recorded checkpoints of the original, one feature each."""

# No test asks the hub of the world; the library reads this when it is first imported, here and in processes of tests.
os.environ["HF_HUB_OFFLINE"] = "1"

# How long an example takes says more of what else the machine does than of the test.
settings.register_profile("xlm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("xlm")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder of recorded references (``XLM_REFERENCE``, else ``../shared``); skips where it is absent."""
    folder = Path(os.environ.get("XLM_REFERENCE", REPOSITORY.parent / "shared"))
    if not (folder / "FACTS.md").is_file():
        pytest.skip(f"the recorded references are not at {folder}; set XLM_REFERENCE to their folder")
    return folder
