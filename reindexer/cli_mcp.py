"""The verb that lets assistants search: mcp."""

from __future__ import annotations

import click

from reindexer.cli_verb import Invocation, Verb, pass_invocation
from reindexer.errors import ReindexerError
from training.outgoing import check_address


class NoService(ReindexerError):
    """Nothing serves the data directory that was named."""


@click.command(
    cls=Verb,
    examples=["reindexer mcp", "reindexer mcp --url http://search.example:8321"],
)
@click.option("--url", help="Ask the service at this URL instead of the data directory's own.")
@click.option(
    "--key", envvar="REINDEXER_KEY", show_envvar=True, help="API key for --url (scope search)."
)
@pass_invocation
def mcp(invocation: Invocation, url: str | None, key: str | None) -> None:
    """Give assistants search, by the Model Context Protocol.

    Three tools that only read: search, get_document and status. A `reindexer serve` answers them.
    It needs the extra mcp: pip install 'reindexer[mcp]'.
    """
    from search.adapters.mcp import create_server
    from search.client import AsyncSearchClient

    if url is not None:
        check_address(url)
        client = AsyncSearchClient(url, api_key=key)
    else:
        from reindexer.service_address import ServiceAddress

        address = ServiceAddress.read(invocation.settings.data_dir)
        if address is None:
            raise NoService(
                f"nothing on this machine serves {invocation.settings.data_dir}; run `reindexer "
                "serve`, or name a service with --url"
            )
        client = AsyncSearchClient(address.url, token=address.token)
    create_server(client).run("stdio")
