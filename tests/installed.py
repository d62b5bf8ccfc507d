"""A healthy installation to plant faults in, and what the doctor says of it."""

from __future__ import annotations

from typing import Any

from reindexer.doctor import diagnose, repair
from reindexer.findings import Finding
from reindexer.opening import sync_lexical
from tests.word_directory import WordDirectory


class Installed:
    """A healthy installation: docs@2 live, docs@1 standby, a lexical index on disk."""

    def __init__(self, directory: WordDirectory) -> None:
        self.directory = directory
        self.settings = directory.settings
        directory.put_many(f"d{number}" for number in range(30))
        for model in ("word@1", "word@2"):
            directory.go_live(directory.build(model))
        analyzer = directory.catalog.get("docs@2").recipe.analyzer
        self.lexical_path = directory.lexical_path(analyzer)
        index = directory.open_lexical(analyzer, writable=True)
        sync_lexical(directory.corpus, index)
        index.save()
        index.close()

    def look(self, **options: Any) -> dict[str, Finding]:
        return {finding.name: finding for finding in diagnose(self.settings, **options)}

    def problems(self) -> dict[str, Finding]:
        """The models need no registry here, so that it misses them is no finding."""
        found = {name: finding for name, finding in self.look().items() if finding.state != "ok"}
        assert all("`" in finding.advice for finding in found.values()), "no command to run next"
        return {name: item for name, item in found.items() if not name.startswith("model ")}

    def repair(self) -> dict[str, str]:
        return dict(repair(self.settings, list(self.look().values())))
