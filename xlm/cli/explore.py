"""``xlm explore``: a model in the browser."""

from __future__ import annotations

import dataclasses
import threading
import webbrowser
from pathlib import Path
from typing import Any

import click

from xlm.cli._options import computing, model_source, pipeline
from xlm.errors import DependencyError

_LOOPBACK = "127.0.0.1"


@click.command(name="explore", short_help="A model in the browser: surprisals, alternatives, continuations.")
@click.argument("model")
@click.option("--lang", "languages", multiple=True, metavar="L", help="Language to offer; repeat.  [default: all]")
@pipeline
@computing
@click.option("--host", default=_LOOPBACK, show_default=True, help="Address to serve at.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Port; 0 for any that is free."
)
@click.option("--allow-remote", is_flag=True, help="Needed for a --host that other machines can reach.")
@click.option("--open/--no-browser", "opens", default=False, help="Open the page in a browser.  [default: no-browser]")
def command(
    model: str,
    languages: tuple[str, ...],
    host: str,
    port: int,
    allow_remote: bool,
    opens: bool,
    **options: Any,
) -> None:
    r"""Serves a page on this machine that shows what MODEL makes of a text.

    MODEL is a model directory, a checkpoint of the original (.pth), the bundled xlm-clm-ende-small, or an id on the
    Hugging Face hub. The page shows the surprisal of each word as you type, the alternatives at each place, two
    languages or presets side by side, and continuations as they come. It loads nothing from the network, and only
    this machine can reach it. Ctrl-C ends it. Needs two libraries: pip install 'xlm[explore]'.

    \b
    Example:
        xlm explore MODEL --open
        xlm explore MODEL --port 0 --dtype int8
    """
    try:
        from xlm.explore.app import make_app
        from xlm.explore.explorer import Explorer
        from xlm.explore.server import address_of, is_loopback, listen, serve
        from xlm.explore.worker import Worker
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("starlette", "uvicorn", "anyio"):
            raise
        raise DependencyError(
            f"the library {missing} is not installed", where="xlm explore", remedy="pip install 'xlm[explore]'"
        ) from error
    local = is_loopback(host)
    if not local and not allow_remote:
        raise click.UsageError(
            f"--host {host}: other machines could use the page, which knows no password; "
            "add --allow-remote if that is meant"
        )
    # Before the model, which may take long to load: a port that is taken shows at once.
    listening = listen(host, port)
    with listening:
        source = model_source(model, options)
        explorer = Explorer(
            source.fast(source.network(), few_rows=True),
            lambda chosen: dataclasses.replace(source, preset=chosen or source.preset).tokenizer(),
            name=Path(model).resolve().name,
            languages=languages or None,
        )
        worker = Worker(explorer.limits.requests)
        app = make_app(explorer, worker, names=frozenset({host.lower()}), any_address=not local)
        address = address_of(listening)
        if not local:
            click.echo(f"warning: whoever can reach {host} can use this page: no password, no encryption", err=True)
        click.echo(f"{address} shows {explorer.describe()['name']}; Ctrl-C ends it", err=True)
        if opens:
            # A thread of its own: some browsers return only when they are closed.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        try:
            serve(app, worker, listening)
        except KeyboardInterrupt:
            click.echo(err=True)  # ends the line on which the terminal showed ^C
