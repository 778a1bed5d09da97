"""``--engine ray``: what the commands that work on corpora have in common when a cluster does the work."""

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
    from xlm.distributed.run import Summary
    from xlm.distributed.work import Work
    from xlm.distributed.worker_model import WorkerModel

_SHOWN_REASONS = 5


_ENGINE = click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    is_eager=True,  # what may stand for an input depends on it
    help="Who does the work: this process, or a cluster of Ray (pip install 'xlm[ray]'). With ray, inputs may also be "
    "directories, patterns such as 'texts/*.gz', and addresses such as s3://bucket/texts.",
)
_OF_RAY = (
    click.option(
        "--output-dir",
        metavar="DIR",
        help="Directory or address for the results: files part-0000000-0000000 and so on, which in the order of their "
        "names are what --engine local writes, but that each TSV has the header; _SUCCESS when all are there.",
    ),
    click.option(
        "--address",
        metavar="ADDR",
        help="The cluster: HOST:PORT of its head, or auto on a machine that belongs to it; not ray://.  [default: "
        "RAY_ADDRESS; without it, one of this machine for the time of the run]",
    ),
    click.option(
        "--connect-timeout", type=click.FloatRange(0), metavar="S", help="Seconds to wait for it.  [default: 30]"
    ),
    click.option(
        "--concurrency", type=click.IntRange(1), metavar="N", help="Workers.  [default: as many as there is room for]"
    ),
    click.option(
        "--gpus-per-worker",
        type=click.FloatRange(0),
        metavar="G",
        help="GPUs of each worker, such as 1 or 0.5.  [default: 0, which computes on CPUs]",
    ),
    click.option(
        "--threads-per-worker",
        type=click.IntRange(1),
        metavar="N",
        help="Threads, and CPUs, of each worker. The digits are those of --engine local with as many threads "
        "(OMP_NUM_THREADS).  [default: 1]",
    ),
    click.option(
        "--windows-per-file",
        type=click.IntRange(1),
        metavar="N",
        help="How much goes into one file of results: N times what is computed together, the rows of --read-ahead or "
        "--batch-size, or 4,096.  [default: by the size of the input, up to 65,536 rows]",
    ),
)
RAY_OPTIONS = (
    "output_dir",
    "address",
    "connect_timeout",
    "concurrency",
    "gpus_per_worker",
    "threads_per_worker",
    "windows_per_file",
)
"""Parameters that go with ``--engine ray`` only, in every command."""

_RESUME = click.option("--resume", is_flag=True, help="Go on with the --output-dir of a run that was cut off.")
_PROGRESS = click.option(
    "--progress/--no-progress", default=None, help="Show Ray's progress.  [default: on a terminal]"
)


def engines(*further: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds ``--engine`` and the options of ``--engine ray``, which ``uses_ray`` checks, and some of one command."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed((_ENGINE, *_OF_RAY, *further)):
            command = option(command)
        return command

    return decorate


resuming = (_RESUME, _PROGRESS)
"""``--resume`` and ``--progress``, for commands that do not have them otherwise."""


def uses_ray(*, only_ray: Iterable[str] = (), only_local: Iterable[str] = ()) -> bool:
    """Whether the command that runs is to work on a cluster.

    Args:
        only_ray: Parameters that go with ``--engine ray`` only, beside those that ``engines`` adds.
        only_local: Parameters that do not go with it.

    Raises:
        UsageError: A parameter is given that does not go with the engine, or none where one is needed.
    """
    context = click.get_current_context()
    ray: bool = context.params["engine"] == "ray"
    given = [
        _shown(context, name)
        for name in (only_local if ray else (*RAY_OPTIONS, *only_ray))
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE
    ]
    if given:
        raise click.UsageError(f"{', '.join(given)}: not with --engine {'ray' if ray else 'local'}")
    if ray and context.params["output_dir"] is None:
        raise click.UsageError("--engine ray writes to a directory: --output-dir DIR")
    try:
        _cluster(context.params)
    except InputError as error:
        raise click.UsageError(str(error)) from error
    return ray


def _shown(context: click.Context, name: str) -> str:
    found = next(parameter for parameter in context.command.params if parameter.name == name)
    return found.opts[0] if isinstance(found, click.Option) else name.upper()


def inputs(names: Sequence[str], *, form: str | None, column: str | None) -> list[InputFile]:
    """The files that are to be read.

    Raises:
        UsageError: Standard input, nothing of that name, a column of plain text, or Parquet that is compressed.
        InputError: The first is a table without the column, has a header that cannot be read, or is in UTF-16.
        DependencyError: Ray is not installed.
    """
    from xlm.corpus.rows import Corpus
    from xlm.distributed.cluster import import_ray
    from xlm.distributed.inputs import input_files

    import_ray()
    if not names or "-" in names:
        raise click.UsageError("--engine ray reads files, not standard input")
    try:
        files = input_files(list(names), output=click.get_current_context().params["output_dir"])
        Corpus(files, format=form, column=column)
    except InputError as error:
        raise click.UsageError(str(error)) from error
    # The first stands for all: each file costs a round trip, and the others are checked where they are read.
    Corpus(files[:1], format=form, column=column).check()
    return files


def earlier_run(options: dict[str, Any]) -> dict[str, Any]:
    """What the run is that is to be resumed; nothing when there is none.

    Raises:
        XLMError: The output directory cannot be read.
    """
    from xlm.distributed.output import Output
    from xlm.distributed.storage import Directory

    found = Output(Directory(options["output_dir"]), "").description() if options["resume"] else None
    return found or {}


def worker_model(model: str, *, lang: str, options: dict[str, Any]) -> WorkerModel:
    """The model as each worker is to open it.

    Args:
        model: Its name.
        lang: Language of the texts.
        options: Of the command line.

    Raises:
        InputError: What is to compute cannot, in that type.
    """
    from xlm.distributed.worker_model import WorkerModel
    from xlm.inference.loading import check_device

    device = "cuda" if options["gpus_per_worker"] else "cpu"
    dtype = options.get("dtype", "float32")
    check_device(dtype=dtype, device=device)
    return WorkerModel(
        model=_whole_path(model),
        lang=lang,
        preset=options["preset"],
        codes=_whole_path(options["codes"]),
        dtype=dtype,
        device=device,
        threads=options["threads_per_worker"] or 1,
    )


def _whole_path(name: Any) -> Any:
    # Workers are in other directories. What is no path here is a bundled model or an id.
    return str(Path(name).absolute()) if name is not None and Path(name).exists() else name


def work_on_ray(
    work: Work,
    files: Sequence[InputFile],
    identity: dict[str, Any],
    *,
    form: str | None,
    column: str | None,
    options: dict[str, Any],
) -> Summary:
    """Does a work over files, and says on standard error what came of it.

    Args:
        work: The work.
        files: The input.
        identity: What ``work.identity()`` gave.
        form: As for ``Corpus``.
        column: As for ``Corpus``.
        options: Of the command line.

    Raises:
        ClickException: Files could be read in part only.
        XLMError: As for ``Run``.
    """
    from xlm.distributed.run import Run
    from xlm.distributed.work import ScoreWork

    shown = options["progress"]
    run = Run(
        work=work,
        files=files,
        output=options["output_dir"],
        cluster=_cluster(options),
        form=form,
        column=column,
        windows_per_file=options["windows_per_file"],
        resume=options["resume"],
        progress=sys.stderr.isatty() if shown is None else shown,
    )
    summary = run(identity)
    if "signature" in identity:
        unknown = summary.counts.get("unknown", 0) if isinstance(work, ScoreWork) else None
        show_signature(identity["signature"], unknown=unknown)
    for warning in summary.warnings:
        click.echo(f"warning: {' '.join(warning.split())}", err=True)
    if len(summary.processors) > 1:
        kinds = ", ".join(summary.processors)
        click.echo(f"warning: several kinds of processor, whose last digits may differ: {kinds}", err=True)
    resumed = f", {summary.resumed:,} of them from before" if summary.resumed else ""
    click.echo(f"{summary.rows:,} rows in {summary.parts:,} files{resumed}", err=True)
    if summary.problems:
        click.echo(f"{summary.problems:,} rows could not be processed", err=True)
        for reason in summary.reasons[:_SHOWN_REASONS]:
            click.echo(f"  {reason}", err=True)
    if summary.damaged:
        raise click.ClickException(f"read only in part, the rest being damaged: {', '.join(summary.damaged)}")
    return summary


def _cluster(options: dict[str, Any]) -> ClusterOptions:
    from xlm.distributed.cluster import CONNECT_SECONDS, ClusterOptions

    timeout = options["connect_timeout"]
    return ClusterOptions(
        address=options["address"],
        concurrency=options["concurrency"],
        gpus_per_worker=options["gpus_per_worker"] or 0.0,
        threads_per_worker=options["threads_per_worker"] or 1,
        connect_seconds=CONNECT_SECONDS if timeout is None else timeout,
    )
