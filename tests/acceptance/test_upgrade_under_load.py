"""Upgrade and rollback while clients ask and documents change: no answer fails or mixes."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from tests.acceptance.conftest import Installation, text_of, write_jsonl
from training.encoder import Encoder
from training.registry import ModelRegistry

N_DOCUMENTS = 120
N_CLIENTS = 3
PAUSE_S = 0.03  # between a client's requests: processes start meanwhile
TOLERANCE = 2e-3  # of a cosine: batches of other shapes round differently


class Load:
    """Clients that ask and one that writes, until they are told to stop."""

    def __init__(self, url: str, documents: dict[str, str]) -> None:
        self._url = url
        self._stop = threading.Event()
        self.truth = dict(documents)  # what the corpus must hold at the end
        self.versions: dict[str, list[str]] = defaultdict(list)  # every text a document ever had
        for doc_id, text in documents.items():
            self.versions[doc_id].append(text)
        self.answers: list[dict[str, Any]] = []
        self.failures: list[str] = []
        self.writes = 0
        self._threads = [threading.Thread(target=self._ask, args=(n,)) for n in range(N_CLIENTS)]
        self._threads.append(threading.Thread(target=self._write))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def generations_seen(self) -> set[str]:
        return {answer["generation"] for answer in self.answers}

    def _ask(self, client_number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as client:
            for number in itertools.count(client_number):
                if self._stop.is_set():
                    return
                mode = "dense" if number % 2 else "hybrid"
                body = {"query": text_of(number % 50), "mode": mode, "k": 5, "explain": True}
                try:
                    response = client.post("/search", json=body)
                    response.raise_for_status()
                    self.answers.append(response.json())
                except httpx.HTTPError as error:
                    self.failures.append(f"{type(error).__name__}: {error}")
                time.sleep(PAUSE_S)

    def _write(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30) as client:
            for number in itertools.count():
                if self._stop.is_set():
                    return
                doc_id = f"d{number * 17 % (N_DOCUMENTS + 60)}"
                if number % 5 == 4:
                    self.truth.pop(doc_id, None)
                    client.delete(f"/documents/{doc_id}").raise_for_status()
                else:
                    text = text_of(number, version=number)
                    self.versions[doc_id].append(text)
                    self.truth[doc_id] = text
                    document = {"doc_id": doc_id, "text": text}
                    client.put("/documents", json={"documents": [document]}).raise_for_status()
                self.writes += 1
                time.sleep(PAUSE_S)


def test_each_answer_comes_from_one_generation_and_no_write_is_lost(
    installation: Installation,
    service: Callable[[], object],
    two_models: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    documents = {f"d{number}": text_of(number) for number in range(N_DOCUMENTS)}
    installation.json("ingest", str(write_jsonl(tmp_path / "docs.jsonl", documents)))
    first = installation.json("upgrade", str(two_models[0]), "--yes")
    assert first["live_after"] == "docs@1"
    service()

    with Load(installation.address().url, documents) as load:
        upgraded = installation.json("upgrade", str(two_models[1]), "--yes")
        assert (upgraded["live_before"], upgraded["live_after"]) == ("docs@1", "docs@2")
        _wait_for(lambda: len(load.answers) > 0 and load.answers[-1]["generation"] == "docs@2")
        rolled_back = installation.run("rollback", "--yes")
        assert rolled_back.returncode == 0, rolled_back.stderr
        seen = len(load.answers)
        _wait_for(lambda: len(load.answers) > seen + 20)
        late = [answer["generation"] for answer in load.answers[seen + 5 :]]

    assert load.failures == []
    assert load.generations_seen() == {"docs@1", "docs@2"}
    assert set(late) == {"docs@1"}, "an answer came from docs@2 after the rollback was done"
    assert load.writes > 20
    assert _mixed(installation, load) == []

    # Nothing lost, nothing stale, nothing resurrected: in the live and in the standby generation.
    installation.json("sync")
    for generation in ("docs@1", "docs@2"):
        report = installation.json("verify", generation)
        assert report["passed"], [check for check in report["checks"] if not check["passed"]]
    with httpx.Client(base_url=installation.address().url, timeout=30) as client:
        for doc_id in load.versions:
            response = client.get(f"/documents/{doc_id}")
            found = response.json()["text"] if response.status_code == 200 else None
            assert found == load.truth.get(doc_id), doc_id


def _mixed(installation: Installation, load: Load) -> list[str]:
    """Dense hits whose score is not the cosine that the generation the answer names would give."""
    registry = ModelRegistry(installation.data_dir / "models")
    models = {answer["generation"]: answer["model"] for answer in load.answers}
    texts = sorted({text for versions in load.versions.values() for text in versions})
    queries = sorted({answer["query"] for answer in load.answers})
    row_of = {text: row for row, text in enumerate(texts)}
    cosines = {}
    for generation, model in models.items():
        encoder = Encoder(registry.resolve(model), device="cpu", dtype="fp32")
        vectors = encoder.encode_documents(texts)
        asked = encoder.encode_queries(queries)
        cosines[generation] = dict(zip(queries, asked @ vectors.T, strict=True))
    mixed = []
    for answer in load.answers:
        assert answer["model"] == models[answer["generation"]]
        scores = cosines[answer["generation"]][answer["query"]]
        for hit in answer["hits"]:
            if hit["dense_rank"] is None:
                continue
            possible = scores[[row_of[text] for text in load.versions[hit["doc_id"]]]]
            if np.abs(possible - hit["dense_score"]).min() > TOLERANCE:
                mixed.append(f"{answer['generation']} {hit['doc_id']} {hit['dense_score']}")
    return mixed


def _wait_for(happened: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
