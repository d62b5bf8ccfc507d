"""What a framework may ask of an adapter in vain; the client's errors come through as they are."""

from __future__ import annotations


class NotPossible(Exception):
    """What a framework may ask for and this service does not do."""
