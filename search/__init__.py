"""Hybrid search over exactly one generation of the corpus."""
