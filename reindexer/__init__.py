"""Moves search from one generation to the next and keeps every generation in step."""
