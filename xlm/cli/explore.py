"""``xlm explore``: a model in the browser."""

from __future__ import annotations

import dataclasses
import threading
import webbrowser
from pathlib import Path
from typing import Any

import click

from xlm.cli._options import Command, compute_options, model_argument, model_source, option, section, tokenizer_options
from xlm.errors import DependencyError


@click.command(cls=Command, short_help="Show surprisals, alternatives and continuations in the browser")
@model_argument
@section(
    "Input",
    option(
        "--lang",
        "Language to offer; repeat for several",
        dest="languages",
        multiple=True,
        metavar="LANG",
        show_default="all of the model's",
    ),
)
@tokenizer_options
@section(
    "Server",
    option("--open/--no-browser", "Open the page in a browser", dest="open_browser", default=False),
    option("--port", "Port; 0 for any free port", type=click.IntRange(0, 65535), default=8000),
    option("--host", "Address to serve at", default="127.0.0.1", metavar="HOST"),
    option("--allow-remote", "Allow a --host that other machines can reach", is_flag=True),
)
@compute_options
def command(
    model: str, languages: tuple[str, ...], host: str, port: int, allow_remote: bool, open_browser: bool, **options: Any
) -> None:
    r"""Serve a web page that shows how MODEL predicts a text, until Ctrl-C.

    The page shows the surprisal of each word as you type, the alternatives for each token, two languages or presets
    side by side, and continuations as they are generated. It loads nothing from the network, and by default only this
    machine can reach it. Requires starlette and uvicorn: pip install 'xlm[explore]'.

    \b
    Examples:
        xlm explore MODEL --open
        xlm explore MODEL --port 0 --dtype int8
    """
    try:
        from xlm.explore.app import make_app
        from xlm.explore.explorer import Explorer
        from xlm.explore.server import Worker, address_of, is_loopback, listen, serve
        from xlm.model.lm import XLMWithLMHeadModel
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("starlette", "uvicorn", "anyio"):
            raise
        raise DependencyError(
            f"{missing} is not installed", where="xlm explore", remedy="pip install 'xlm[explore]'"
        ) from error
    local = is_loopback(host)
    if not local and not allow_remote:
        raise click.UsageError(
            f"--host {host}: other machines could use the page, which has no password; add --allow-remote to allow that"
        )
    # Open the port before the model, which can take long to load, so that a port in use is reported at once.
    with listen(host, port) as listening:
        source = model_source(model, options)
        explorer = Explorer(
            source.fast(source.network(XLMWithLMHeadModel), few_rows=True),
            lambda preset: dataclasses.replace(source, preset=preset or source.preset).tokenizer(),
            name=Path(model).resolve().name,
            languages=languages or None,
        )
        worker = Worker(explorer.limits.requests)
        app = make_app(explorer, worker, names=frozenset({host.lower()}), any_address=not local)
        address = address_of(listening)
        if not local:
            click.echo(
                f"warning: every machine that reaches {host} can use this page: no password, no encryption", err=True
            )
        click.echo(f"{address} shows {explorer.describe()['name']}; Ctrl-C ends it", err=True)
        if open_browser:
            # Use a thread: with some browsers, this call returns only when the browser is closed.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        try:
            serve(app, worker, listening)
        except KeyboardInterrupt:
            click.echo(err=True)  # ends the line on which the terminal shows ^C
