"""What a language model answered: the queries in it, and a file that keeps every answer."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from training.errors import TrainingError
from training.llm_calls import Completion

_THINKING = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)", re.DOTALL)
_FENCE = re.compile(r"```[a-zA-Z]*\s*\n(.*?)(?:```|\Z)", re.DOTALL)
_LISTED = re.compile(r"^\s*(?:\(?\d{1,2}[.):]|[-*\N{BULLET}])\s+(.+?)\s*$", re.MULTILINE)
_JSON_TEXT = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NAMES = ("queries", "questions", "query", "question", "text")


def find_queries(answer: str) -> list[str]:
    """The queries of an answer, as they stand there; [] when there are none to be found.

    Understands a JSON list (of texts, or of objects with a query), also inside prose, a code fence
    or an object, and cut off in the middle: the last, unfinished text is left out then. Failing
    that, numbered or bulleted lines.
    """
    answer = _THINKING.sub("", answer)
    if fenced := _FENCE.search(answer):
        answer = fenced[1]
    if (found := _in_json(answer)) or (found := _in_cut_list(answer)):
        return found
    return [line.strip(" \"'`,") for line in _LISTED.findall(answer)]


def _in_json(answer: str) -> list[str]:
    """From the first list that holds texts, or else from objects one after the other."""
    decoder = json.JSONDecoder(strict=False)  # a line break inside a text is no reason to lose it
    found: list[str] = []
    at = 0
    while start := re.compile(r"[\[{]").search(answer, at):
        at = start.end()
        try:
            value, end = decoder.raw_decode(answer, start.start())
        except ValueError:
            continue
        at = end
        found += _texts(value)
        if found and isinstance(value, list):
            break
    return found


def _texts(value: object) -> Iterator[str]:
    """The texts of a JSON list, or of what an object calls its queries."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, dict):
        for name in _NAMES:
            if name in value:
                yield from _texts(value[name])
                return


def _in_cut_list(answer: str) -> list[str]:
    """The whole texts of a list that has no end."""
    start = re.search(r'\[\s*"', answer)
    if start is None:
        return []
    found: list[str] = []
    at = start.end() - 1
    while text := _JSON_TEXT.match(answer, at):
        try:
            found.append(json.loads(text[0], strict=False))
        except ValueError:
            break
        comma = re.compile(r"\s*,\s*").match(answer, text.end())
        if comma is None:
            break
        at = comma.end()
    return found


class AnswerFile:
    """Answers by the very request that got them: one JSON object a line, on the disk before
    anybody hears of it. Any number of processes may append; a line that a killed process left
    unfinished is passed over."""

    def __init__(self, path: Path) -> None:
        """Raises TrainingError when the file cannot be written."""
        self.path = path
        self._answers: dict[str, Completion] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            with path.open("rb") as file:
                line = b"\n"
                for line in file:
                    self._remember(line)
        except OSError as error:
            raise TrainingError(
                f"{path} cannot be used ({error.strerror}); it keeps what a language model "
                "answered. Check the folder's permissions and the free space"
            ) from error
        self._torn = not line.endswith(b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._handle)

    def get(self, key: str) -> Completion | None:
        return self._answers.get(key)

    def put(self, key: str, answer: Completion) -> None:
        line = json.dumps({"key": key, **asdict(answer)}, ensure_ascii=False).encode() + b"\n"
        os.write(self._handle, b"\n" + line if self._torn else line)
        os.fsync(self._handle)
        self._torn = False
        self._answers[key] = answer

    def _remember(self, line: bytes) -> None:
        try:
            value: dict[str, Any] = json.loads(line)
            key = value.pop("key")
            self._answers[key] = Completion(**value)
        except (ValueError, TypeError, KeyError, AttributeError):
            return


def request_key(
    messages: Sequence[Mapping[str, str]], *, model: str, temperature: float | None, n: int
) -> str:
    """SHA-256 (hex) over all that decides an answer: the instructions and the document in the
    messages, the model, the temperature, and how many queries were asked for."""
    import hashlib

    asked = [list(map(dict, messages)), model, temperature, n]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
