"""The model without weights that the selftest has, for the tests."""

from reindexer.selftest.word_encoder import WordEncoder

__all__ = ["WordEncoder"]
