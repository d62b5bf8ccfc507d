"""Which model, which recipe, which generation: what an upgrade is going to build."""

from __future__ import annotations

from dataclasses import fields

from reindexer.data_directory import DataDirectory
from search.dense import FieldType, field_types
from search.documents import Change
from search.generations import UNFINISHED, Generation
from search.recipe import AnalyzerRecipe, LexicalRecipe, Recipe
from search.splitter import default_splitter_recipe
from training.errors import ModelNotFound
from training.registry import ModelVersion

FIELD_SAMPLE = 2_000
LENGTH_SAMPLE = 20_000  # documents whose mean length counts: it comes out right to within 1 %
LENGTH_PLACES = 16  # in the log; they come from so many stretches
MAX_FILTER_FIELDS = 32


def find_model(data: DataDirectory, model: str) -> ModelVersion:
    """A registered version; a reference that is not registered yet is registered."""
    try:
        return data.registry.resolve(model)
    except ModelNotFound:
        if "@" in model:
            raise
    return data.registry.register(model)


def recipe_for(data: DataDirectory, version: ModelVersion) -> Recipe:
    """The recipe that the settings and the corpus give for this model version."""
    settings = data.settings
    analyzer = AnalyzerRecipe(language=settings.language)
    return Recipe(
        model=str(version),
        fingerprint=version.fingerprint_in(settings.dtype),
        dim=version.dim,
        splitter=default_splitter_recipe(version.max_tokens),
        analyzer=analyzer,
        lexical=lexical_recipe(data, analyzer),
        hnsw_m=settings.hnsw_m,
        hnsw_ef_construct=settings.hnsw_ef_construct,
        quantization=settings.quantization,
        filter_fields=filter_fields(data.corpus.changes(0, FIELD_SAMPLE)),
    )


def lexical_recipe(data: DataDirectory, analyzer: AnalyzerRecipe) -> LexicalRecipe:
    """As the settings have it; for the server with the mean length of a sample of the documents."""
    if data.settings.lexical_kind == "bm25s":
        return LexicalRecipe()
    from search.term_weights import fitted_lexical

    head = data.corpus.head()
    places = {head * place // LENGTH_PLACES for place in range(LENGTH_PLACES)}
    changes = [
        change
        for place in sorted(places)
        for change in data.corpus.changes(place, LENGTH_SAMPLE // LENGTH_PLACES)
    ]
    documents = {change.doc_id: change.document for change in changes if change.document}
    return fitted_lexical(analyzer, documents.values())


def filter_fields(changes: list[Change]) -> dict[str, FieldType]:
    """Metadata fields that get a payload index: those with values of one kind."""
    kinds: dict[str, set[FieldType]] = {}
    for change in changes:
        for name, value in (change.document.metadata if change.document else {}).items():
            kinds.setdefault(name, set()).update(field_types(value))
    uniform = {name: next(iter(found)) for name, found in sorted(kinds.items()) if len(found) == 1}
    return dict(list(uniform.items())[:MAX_FILTER_FIELDS])


def same_recipe(one: Recipe, other: Recipe) -> bool:
    """Would give the same vectors and postings; which payload fields are indexed does not count,
    nor how the legs are fused."""
    ignored = {"filter_fields", "fusion", "model"}
    return all(
        getattr(one, item.name) == getattr(other, item.name)
        for item in fields(Recipe)
        if item.name not in ignored
    )


def generation_for(data: DataDirectory, recipe: Recipe) -> Generation:
    """An unfinished or ready generation of this recipe, or a new one."""
    for generation in reversed(data.catalog.all(UNFINISHED | {"ready"})):
        if same_recipe(generation.recipe, recipe):
            return generation
    return data.catalog.record(recipe)
