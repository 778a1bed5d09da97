"""Options and functions that the commands share for ``--engine ray``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from xlm.cli._inputs import damaged_inputs
from xlm.cli._options import Decorator, option, picked, section, wrong_usage
from xlm.cli._output import counted, show_signature
from xlm.errors import InputError

if TYPE_CHECKING:
    from xlm.corpus.files import InputFile
    from xlm.distributed.cluster import ClusterOptions
    from xlm.distributed.tasks import Task, WorkerModel

_SHOWN_REASONS = 5

_ENGINE = option(
    "--engine",
    "Where to run: in this process, or on a Ray cluster (pip install 'xlm[ray]'); with ray, inputs may also be "
    "directories, patterns such as 'texts/*.gz', and addresses such as s3://bucket/texts",
    type=click.Choice(["local", "ray"]),
    default="local",
    is_eager=True,  # it decides which inputs are allowed
)
_RAY_OPTIONS = {
    "output_dir": option(
        "--output-dir",
        "Directory or address for the results, in files part-0000000-0000000 and so on; joined in the order of "
        "their names, they equal the output of --engine local, except that each TSV file has a header; the file "
        "_SUCCESS is written last",
        metavar="DIR",
    ),
    "address": option(
        "--address",
        "Address of the cluster: HOST:PORT of its head node, or auto on a machine of the cluster; not ray://",
        metavar="ADDR",
        show_default="RAY_ADDRESS or, if it is not set, a new cluster on this machine",
    ),
    "connect_timeout": option(
        "--connect-timeout", "Seconds to wait for the cluster", type=click.FloatRange(0), show_default="30"
    ),
    "concurrency": option("--concurrency", "Number of workers", type=click.IntRange(1), show_default="as many as fit"),
    "gpus_per_worker": option(
        "--gpus-per-worker",
        "GPUs of each worker, such as 1 or 0.5",
        type=click.FloatRange(0),
        show_default="0, to compute on CPUs",
    ),
    "threads_per_worker": option(
        "--threads-per-worker",
        "Threads of each worker, and CPUs that it occupies; the results equal those of --engine local with "
        "OMP_NUM_THREADS=N",
        type=click.IntRange(1),
        show_default="1",
    ),
    "windows_per_file": option(
        "--windows-per-file",
        "Size of each file of results, in multiples of the rows that are computed together (--read-ahead, "
        "--batch-size, 4,096 for xlm tokenize, or 32 times --batch-size for xlm translate)",
        type=click.IntRange(1),
        show_default="by the size of the input, up to 65,536 rows",
    ),
}
RAY_OPTIONS = tuple(_RAY_OPTIONS)
"""Names of the parameters that require ``--engine ray`` in every command that has ``--engine``."""

resuming = (
    option("--resume", "Continue the interrupted run of this --output-dir", is_flag=True),
    option("--progress/--no-progress", "Show the progress of Ray", default=None, show_default="on a terminal"),
)
"""``--resume`` and ``--progress``, for commands that have them only with ``--engine ray``."""


def engines(*further: Callable[[str], Decorator]) -> Decorator:
    """Return a decorator that adds ``--engine``, the options of ``--engine ray``, and ``further`` options."""
    return section("Ray", _ENGINE, *_RAY_OPTIONS.values(), *further)


def uses_ray(*, only_ray: Iterable[str] = (), only_local: Iterable[str] = ()) -> bool:
    """Return whether the current command runs on a cluster.

    Args:
        only_ray: Parameters that require ``--engine ray``, besides those of ``engines``.
        only_local: Parameters that require ``--engine local``.

    Raises:
        UsageError: A parameter requires the other engine, or ``--output-dir`` is missing.
    """
    context = click.get_current_context()
    ray: bool = context.params["engine"] == "ray"
    unsuitable = [
        parameter.opts[0] if isinstance(parameter, click.Option) else (parameter.name or "").upper()
        for name in (only_local if ray else (*RAY_OPTIONS, *only_ray))
        for parameter in context.command.params
        if parameter.name == name and context.get_parameter_source(name) == ParameterSource.COMMANDLINE
    ]
    if unsuitable:
        raise click.UsageError(f"{', '.join(unsuitable)}: only with --engine {'local' if ray else 'ray'}")
    if ray and context.params["output_dir"] is None:
        raise click.UsageError("--engine ray requires --output-dir DIR")
    if ray:
        try:
            _cluster(context.params)
        except InputError as error:
            raise click.UsageError(str(error)) from error
    return ray


def inputs(names: Sequence[str], options: dict[str, Any]) -> list[InputFile]:
    """Return the input files of a command with these options.

    Raises:
        UsageError: An input is standard input, a missing file or compressed Parquet, or plain text with ``--column``.
        InputError: The first file is a table without the column, has an unreadable header, or is in UTF-16.
        DependencyError: Ray is not installed.
    """
    from xlm.corpus.rows import Corpus
    from xlm.distributed.cluster import import_ray

    import_ray()
    from xlm.distributed.storage import input_files

    if not names or "-" in names:
        raise click.UsageError("--engine ray reads files, not standard input")
    form, column = options["input_format"], options["column"]
    try:
        files = input_files(names, output=options["output_dir"])
        Corpus(files, format=form, column=column)
    except InputError as error:
        raise click.UsageError(str(error)) from error
    # Check the first file only: each check costs a round trip, and the others are checked when they are read.
    Corpus(files[:1], format=form, column=column).check()
    return files


def earlier_run(options: dict[str, Any]) -> dict[str, Any]:
    """Return the description of the run to resume; empty if there is none.

    Raises:
        XLMError: The output directory cannot be read.
    """
    from xlm.distributed.output import Output
    from xlm.distributed.storage import Directory

    return (Output(Directory(options["output_dir"]), "").description() if options["resume"] else None) or {}


def worker_model(model: str, *, lang: str, options: dict[str, Any]) -> WorkerModel:
    """Return what each worker needs to open the model.

    Args:
        model: Name of the model.
        lang: Language of the texts.
        options: Options of the command.

    Raises:
        InputError: The workers' devices do not support the dtype.
    """
    from xlm.distributed.tasks import WorkerModel
    from xlm.inference.loading import check_device

    device = "cuda" if options["gpus_per_worker"] else "cpu"
    dtype = options.get("dtype", "float32")
    check_device(dtype=dtype, device=device)
    return WorkerModel(
        model=_absolute(model),
        lang=lang,
        preset=options["preset"],
        codes=_absolute(options["codes"]),
        dtype=dtype,
        device=device,
        threads=_cluster(options).threads_per_worker,
    )


def _absolute(name: Any) -> Any:
    # Workers run in other directories, so make a path absolute. A name that is not a path here is the bundled model or
    # an id on the hub.
    return str(Path(name).absolute()) if name is not None and Path(name).exists() else name


def run_on_ray(task: Task, files: Sequence[InputFile], options: dict[str, Any]) -> dict[str, Any]:
    """Run a task over files, print a summary on standard error, and return the ``totals`` of its records.

    Args:
        task: The task.
        files: The input.
        options: Options of the command.

    Raises:
        ClickException: A file could only be read in part.
        XLMError: As for ``Run``.
    """
    from xlm.distributed.output import totals
    from xlm.distributed.run import Run
    from xlm.distributed.tasks import ScoreTask

    with wrong_usage("stride"):
        identity = task.identity()
    progress = options["progress"]
    run = Run(
        task=task,
        files=files,
        output=options["output_dir"],
        cluster=_cluster(options),
        format=options["input_format"],
        column=options["column"],
        windows_per_file=options["windows_per_file"],
        resume=options["resume"],
        progress=sys.stderr.isatty() if progress is None else progress,
    )
    records = run(identity)
    total = totals(records)
    counts: dict[str, int] = total["counts"]
    if "signature" in identity:
        show_signature(identity["signature"], unknown=counts.get("unknown", 0) if isinstance(task, ScoreTask) else None)
    for warning in sorted({warning for record in records for warning in record.warnings}):
        click.echo(f"warning: {' '.join(warning.split())}", err=True)
    if len(total["processors"]) > 1:
        processors = ", ".join(total["processors"])
        click.echo(f"warning: last digits may differ between these kinds of processors: {processors}", err=True)
    resumed = f", {run.resumed:,} of them from before" if run.resumed else ""
    click.echo(f"{counted(total['rows'], 'row')} in {counted(len(records), 'file')}{resumed}", err=True)
    if total["problems"]:
        click.echo(f"{counted(total['problems'], 'row')} could not be processed", err=True)
        for reason in [reason for record in records for reason in record.reasons][:_SHOWN_REASONS]:
            click.echo(f"  {reason}", err=True)
    damaged = [files[record.file].name for record in records if record.damaged]
    if damaged:
        raise click.ClickException(damaged_inputs(damaged))
    return total


def _cluster(options: dict[str, Any]) -> ClusterOptions:
    from xlm.distributed.cluster import ClusterOptions

    return picked(ClusterOptions, options)
