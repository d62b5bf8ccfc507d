"""Whatever the doctor can find wrong, it names the command to run next, and there is such a one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from reindexer import doctor, doctor_clock, doctor_collections, doctor_files
from reindexer.cli import cli

MODULES = (doctor, doctor_clock, doctor_collections, doctor_files)


def calls() -> Iterator[tuple[str, ast.Module, dict[str, ast.expr]]]:
    """Where each finding is made, the module, and its arguments by name."""
    for module in MODULES:
        assert module.__file__ is not None
        tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
                given = {item.arg: item.value for item in node.keywords if item.arg is not None}
                yield f"{module.__name__}:{node.lineno}", tree, given


WRONG = {
    where: (tree, given)
    for where, tree, given in calls()
    if not (isinstance(given["state"], ast.Constant) and given["state"].value == "ok")
}


def texts(tree: ast.Module, node: ast.expr) -> Iterator[str]:
    """What an expression may come to, with `{}` for what is only known when it runs."""
    match node:
        case ast.Constant(value=str(text)):
            yield text
        case ast.JoinedStr(values=parts):
            yield "".join(next(texts(tree, part), "{}") for part in parts)
        case ast.FormattedValue(value=value):
            yield from texts(tree, value)
        case ast.IfExp(body=body, orelse=orelse):
            yield from texts(tree, body)
            yield from texts(tree, orelse)
        case ast.Call(func=ast.Name(id=name)):
            for made in ast.walk(tree):
                if isinstance(made, ast.FunctionDef) and made.name == name:
                    for returned in ast.walk(made):
                        if isinstance(returned, ast.Return) and returned.value is not None:
                            yield from texts(tree, returned.value)
        case ast.Name(id=name):
            for assigned in tree.body:
                if isinstance(assigned, ast.Assign) and ast.unparse(assigned.targets[0]) == name:
                    yield from texts(tree, assigned.value)


def test_all_of_them_are_looked_at() -> None:
    assert len(WRONG) > 20


@pytest.mark.parametrize("where", WRONG)
def test_what_is_wrong_comes_with_a_command(where: str) -> None:
    tree, given = WRONG[where]
    assert "advice" in given, "it says nothing about what to run next"
    found = list(texts(tree, given["advice"]))
    may_be_well = isinstance(given["state"], ast.IfExp) and "ok" in ast.unparse(given["state"])

    assert found
    for text in found:
        assert re.search(r"`[a-z]+ \S|`[a-z]+`", text) or (may_be_well and not text), text
        for verb in re.findall(r"`reindexer (?:--\S+ \S+ )?([a-z]+)", text):
            assert cli.get_command(click.Context(cli), verb) is not None, f"no such verb: {verb}"
