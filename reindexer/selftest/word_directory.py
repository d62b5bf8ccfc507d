"""A whole data directory with models that need no torch: `word@3` is the word encoder of seed 3,
`word24@3` one of 24 dimensions. Everything else is real.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from reindexer.data_directory import DataDirectory
from reindexer.recipes import filter_fields, lexical_recipe
from reindexer.selftest.word_encoder import WordEncoder
from search.generations import Generation
from search.recipe import AnalyzerRecipe, Recipe, SplitterRecipe

OVERLAP_TOKENS = 4
FIELD_SAMPLE = 500  # documents whose metadata decides which payload indexes there are

_MODEL = re.compile(r"\D*(\d*)@(\d+)")


class WordDirectory(DataDirectory):
    """What `reindexer selftest` works on."""

    def __init__(
        self, settings: Any, *, on_encoded: Callable[[int], None] = lambda _n: None
    ) -> None:
        """on_encoded: told of every call that encodes, by any of the models."""
        super().__init__(settings)
        self._on_encoded = on_encoded
        self.models: dict[str, Any] = {}  # encoders that a name stands for, instead of the usual

    def encoder(self, generation: Generation) -> Any:
        return self.load_encoder(generation.recipe.model)

    def load_encoder(self, model: str) -> Any:
        if model in self.models:
            return self.models[model]
        found = _MODEL.fullmatch(model)
        assert found is not None, f"{model} is not the name of a word encoder"
        return WordEncoder(int(found[2]), dim=int(found[1] or 16), on_encoded=self._on_encoded)

    def word_recipe(self, model: str) -> Recipe:
        encoder = self.load_encoder(model)
        analyzer = AnalyzerRecipe(language=self.settings.language)
        return Recipe(
            model=model,
            fingerprint=encoder.fingerprint,
            dim=encoder.dim,
            splitter=SplitterRecipe(max_tokens=encoder.max_tokens, overlap_tokens=OVERLAP_TOKENS),
            analyzer=analyzer,
            lexical=lexical_recipe(self, analyzer),
            hnsw_m=self.settings.hnsw_m,
            hnsw_ef_construct=self.settings.hnsw_ef_construct,
            filter_fields=filter_fields(self.corpus.changes(0, FIELD_SAMPLE)),
        )

    def record(self, model: str) -> Generation:
        return self.catalog.record(self.word_recipe(model))
