"""``xlm bench``, which has moved; it says so for one release."""

from __future__ import annotations

import click


@click.command(
    hidden=True,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
@click.pass_context
def command(ctx: click.Context) -> None:
    """Say where the benchmarks are."""
    click.echo("Error: benchmarks have moved: run python -m benchmarks in a checkout of the repository", err=True)
    ctx.exit(2)
