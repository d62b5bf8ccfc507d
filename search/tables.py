"""The tables of corpus, catalog, journal, jobs and feedback. Migrations lead to them."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

# The last seq that was handed out. Every writer updates this one row inside its transaction, so
# writers commit in the order of their seqs and no reader sees n+1 before n.
corpus_head = sa.Table(
    "corpus_head",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
)

documents = sa.Table(
    "documents",
    metadata,
    sa.Column("doc_id", sa.Text, primary_key=True),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("deleted", sa.Boolean, nullable=False),
    sa.Column("content_hash", sa.Text, nullable=False),  # "" for a tombstone
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("metadata", sa.Text, nullable=False),  # canonical JSON object
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("changed_at", sa.Float),  # Unix seconds; null for rows of the first schema
    sa.Index("documents_seq", "seq", "deleted", unique=True),
    sa.Index("documents_source", "source", "doc_id"),
)

# How far a source has been read, so that one that stopped half-way goes on there.
positions = sa.Table(
    "positions",
    metadata,
    sa.Column("source", sa.Text, primary_key=True),
    sa.Column("location", sa.Text, primary_key=True),  # file, table, ...; without credentials
    sa.Column("version", sa.Text, nullable=False),  # of what lies there, and of how it is read
    sa.Column("position", sa.Text, nullable=False),  # JSON object
    sa.Column("finished", sa.Boolean, nullable=False),
    sa.Column("rejected", sa.BigInteger, nullable=False),  # rows, up to the position
    sa.Column("updated_at", sa.Float, nullable=False),  # Unix seconds
)

generations = sa.Table(
    "generations",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),  # docs@7
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("recipe", sa.Text, nullable=False),  # JSON
    sa.Column("collection", sa.Text, nullable=False),  # physical name in the dense store
    sa.Column("watermark", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.Float, nullable=False),  # Unix seconds, UTC
    sa.Column("state_at", sa.Float, nullable=False),
    sa.Column("verified", sa.Text),  # JSON of the last verification
)
# At most one live and one standby generation, whatever the code does.
sa.Index(
    "generations_one_live",
    generations.c.state,
    unique=True,
    sqlite_where=generations.c.state == "live",
    postgresql_where=generations.c.state == "live",
)
sa.Index(
    "generations_one_standby",
    generations.c.state,
    unique=True,
    sqlite_where=generations.c.state == "standby",
    postgresql_where=generations.c.state == "standby",
)

searchers = sa.Table(
    "searchers",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),  # host:pid:nonce
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("generation", sa.Text),  # answering from
    sa.Column("prepared", sa.Text),  # loaded, warmed and caught up, ready to switch to
    sa.Column("problem", sa.Text),  # why it cannot prepare
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("seen_at", sa.Float, nullable=False),
    # Of the queries it answered in the last seconds; null when there were none.
    sa.Column("queries_per_s", sa.Float),
    sa.Column("p50_ms", sa.Float),
    sa.Column("p99_ms", sa.Float),
    sa.Column("request", sa.BigInteger),  # token of the cut-over that prepared and problem speak of
)

# The switch that is under way, if one is: one row at most.
cutover = sa.Table(
    "cutover",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("expected_live", sa.Text),
    sa.Column("token", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
)

builds = sa.Table(
    "builds",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("generation", sa.Text, nullable=False, unique=True),
    sa.Column("state", sa.Text, nullable=False),  # running paused failed cancelled done
    sa.Column("reason", sa.Text),
    sa.Column("wanted", sa.Text),  # pause | cancel, asked for by somebody
    sa.Column("start_head", sa.BigInteger, nullable=False),  # corpus head when it was recorded
    sa.Column("docs_done", sa.BigInteger, nullable=False),
    sa.Column("docs_total", sa.BigInteger, nullable=False),
    sa.Column("passages", sa.BigInteger, nullable=False),
    sa.Column("encoded", sa.BigInteger, nullable=False),
    sa.Column("reused", sa.BigInteger, nullable=False),
    sa.Column("docs_per_s", sa.Float, nullable=False),
    sa.Column("busy_s", sa.Float, nullable=False),  # time spent working, over all its runs
    sa.Column("retries", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.Column("stages", sa.Text),  # JSON: seconds spent per stage, over all its runs
    sa.Column("pace", sa.Float),  # share [0..1] of full speed that the governor leaves it
    sa.Column("pace_reason", sa.Text),
    sa.Column("tokens", sa.BigInteger),  # encoded, over all its runs
    sa.Column("batches", sa.BigInteger),  # that they were encoded in
    sa.Column("actors", sa.Integer),  # wanted by somebody while it runs; null: as the settings say
)

# Ranges of seq of one build that are encoded side by side; gone once all of them are done.
chunks = sa.Table(
    "chunks",
    metadata,
    sa.Column("build_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("after_seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("until_seq", sa.BigInteger, nullable=False),
    sa.Column("done_at", sa.Float),  # null: not done
    sa.Index("chunks_left", "build_id", "done_at", "after_seq"),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("holder", sa.Text, nullable=False),  # host:pid:start time of the process
    sa.Column("token", sa.BigInteger, nullable=False),  # grows with every change of hands
    sa.Column("expires_at", sa.Float, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("generation", sa.Text),
    sa.Column("who", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),  # JSON
)

# Work that was asked for and that a worker does: one row a request.
jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("arguments", sa.Text, nullable=False),  # JSON object
    sa.Column("state", sa.Text, nullable=False),  # queued running done failed cancelled
    sa.Column("who", sa.Text, nullable=False),  # asked for it
    sa.Column("holder", sa.Text),  # the process that does it
    sa.Column("token", sa.BigInteger),  # of that process's lease
    sa.Column("child", sa.Text),  # the process that it started for the work
    sa.Column("log", sa.Text),  # file with what that process says
    sa.Column("attempts", sa.Integer, nullable=False),  # since it last got ahead
    sa.Column("not_before", sa.Float),  # Unix seconds; when it is tried again
    sa.Column("reason", sa.Text),  # why it failed, or waits
    sa.Column("result", sa.Text),  # JSON object
    sa.Column("asked_at", sa.Float, nullable=False),
    sa.Column("started_at", sa.Float),
    sa.Column("finished_at", sa.Float),
    sa.Index("jobs_state", "state", "id"),
)

# What is done again and again, and when it was last asked for.
schedules = sa.Table(
    "schedules",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),  # of the job
    sa.Column("arguments", sa.Text, nullable=False),  # JSON object
    sa.Column("trigger", sa.Text, nullable=False),  # "every 300s" or five cron fields
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("last_at", sa.Float),
    sa.Column("created_at", sa.Float, nullable=False),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),  # the public part of the key
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),  # SHA-256 of the secret part
    sa.Column("scopes", sa.Text, nullable=False),  # JSON list
    sa.Column("rate_limit", sa.Text),  # "600/minute"; null for the default
    sa.Column("created_at", sa.Float, nullable=False),
    sa.Column("revoked_at", sa.Float),
)

query_log = sa.Table(
    "query_log",
    metadata,
    sa.Column("query_id", sa.Text, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("generation", sa.Text, nullable=False),
    sa.Column("mode", sa.Text, nullable=False),
    sa.Column("query", sa.Text),  # null when the settings drop it
    sa.Column("query_hash", sa.Text, nullable=False),
    sa.Column("hits", sa.Text, nullable=False),  # JSON list of doc_ids, best first
    sa.Column("took_ms", sa.Float, nullable=False),
    sa.Column("who", sa.Text),  # hashed, or null when the settings drop it
    sa.Index("query_log_at", "at"),
)

# Clicks, thumbs and judgments of what a query brought.
feedback = sa.Table(
    "feedback",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("query_id", sa.Text, nullable=False),
    sa.Column("doc_id", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),  # click | judgment
    sa.Column("value", sa.Float, nullable=False),  # 1 for a click; the grade of a judgment
    sa.Column("position", sa.Integer),  # rank it was shown at, from 1
    sa.Column("who", sa.Text),
    sa.Index("feedback_query", "query_id"),
    sa.Index("feedback_at", "at"),
)

# Which of two generations a person found better for a query.
votes = sa.Table(
    "votes",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("at", sa.Float, nullable=False),
    sa.Column("query", sa.Text, nullable=False),
    sa.Column("one", sa.Text, nullable=False),  # generation
    sa.Column("other", sa.Text, nullable=False),  # generation
    sa.Column("better", sa.Text),  # the generation that was better; null for neither
    sa.Column("who", sa.Text, nullable=False),
)
