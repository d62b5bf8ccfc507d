"""The verb on API keys: keys create, list, revoke."""

from __future__ import annotations

from typing import Any

import click

from reindexer.cli_verb import Invocation, VerbGroup, json_option, pass_invocation
from reindexer.terminal import next_steps, note, print_json, say, table, when
from search.scopes import SCOPES, Scope

_KEY = '{"id", "name", "scopes": [], "rate", "created_at", "revoked_at"}'


@click.group(
    cls=VerbGroup,
    examples=["reindexer keys", "reindexer keys create website --scope search"],
    json_fields=f"as `keys list`: a list of {_KEY}",
)
@json_option
@click.pass_context
def keys(context: click.Context, as_json: bool) -> None:
    """API keys for the service; by itself the list of them."""
    if context.invoked_subcommand is None:
        context.invoke(list_keys, as_json=as_json)


@keys.command(
    "create",
    examples=[
        "reindexer keys create website --scope search --rate 600/minute",
        "reindexer keys create importer --scope search --scope write",
    ],
    json_fields=f'{_KEY} and "key", which is nowhere else',
)
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    type=click.Choice(SCOPES),
    multiple=True,
    required=True,
    help="What the key may do; more than once for more. None includes another: search asks, "
    "write changes documents, operate builds and switches.",
)
@click.option(
    "--rate", metavar="N/UNIT", help="Requests it may make, such as 600/minute; else as the "
    "setting serve.rate_limit says.",
)  # fmt: skip
@json_option
@pass_invocation
def create_key(
    invocation: Invocation, name: str, scopes: tuple[Scope, ...], rate: str | None, as_json: bool
) -> None:
    """Make a key for NAME and show it, this once.

    Only a hash of it is kept. Running services know it at once.
    """
    with invocation.open() as data:
        from search.keys import ApiKeys

        key, text = ApiKeys(data.database).create(name, scopes, rate_limit=rate)
    if as_json:
        print_json({**key.to_json(), "key": text})
        return
    say(text)
    note(
        f"The key of {key.name}, for {_scopes(key.to_json())}. It cannot be shown again; a lost "
        "key is revoked and replaced."
    )
    note(f"Send it as a header: Authorization: Bearer {text[:6]}…")


@keys.command(
    "list",
    examples=["reindexer keys list", "reindexer keys list --json"],
    json_fields=f"a list of {_KEY}, the oldest first",
)
@json_option
@pass_invocation
def list_keys(invocation: Invocation, as_json: bool) -> None:
    """Every key that was made, without its secret."""
    with invocation.open_existing() as data:
        from search.keys import ApiKeys

        found = [key.to_json() for key in ApiKeys(data.database).list()]
    if as_json:
        print_json(found)
        return
    if not found:
        say("No key yet.")
        next_steps("reindexer keys create NAME --scope search")
        return
    rows = [
        (
            key["id"],
            key["name"],
            _scopes(key),
            key["rate"],
            when(key["created_at"]),
            when(key["revoked_at"]) if key["revoked_at"] else None,
        )
        for key in found
    ]
    say(table(("id", "name", "scopes", "rate", "made", "revoked"), rows))


@keys.command(
    "revoke",
    examples=["reindexer keys revoke 4fK2mPq9Lx"],
    json_fields=_KEY,
)
@click.argument("key_id", metavar="ID")
@json_option
@pass_invocation
def revoke_key(invocation: Invocation, key_id: str, as_json: bool) -> None:
    """End a key for ever.

    ID is from `keys list`, or the key itself if that is what you found. Running services refuse it
    within 2 seconds.
    """
    with invocation.open_existing() as data:
        from search.keys import ApiKeys

        key = ApiKeys(data.database).revoke(key_id)
    if as_json:
        print_json(key.to_json())
        return
    say(f"The key {key.id} of {key.name} is revoked; services refuse it within 2 seconds.")


def _scopes(key: dict[str, Any]) -> str:
    return ", ".join(key["scopes"])
