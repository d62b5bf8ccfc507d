"""Versioned embedding models: registry, encoder, metrics, evaluation."""
