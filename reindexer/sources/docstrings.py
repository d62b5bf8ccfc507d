"""The docstrings of the Python standard library and of the installed packages.

Real text that every machine with Python has. It is read from the source files; nothing is imported.
"""

from __future__ import annotations

import ast
import inspect
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reindexer.sources.rows import Rejected, Row
from search.documents import DEFAULT_SOURCE, Document
from search.errors import InvalidDocument

MIN_DOCSTRING_CHARACTERS = 80
_MAX_FILE_BYTES = 2_000_000
_SKIPPED_FOLDERS = frozenset({"test", "tests", "testing", "site-packages", "dist-packages"})
_Node = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class DocstringSource:
    """One document a docstring of a public module, class, function or method.

    The id and the title are the dotted name (`json.dumps`), the text is the docstring without its
    indentation, the metadata are `package` (the top-level name), `module`, `kind` (module, class,
    function or method) and `stdlib`. Docstrings under 80 characters are left out. The packages take
    turns, one document each, in order of their names; so the first `limit` documents hold as many
    packages as there are, and the same environment gives the same documents in the same order.
    """

    def __init__(
        self,
        *,
        limit: int | None = None,
        max_characters: int | None = None,
        name: str = DEFAULT_SOURCE,
        roots: dict[Path, bool] | None = None,
    ) -> None:
        """limit: at most so many documents; None for all. max_characters: longer docstrings are
        left out. roots: folders to look for packages in, and whether each is the standard library;
        None for those of this interpreter."""
        self._limit = limit
        self._max_characters = max_characters
        self._name = name
        self._roots = _interpreter_roots() if roots is None else roots
        self._n_read = 0

    @property
    def name(self) -> str:
        return self._name

    @property
    def share_read(self) -> float | None:
        return min(1.0, self._n_read / self._limit) if self._limit else None

    def __iter__(self) -> Iterator[Row | Rejected]:
        self._n_read = 0
        seen: set[str] = set()
        turns = [self._rows(package) for package in _packages(self._roots)]
        while turns:
            waiting: list[Iterator[Row]] = []
            for rows in turns:
                row = next((row for row in rows if row.document.doc_id not in seen), None)
                if row is None:
                    continue
                if self._n_read == self._limit:
                    return
                seen.add(row.document.doc_id)
                self._n_read += 1
                yield row
                waiting.append(rows)
            turns = waiting

    def _rows(self, package: _Package) -> Iterator[Row]:
        for path, module in package.modules():
            where = path.relative_to(package.root).as_posix()
            for dotted_name, kind, docstring, line in _docstrings_of(path, module):
                if self._max_characters is not None and len(docstring) > self._max_characters:
                    continue
                try:
                    document = Document.of(
                        doc_id=dotted_name,
                        title=dotted_name,
                        text=docstring,
                        metadata={
                            "package": package.name,
                            "module": module,
                            "kind": kind,
                            "stdlib": package.is_stdlib,
                        },
                        source=self._name,
                    )
                except InvalidDocument:
                    continue
                yield Row(where=f"{where}:{line}", document=document)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Package:
    name: str
    path: Path  # a folder with __init__.py, or one file
    root: Path
    is_stdlib: bool

    def modules(self) -> Iterator[tuple[Path, str]]:
        """Public source files with their dotted names, a package before what is in it."""
        if self.path.is_file():
            yield self.path, self.name
        else:
            yield from _modules(self.path, self.name)


def _modules(folder: Path, dotted_name: str) -> Iterator[tuple[Path, str]]:
    init = folder / "__init__.py"
    if init.is_file():
        yield init, dotted_name
    for path in sorted(folder.iterdir()):
        if path.name.startswith("_") or path.name in _SKIPPED_FOLDERS or path.is_symlink():
            continue
        if path.is_dir():
            if path.name.isidentifier() and (path / "__init__.py").is_file():
                yield from _modules(path, f"{dotted_name}.{path.name}")
        elif path.suffix == ".py" and path.stem.isidentifier():
            yield path, f"{dotted_name}.{path.stem}"


def _interpreter_roots() -> dict[Path, bool]:
    paths = sysconfig.get_paths()
    return {Path(paths[key]): key == "stdlib" for key in ("stdlib", "purelib", "platlib")}


def _packages(roots: dict[Path, bool]) -> list[_Package]:
    found: dict[str, _Package] = {}
    for root, is_stdlib in roots.items():
        for path in root.iterdir() if root.is_dir() else ():
            name = path.stem if path.suffix == ".py" else path.name
            is_package = path.suffix == ".py" or (path / "__init__.py").is_file()
            if is_package and name.isidentifier() and not name.startswith("_"):
                if name in _SKIPPED_FOLDERS or name in found:
                    continue
                found[name] = _Package(name=name, path=path, root=root, is_stdlib=is_stdlib)
    return [found[name] for name in sorted(found)]


_Found = tuple[str, str, str, int]  # dotted name, kind, docstring, line


def _docstrings_of(path: Path, module: str) -> list[_Found]:
    """Those of one file, as a list: a generator would keep its syntax tree alive for a whole turn
    of packages. A file that is not Python of this version has none."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            return []
        source = path.read_bytes()
        if b'"""' not in source and b"'''" not in source:
            return []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the files that are read, not of ours
            return list(_docstrings(ast.parse(source), module, "module"))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _docstrings(node: _Node, dotted_name: str, kind: str) -> Iterator[_Found]:
    docstring = ast.get_docstring(node, clean=False)
    if docstring and len(cleaned := inspect.cleandoc(docstring)) >= MIN_DOCSTRING_CHARACTERS:
        yield dotted_name, kind, cleaned, getattr(node, "lineno", 1)
    inner_function = "method" if kind == "class" else "function"
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if child.name.startswith("_"):
                continue
            is_class = isinstance(child, ast.ClassDef)
            if is_class or kind in ("module", "class"):
                child_kind = "class" if is_class else inner_function
                yield from _docstrings(child, f"{dotted_name}.{child.name}", child_kind)
