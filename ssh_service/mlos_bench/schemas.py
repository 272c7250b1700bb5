"""Make mlos_bench's schema of services, which is a closed list of its own, know ours as well."""

from __future__ import annotations

import json
import os
from typing import Any, Callable, Dict, Iterator, List, Mapping

from mlos_bench.config.schemas.config_schemas import ConfigSchema

__all__ = ["SUBSCHEMA", "extend", "subschema"]

SUBSCHEMA = os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "schemas", "ssh-services-subschema.json"
)
_NEIGHBOUR = "ssh-host-service-subschema.json"


def subschema() -> Dict[str, Any]:
    """
    Read the schema of configs that name our services.

    Returns
    -------
    Dict[str, Any]
        The schema; it refers to nothing outside itself.
    """
    with open(SUBSCHEMA, encoding="utf-8") as file:
        schema: Dict[str, Any] = json.load(file)
    return schema


def extend() -> Callable[[], None]:
    """
    Add our services to those that mlos_bench's schema allows.

    Returns
    -------
    Callable[[], None]
        What undoes it.

    Raises
    ------
    ImportError
        If mlos_bench's schema is not the list of services that it was.
    """
    lists = list(_lists_with(_NEIGHBOUR, ConfigSchema.SERVICE.schema))
    if len(lists) != 1:
        raise ImportError(
            f"mlos_bench's schema of services names {_NEIGHBOUR} in {len(lists)} places, not in "
            "one: this version of mlos_bench is too new, or too old."
        )
    (alternatives,) = lists
    schema = subschema()
    ours = [_without_references(service, schema["$defs"]) for service in schema["oneOf"]]
    alternatives.extend(ours)

    def undo() -> None:
        alternatives[:] = [service for service in alternatives if service not in ours]

    return undo


def _without_references(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Copy a schema with what it refers to in place: it will be a part of another document."""
    if isinstance(schema, list):
        return [_without_references(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {k: _without_references(v, definitions) for k, v in schema.items() if k != "$ref"}
    if "$ref" in schema:
        target = definitions[schema["$ref"][len("#/$defs/") :]]
        copy["allOf"] = [_without_references(target, definitions)]
    return copy


def _lists_with(file: str, schema: Any) -> Iterator[List[Any]]:
    """Yield the lists in a schema that have a reference to a file among their items."""
    if isinstance(schema, dict):
        for value in schema.values():
            yield from _lists_with(file, value)
    elif isinstance(schema, list):
        references = [item.get("$ref", "") for item in schema if isinstance(item, dict)]
        if any(str(reference).endswith(f"/{file}") for reference in references):
            yield schema
        for item in schema:
            yield from _lists_with(file, item)
