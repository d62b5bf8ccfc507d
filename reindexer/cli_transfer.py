"""The verbs models push and models pull."""

from __future__ import annotations

import click

from reindexer.cli_verb import Invocation, Verb, json_option, pass_invocation
from reindexer.progress import Progress
from reindexer.terminal import next_steps, print_json, say, size


@click.command(
    "push",
    cls=Verb,
    examples=[
        "reindexer models push support@4 s3://our-bucket/models",
        "reindexer models push support@4 hf://our-organisation/support",
    ],
    json_fields='{"model", "location", "fingerprint", "size_bytes", "sent_bytes"}',
)
@click.argument("model", metavar="NAME@N")
@click.argument("target")
@click.option(
    "--public", is_flag=True, help="Let everybody read the hub repository; private otherwise."
)
@json_option
@pass_invocation
def push_model(
    invocation: Invocation, model: str, target: str, public: bool, as_json: bool
) -> None:
    """Copy a version to a shared place, with checksums.

    TARGET is a folder, a URL that fsspec knows (file://, s3://, gs://, ...), where the version
    becomes TARGET/NAME@N, or a repository of the Hugging Face hub (hf://organisation/name), where
    it becomes one commit with the tag vN, or the tag after an @. The model card, the report and the
    queries shown in it go with it. Doing it again sends only what is missing.
    """
    from training.transfer import push

    with (
        invocation.open_existing() as data,
        Progress(f"push {model}", quiet=invocation.quiet) as progress,
    ):
        version = data.registry.resolve(model)
        progress.update(state="checking files")
        pushed = push(
            version,
            target,
            public=public,
            on_progress=lambda done, total: progress.update(done, total=total, state="sending"),
        )
    if as_json:
        print_json(
            {
                "model": str(version),
                "location": pushed.location,
                "fingerprint": version.fingerprint,
                "size_bytes": pushed.size_bytes,
                "sent_bytes": pushed.sent_bytes,
            }
        )
        return
    sent = f"{size(pushed.sent_bytes)} sent" if pushed.sent_bytes else "all of it was there already"
    say(f"{version} is at {pushed.location} ({sent})")
    if not invocation.quiet:
        pin = version.fingerprint[:12]
        next_steps(
            f"reindexer models pull {pushed.location} --fingerprint {pin}    (on another machine)"
        )


@click.command(
    "pull",
    cls=Verb,
    examples=[
        "reindexer models pull s3://our-bucket/models/support@4",
        "reindexer models pull hf://our-organisation/support@v4 --fingerprint 896e486f1995",
    ],
    json_fields='{"model", "source", "base", "dim", "fingerprint", "size_bytes", "lineage": {…}}',
)
@click.argument("source")
@click.option("--name", help="Its name here; its own unless given.")
@click.option(
    "--fingerprint", metavar="HEX", help="Take it only if its fingerprint is this, or begins so."
)
@click.option(
    "--trust-remote-code", is_flag=True, help="Let this model run code of its own. Read it first."
)
@json_option
@pass_invocation
def pull_model(
    invocation: Invocation,
    source: str,
    name: str | None,
    fingerprint: str | None,
    trust_remote_code: bool,
    as_json: bool,
) -> None:
    """Register a version that `models push` put somewhere.

    Every file is compared with its checksum first; one that was changed, or a push that was broken
    off, is refused. The version keeps its number where that is free here. To register a model that
    was not pushed from here use `models register`.
    """
    from training.transfer import pull

    with (
        invocation.open() as data,
        Progress(f"pull {source}", quiet=invocation.quiet) as progress,
    ):
        version = pull(
            data.registry,
            source,
            name=name,
            fingerprint=fingerprint,
            trust_remote_code=trust_remote_code,
            on_progress=lambda done, total: progress.update(done, total=total, state="copying"),
        )
    if as_json:
        print_json(
            {
                "model": str(version),
                "source": source,
                "base": version.base,
                "dim": version.dim,
                "fingerprint": version.fingerprint,
                "size_bytes": version.size_bytes,
                "lineage": dict(version.lineage),
            }
        )
        return
    say(f"{version}: {version.dim} dimensions, {size(version.size_bytes)}, from {version.base}")
    if not invocation.quiet:
        next_steps(f"reindexer models show {version}", f"reindexer upgrade {version}")
