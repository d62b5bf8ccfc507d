"""Retrievers and stores for frameworks, each over the HTTP API and each behind its own extra."""
