"""Filters as frameworks write them, in the form of the API: conditions that must all hold.

What means something else there is refused: taken as it is, it would find nothing and say nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from search.adapters.errors import NotPossible

API_FORM = '{"field": value | [any, of] | {"gte": 1}}'
OPERATORS = "==, in, >, >=, < and <="
TITLE = "title"  # among the metadata of a hit, but not in what is filtered on
_RANGES = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
# Keys that together are another form: without the check, equalities on fields of these names.
_OTHER_FORMS = ({"operator", "conditions"}, {"field", "operator"}, {"key", "operator"})


def is_api_form(filter: object) -> bool:
    """Whether this is no condition of a framework."""
    return isinstance(filter, Mapping) and not any(form <= set(filter) for form in _OTHER_FORMS)


def api_filter(filter: object) -> list[dict[str, Any]] | None:
    """A filter that is in the API's form already. Raises NotPossible when it is in another."""
    if filter is None:
        return None
    parts = [filter] if isinstance(filter, Mapping) else filter
    if not isinstance(parts, Sequence) or not all(map(is_api_form, parts)):
        raise NotPossible(f"the filter is {filter!r}; expected {API_FORM}, and all must hold")
    for field in (field for part in parts for field in part):
        check_field(field)
    return [dict(part) for part in parts]


def comparison(field: str, operator: str, value: object) -> dict[str, Any]:
    """One condition. Raises NotPossible where the API has nothing that means the same."""
    check_field(field)
    if operator == "==" and isinstance(value, str | int | float):
        return {field: value}
    if operator == "in" and isinstance(value, list | tuple | set) and value:
        return {field: list(value)}
    if operator in _RANGES and isinstance(value, int | float) and not isinstance(value, bool):
        return {field: {_RANGES[operator]: value}}
    raise NotPossible(
        f"the filter {field} {operator} {value!r} is not possible; there are {OPERATORS}: the "
        "first with text, a number or a boolean, `in` with a list of these, others with a number"
    )


def only_and(condition: str) -> None:
    """Raises NotPossible for OR, NOT and whatever else joins conditions."""
    if condition.upper() != "AND":
        raise NotPossible(
            f"filters joined by {condition} are not possible, all conditions must hold (AND); for "
            "one of several values of a field there is `in`"
        )


def check_field(field: object) -> None:
    """Raises NotPossible when no document has metadata of that name."""
    if not isinstance(field, str) or field.startswith("$"):
        raise NotPossible(f"{field!r} is no field of the metadata; expected {API_FORM}")
    if field == TITLE:
        raise NotPossible("filters are on metadata, and the title is none; ask for its words")
