"""Fixtures that all tests share."""

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

# No test contacts the real hub. The library reads this at its first import, here and in processes that tests start.
os.environ["HF_HUB_OFFLINE"] = "1"

# The time of an example depends on the load of the machine more than on the test. By default, a test draws the same
# examples each time, so that a failure is due to the change; --hypothesis-profile=random draws new ones.
settings.register_profile("random", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("xlm", settings.get_profile("random"), derandomize=True)
settings.load_profile("xlm")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def reference() -> Path:
    """Return the folder of recorded references (``XLM_REFERENCE``, else ``../shared``); skip if it is absent."""
    folder = Path(os.environ.get("XLM_REFERENCE", REPOSITORY.parent / "shared"))
    if not (folder / "FACTS.md").is_file():
        pytest.skip(f"the recorded references are not at {folder}; set XLM_REFERENCE to their folder")
    return folder
