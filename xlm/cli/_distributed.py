"""Options and functions that the commands share for ``--engine ray``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from xlm.cli._output import show_signature
from xlm.errors import InputError

if TYPE_CHECKING:
    from xlm.corpus.files import InputFile
    from xlm.distributed.cluster import ClusterOptions
    from xlm.distributed.tasks import Task, WorkerModel

_SHOWN_REASONS = 5

_ENGINE = click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    is_eager=True,  # it decides which inputs are allowed
    help="What does the work: this process, or a Ray cluster (pip install 'xlm[ray]'). With ray, inputs may also be "
    "directories, patterns such as 'texts/*.gz', and addresses such as s3://bucket/texts.",
)
_RAY_OPTIONS = {
    "output_dir": click.option(
        "--output-dir",
        metavar="DIR",
        help="Directory or address for the results: files part-0000000-0000000 and so on. In the order of their names "
        "they are the output of --engine local, except that each TSV file has the header. _SUCCESS is written last.",
    ),
    "address": click.option(
        "--address",
        metavar="ADDR",
        help="The cluster: HOST:PORT of its head node, or auto on a machine of the cluster; not ray://.  [default: "
        "RAY_ADDRESS; if it is not set, a cluster of this machine for this run]",
    ),
    "connect_timeout": click.option(
        "--connect-timeout",
        type=click.FloatRange(0),
        metavar="S",
        help="Seconds to wait for the cluster.  [default: 30]",
    ),
    "concurrency": click.option(
        "--concurrency",
        type=click.IntRange(1),
        metavar="N",
        help="Number of workers.  [default: as many as there is room for]",
    ),
    "gpus_per_worker": click.option(
        "--gpus-per-worker",
        type=click.FloatRange(0),
        metavar="G",
        help="GPUs of each worker, such as 1 or 0.5.  [default: 0, which computes on CPUs]",
    ),
    "threads_per_worker": click.option(
        "--threads-per-worker",
        type=click.IntRange(1),
        metavar="N",
        help="Threads of each worker, and CPUs that it occupies. The digits are those of --engine local with "
        "OMP_NUM_THREADS=N.  [default: 1]",
    ),
    "windows_per_file": click.option(
        "--windows-per-file",
        type=click.IntRange(1),
        metavar="N",
        help="Size of each file of results, in multiples of the rows that are computed together: --read-ahead, "
        "--batch-size, 4,096 to tokenize, or 32 times --batch-size to translate.  [default: by the size of the input, "
        "up to 65,536 rows]",
    ),
}
RAY_OPTIONS = tuple(_RAY_OPTIONS)
"""Parameters of every command that require ``--engine ray``."""

resuming = (
    click.option("--resume", is_flag=True, help="Resume the run of --output-dir if it was cut off."),
    click.option("--progress/--no-progress", default=None, help="Show Ray's progress.  [default: on a terminal]"),
)
"""``--resume`` and ``--progress``, for commands that have them only with ``--engine ray``."""


def engines(*further: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds ``--engine``, the options of ``--engine ray`` and some of one command."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed((_ENGINE, *_RAY_OPTIONS.values(), *further)):
            command = option(command)
        return command

    return decorate


def uses_ray(*, only_ray: Iterable[str] = (), only_local: Iterable[str] = ()) -> bool:
    """Return whether the current command runs on a cluster.

    Args:
        only_ray: Parameters that require ``--engine ray``, besides those of ``engines``.
        only_local: Parameters that require ``--engine local``.

    Raises:
        UsageError: A parameter does not go with the engine, or ``--output-dir`` is missing.
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
        raise click.UsageError(f"{', '.join(unsuitable)}: not with --engine {'ray' if ray else 'local'}")
    if ray and context.params["output_dir"] is None:
        raise click.UsageError("--engine ray writes to a directory: --output-dir DIR")
    if ray:
        try:
            _cluster(context.params)
        except InputError as error:
            raise click.UsageError(str(error)) from error
    return ray


def inputs(names: Sequence[str], *, form: str | None, column: str | None) -> list[InputFile]:
    """Return the input files.

    Raises:
        UsageError: Standard input, no such file, a column of plain text, or compressed Parquet.
        InputError: The first file is a table without the column, has an unreadable header, or is in UTF-16.
        DependencyError: Ray is not installed.
    """
    from xlm.corpus.rows import Corpus
    from xlm.distributed.cluster import import_ray

    import_ray()
    from xlm.distributed.storage import input_files

    if not names or "-" in names:
        raise click.UsageError("--engine ray reads files, not standard input")
    try:
        files = input_files(names, output=click.get_current_context().params["output_dir"])
        Corpus(files, format=form, column=column)
    except InputError as error:
        raise click.UsageError(str(error)) from error
    # Only the first: each file costs a round trip, and the others are checked when they are read.
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
    """Return the model as each worker opens it.

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
    # Workers run in other directories. A name that is no path here is the bundled model or an id.
    return str(Path(name).absolute()) if name is not None and Path(name).exists() else name


def run_on_ray(
    task: Task,
    files: Sequence[InputFile],
    identity: dict[str, Any],
    *,
    form: str | None,
    column: str | None,
    options: dict[str, Any],
) -> dict[str, Any]:
    """Run a task over files, print a summary on standard error, and return the ``totals`` of its records.

    Args:
        task: The task.
        files: The input.
        identity: What ``task.identity()`` returned.
        form: As for ``Corpus``.
        column: As for ``Corpus``.
        options: Options of the command.

    Raises:
        ClickException: A file could only be read in part.
        XLMError: As for ``Run``.
    """
    from xlm.distributed.output import totals
    from xlm.distributed.run import Run
    from xlm.distributed.tasks import ScoreTask

    progress = options["progress"]
    run = Run(
        task=task,
        files=files,
        output=options["output_dir"],
        cluster=_cluster(options),
        format=form,
        column=column,
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
    click.echo(f"{total['rows']:,} rows in {len(records):,} files{resumed}", err=True)
    if total["problems"]:
        click.echo(f"{total['problems']:,} rows could not be processed", err=True)
        for reason in [reason for record in records for reason in record.reasons][:_SHOWN_REASONS]:
            click.echo(f"  {reason}", err=True)
    damaged = [files[record.file].name for record in records if record.damaged]
    if damaged:
        raise click.ClickException(f"read only in part, the rest being damaged: {', '.join(damaged)}")
    return total


def _cluster(options: dict[str, Any]) -> ClusterOptions:
    from dataclasses import fields

    from xlm.distributed.cluster import ClusterOptions

    names = [field.name for field in fields(ClusterOptions)]
    return ClusterOptions(**{name: options[name] for name in names if options[name] is not None})
