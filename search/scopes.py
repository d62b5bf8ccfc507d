"""What an API key may do. None includes another."""

from typing import Literal, get_args

Scope = Literal["search", "write", "operate"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
