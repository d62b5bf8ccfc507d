"""Strategies for what should never arrive and does: broken files, hostile values, cut-off bytes.

Most of it is near to what is right, because that gets past the first check: a valid example with a
few bytes or values replaced. `benchmarks/fuzz.py` draws the same inputs by the million.
"""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

# Numbers, texts and names that have broken programs before.
NASTY_NUMBERS: Sequence[Any] = (
    0, -1, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**40, 10**400, 0.1, -0.0, 1e308,
    1e-320, 5e15, float("nan"), float("inf"), -float("inf"),
)  # fmt: skip
NASTY_TEXTS: Sequence[str] = (
    "", " ", "\x00", "a\x00b", "\ud800", "\udc80x", "\ufeff", "\u202e", "\u2028", "é", "🦀", "%00",
    "../../etc/passwd", "/etc/passwd", "..", ".", "~", "C:\\x", "<script>alert(1)</script>",
    "'; DROP TABLE documents; --", '" OR ""="', "{{7*7}}", "${7*7}", "%s%n", "=1+1", "@x", "\t=1",
    "-1", "+1", "1e400", "nan", "Infinity", "null", "true", "1_000", "٣", "9" * 5_000, "a" * 70_000,
    "http://169.254.169.254/latest", "file:///etc/passwd", "hf://a/b", "s3://x/y", "x@1", "docs@1",
    "docs@" + "9" * 30, "field=", "=", ">=", "a>=b=c", "a=1..2..3", "a=1..", "a<", "a=|||", "\r\n",
    "2026-13-45T99:99:99Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "600/minute",
    "-5/second", "9999999999999999999999/day", "rk_" + "A" * 10 + "_" + "b" * 32,
)  # fmt: skip

texts = st.one_of(
    st.sampled_from(NASTY_TEXTS), st.text(max_size=20), st.text("ab=<>|.1@/", max_size=12)
)
numbers = st.one_of(st.sampled_from(NASTY_NUMBERS), st.integers(), st.floats())
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=8,
)


def deep(opening: str, closing: str, depth: int) -> str:
    """JSON that is nested so deep that a parser that recurses may fall over."""
    return opening * depth + "1" + closing * depth


def to_json(value: Any) -> bytes:
    """JSON, with what JSON cannot say written as Python does: NaN, Infinity, half a surrogate."""
    return json.dumps(value, ensure_ascii=True).encode()


def damaged(example: bytes, seed: int) -> bytes:
    """The example with a few bytes changed, taken out, doubled, or cut off at the end."""
    chance = random.Random(seed)
    content = bytearray(example)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        at = chance.randrange(len(content) + 1)
        length = chance.choice((1, 1, 2, 4, 8, 64))
        match chance.randrange(7):
            case 0:
                content[at : at + length] = chance.randbytes(length)
            case 1:
                del content[at : at + length]
            case 2:
                content[at:at] = content[at : at + length]
            case 3:
                content[at:at] = chance.choice(NASTY_TEXTS).encode("utf-8", "surrogatepass")
            case 4:
                content[at : at + 1] = chance.choice((b'"', b"\n", b"{", b"]", b",", b"\x00", b"9"))
            case 5:
                content[at:at] = str(chance.choice(NASTY_NUMBERS)).encode()
            case _:
                del content[at:]
    return bytes(content)


def near(*examples: bytes) -> st.SearchStrategy[bytes]:
    """Bytes that are almost one of the examples."""
    return st.builds(damaged, st.sampled_from(examples), st.integers(0, 2**63))


def objects(fields: Sequence[str]) -> st.SearchStrategy[dict[str, Any]]:
    """JSON objects with these fields, some missing, with values of every kind."""
    names = st.one_of(st.sampled_from(fields), st.sampled_from(fields), texts)
    return st.dictionaries(names, values, max_size=len(fields) + 1)


def replaced(example: Any, seed: int, strange: Any) -> Any:
    """The JSON value with one part, chosen by the seed, replaced by something strange."""
    chance = random.Random(seed)
    copy = json.loads(json.dumps(example))
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        if isinstance(value, dict | list):
            for key in value if isinstance(value, dict) else range(len(value)):
                places.append((value, key))
                walk(value[key])

    walk(copy)
    if not places:
        return strange
    inside, key = chance.choice(places)
    if isinstance(inside, dict) and chance.random() < 0.2:
        del inside[key]
    elif isinstance(inside, dict) and chance.random() < 0.1 and isinstance(strange, str):
        inside[strange] = inside.pop(key)
    else:
        inside[key] = strange
    return copy


def almost(example: Any) -> st.SearchStrategy[Any]:
    """JSON values that differ from the example in one part."""
    return st.builds(replaced, st.just(example), st.integers(0, 2**63), values)


def json_of(value: st.SearchStrategy[Any], *examples: bytes) -> st.SearchStrategy[bytes]:
    """JSON of such values, and bytes that are almost JSON."""
    deeply = st.builds(
        lambda parts, depth: deep(*parts, depth).encode(),
        st.sampled_from((("[", "]"), ('{"a":', "}"), ('{"metadata":', "}"))),
        st.sampled_from((10, 250, 1_000, 1_020, 5_000, 100_000)),
    )
    kinds = [value.map(to_json)] * 6 + ([near(*examples)] * 3 if examples else []) + [deeply]
    return st.one_of(kinds)


def lines_of(value: st.SearchStrategy[Any], *examples: bytes) -> st.SearchStrategy[bytes]:
    """JSON Lines of such values, broken ones among them."""
    return st.lists(json_of(value, *examples), max_size=4).map(b"\n".join)


# -- the formats -----------------------------------------------------------------------------------

DOCUMENT = {
    "doc_id": "d1", "title": "A title", "text": "Some text.",
    "metadata": {"year": 2020, "t": ["a"]},
}  # fmt: skip
CLICK = {
    "query": "refund", "doc_id": "d1", "position": 1, "clicked": True, "time": 1.7e9, "user": "u",
}  # fmt: skip
PAIR = {"anchor": "a question", "positive": "an answer", "negatives": ["no"], "score": 0.5}
QUERY = {"query": "all", "k": 3, "mode": "hybrid", "filter": {"year": {"gte": 2000}}, "depth": 20}
CSV = b'id,title,text,year\nd1,A title,Some text,2020\nd2,"quoted, title","two\nlines",x\n'
TOML = b'[build]\nwindow = 64\n[store]\nkind = "edge"\n[serve]\nport = 8321\ncors_origins = ""\n'
CONDITION = b"year>=2000"

documents = lines_of(st.one_of(almost(DOCUMENT), objects(tuple(DOCUMENT))), to_json(DOCUMENT))
clicks = lines_of(st.one_of(almost(CLICK), objects(tuple(CLICK))), to_json(CLICK))
pairs = lines_of(st.one_of(almost(PAIR), objects(tuple(PAIR))), to_json(PAIR))
tables = st.one_of(near(CSV, CSV.replace(b",", b"\t")), st.binary(max_size=60))
settings_files = st.one_of(near(TOML), st.binary(max_size=40), near(b"a = " + b"[" * 2_000))
filters = st.one_of(objects(("year", "topic")), values, almost(QUERY["filter"]))
conditions = st.lists(
    st.one_of(texts, near(CONDITION).map(lambda raw: raw.decode("utf-8", "surrogateescape"))),
    max_size=3,
)
query_bodies = json_of(st.one_of(almost(QUERY), objects(tuple(QUERY))), to_json(QUERY))


def parquet(rows: Sequence[dict[str, Any]]) -> bytes:
    """A Parquet file of these rows."""
    import pyarrow as pa
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pa.Table.from_pylist(list(rows)), file)
    return file.getvalue()


def _parquet_files() -> st.SearchStrategy[bytes]:
    example = parquet([{"id": f"d{n}", "text": "t" * n, "year": n} for n in range(1, 20)])
    footer = example[-400:]
    return st.one_of(near(example), near(footer).map(lambda end: example[:-400] + end))


# Almost Parquet: damaged anywhere, the footer above all.
parquet_files = st.deferred(_parquet_files)


# -- files of a model ------------------------------------------------------------------------------

MODEL_FILES: dict[str, Any] = {
    "modules.json": [
        {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"},
    ],
    "config.json": {"model_type": "bert", "hidden_size": 8, "max_position_embeddings": 64},
    "config_sentence_transformers.json": {
        "prompts": {"query": "q: ", "document": "d: "},
        "similarity_fn_name": "cosine",
        "truncate_dim": 4,
    },
    "sentence_bert_config.json": {"max_seq_length": 32},
    "tokenizer_config.json": {"model_max_length": 64, "auto_map": {}},
    "1_Pooling/config.json": {"embedding_dimension": 8, "pooling_mode": "mean"},
    "2_Dense/config.json": {"out_features": 4, "activation_function": "torch.nn.Tanh"},
    "model.safetensors.index.json": {"weight_map": {"w": "model-00001.safetensors"}},
}  # fmt: skip
model_file: st.SearchStrategy[tuple[str, bytes]] = st.sampled_from(sorted(MODEL_FILES)).flatmap(
    lambda name: st.tuples(
        st.just(name),
        json_of(st.one_of(almost(MODEL_FILES[name]), values), to_json(MODEL_FILES[name])),
    )
)


# -- requests --------------------------------------------------------------------------------------

Call = tuple[str, str, bytes]  # method, path with query, body

_VOTE = {"query": "all", "one": "docs@1", "other": "docs@2", "better": None}
_FEEDBACK = {"query_id": "q1", "doc_id": "d1", "kind": "click", "position": 1}
_BODIES: Sequence[tuple[str, str, Any]] = (
    ("POST", "/search", QUERY),
    ("POST", "/search/batch", {"queries": [QUERY]}),
    ("PUT", "/documents", {"documents": [DOCUMENT], "source": "s"}),
    ("PUT", "/documents/x", {"text": "t", "metadata": {"a": 1}}),
    ("POST", "/documents/delete", {"doc_ids": ["none"]}),
    ("POST", "/feedback", _FEEDBACK),
    ("POST", "/votes", _VOTE),
    ("POST", "/builds", {"model": "no@1", "cut_over": False, "evaluation": "x", "split": "test"}),
    ("POST", "/cutover", {"generation": "docs@99", "override": "why"}),
    ("POST", "/runs", {"queries": ["all"], "mode": "hybrid", "depth": 10}),
    ("POST", "/legs", {"queries": ["all"], "depth": 10}),
    ("POST", "/verify", {"generation": "docs@99"}),
)
_PATHS = (
    "/search?q={}", "/search?q=all&k={}", "/search?q=all&filter={}", "/search?q=all&generation={}",
    "/documents/{}", "/generations/{}", "/generations/{}/points", "/models/{}", "/builds/{}",
    "/events?after={}", "/{}", "/votes/summary?one={}",
)  # fmt: skip


def _in_path(template: str, text: str) -> str:
    from urllib.parse import quote

    return template.replace("{}", quote(text.encode("utf-8", "surrogatepass"), safe="/"))


calls: st.SearchStrategy[Call] = st.one_of(
    st.sampled_from(_BODIES).flatmap(
        lambda item: st.tuples(
            st.just(item[0]), st.just(item[1]), json_of(almost(item[2]), to_json(item[2]))
        )
    ),
    st.tuples(
        st.sampled_from(("GET", "DELETE")),
        st.builds(_in_path, st.sampled_from(_PATHS), texts),
        st.just(b""),
    ),
    st.tuples(st.just("POST"), st.just("/documents"), documents),
)
