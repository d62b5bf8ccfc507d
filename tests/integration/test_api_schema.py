"""The OpenAPI document tells the truth: whatever it allows is answered as it says."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction, not_a_server_error
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from reindexer.service import PROBLEMS, ReindexerService
from search.app import create_app
from tests.word_directory import WordDirectory

WAIT_S = 60.0
N_EXAMPLES = 8  # of each endpoint, right and wrong ones: some hundred requests altogether
HERE = {"Host": "127.0.0.1"}  # the machine that is trusted, not the client library's own name
CHECKS: list[CheckFunction] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
]


@schemathesis.serializer("application/x-ndjson")
def as_lines(_context: Any, value: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for _ in range(2))


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The whole API over a real corpus, store and database: docs@2 is live, docs@1 standby."""
    folder = tmp_path_factory.mktemp("schema") / "data"
    with WordDirectory(
        folder, cut_over_timeout_s=5.0, feedback_enabled=True, run_worker=False
    ) as directory:
        directory.put_many(f"d{number}" for number in range(20))
        for model in ("word@1", "word@2"):
            directory.go_live(directory.build(model))
        service = ReindexerService(directory, host="127.0.0.1", port=0)
        assert service.manager.wait_until_open("docs@2", WAIT_S)
        service.manager.follow()
        threads = [threading.Thread(target=work) for work in (service._follow, service._replay)]
        for thread in threads:
            thread.start()
        yield create_app(service, problems=PROBLEMS)
        service._stop.set()
        for thread in threads:
            thread.join()
        service.close()


@pytest.fixture(scope="module")
def schema(app: Any) -> schemathesis.BaseSchema:
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=HERE)
    for path in schema.raw_schema["paths"].values():
        for operation in path.values():
            operation.pop("security", None)  # this machine is trusted: a key is not needed
    return schema


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_every_endpoint_keeps_to_the_document(
    schema: schemathesis.BaseSchema, mode: GenerationMode
) -> None:
    n_operations = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        try:
            ask(operation, mode)
        except Unsatisfiable:  # nothing can be wrong with a request that has no parts
            assert mode is GenerationMode.NEGATIVE
            assert not operation.body
            assert not operation.query
        n_operations += 1
    assert n_operations > 30


def ask(operation: APIOperation, mode: GenerationMode) -> None:
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    @hypothesis.settings(
        max_examples=N_EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def one(case: schemathesis.Case) -> None:
        # A line of a stream that is wrong is told in the answer and refuses nothing.
        excluded = [negative_data_rejection] if operation.label == "POST /documents" else []
        case.call_and_validate(checks=CHECKS, excluded_checks=excluded, headers=HERE)

    one()
