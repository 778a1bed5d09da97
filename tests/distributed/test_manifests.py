"""Cluster configurations in docs/distributed.md. Oracle: the schema of Ray's launcher; the command's own parser."""

from __future__ import annotations

import json
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest

from tests.conftest import REPOSITORY
from tests.documents import blocks_of
from xlm.cli import xlm

yaml = pytest.importorskip("yaml")
BLOCKS = blocks_of((REPOSITORY / "docs" / "distributed.md").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def described() -> dict[str, dict[str, Any]]:
    """The YAML blocks of the page, by kind."""
    found = [yaml.safe_load(block.code) for block in BLOCKS if block.language == "yaml"]
    return {each.get("kind", "launcher"): each for each in found}


def test_the_launcher_takes_the_cluster(described: dict[str, dict[str, Any]]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    ray = find_spec("ray")
    if ray is None or ray.origin is None:
        pytest.skip("Ray is not installed")
    schema = json.loads((Path(ray.origin).parent / "autoscaler" / "ray-schema.json").read_text(encoding="utf-8"))
    cluster = described["launcher"]
    jsonschema.validate(cluster, schema)
    assert cluster["head_node_type"] in cluster["available_node_types"]
    assert (
        sum(kind.get("max_workers", 0) for kind in cluster["available_node_types"].values()) <= cluster["max_workers"]
    )
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**cluster, "setup_command": []}, schema)


def test_the_job_names_what_it_needs(described: dict[str, dict[str, Any]]) -> None:
    job = described["RayJob"]
    assert job["apiVersion"] == "ray.io/v1"
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    containers = [container for group in groups for container in group["template"]["spec"]["containers"]]
    assert len({container["image"] for container in containers}) == 1
    # Ray takes the CPU limit of a pod for its number of CPUs.
    workers = cluster["workerGroupSpecs"][0]
    room = workers["replicas"] * int(containers[-1]["resources"]["limits"]["cpu"])
    options = shlex.split(job["spec"]["entrypoint"])
    assert int(options[options.index("--concurrency") + 1]) == room
    image = next(block.code for block in BLOCKS if block.code.startswith("FROM rayproject/ray:"))
    assert image.splitlines()[0].partition(":")[2].partition("-")[0] == cluster["rayVersion"]


def lines() -> list[str]:
    """Return the commands of the page that run on a cluster."""
    described = [yaml.safe_load(block.code) for block in BLOCKS if block.language == "yaml"]
    entrypoints = [each["spec"]["entrypoint"] for each in described if "spec" in each]
    remote = [
        line for block in BLOCKS if block.language == "bash" for line in block.code.splitlines() if "ray exec" in line
    ]
    return [*entrypoints, *(shlex.split(line)[3] for line in remote)]


@pytest.mark.parametrize("line", lines())
def test_xlm_knows_the_options(line: str) -> None:
    program, name, *options = shlex.split(line)
    assert program == "xlm"
    command = xlm.get_command(click.Context(xlm), name)
    assert command is not None
    context = command.make_context(name, options)
    assert context.params["engine"] == "ray"
    assert context.params["output_dir"].startswith("s3://")
    with pytest.raises(click.UsageError):
        command.make_context(name, [*options, "--no-such-option"])
