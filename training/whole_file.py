"""A small file that is there whole or not at all, whatever ends the process or fills the disk."""

from __future__ import annotations

from pathlib import Path


def write_whole(path: Path, content: str | bytes) -> None:
    """Replaces what is there. Raises OSError, and then what was there still is."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    fresh.replace(path)
