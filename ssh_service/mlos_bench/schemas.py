"""Add our services to mlos_bench's schema of services, which is a closed list."""

from __future__ import annotations

import json
import os
from typing import Any, Callable, Dict, Iterator, List, Mapping

from jsonschema.exceptions import ValidationError
from mlos_bench.config.schemas.config_schemas import ConfigSchema

from ssh_service.mlos_bench.methods import Method, wrap
from ssh_service.services import settings

__all__ = ["SUBSCHEMA", "WrongServiceSettings", "explain", "extend", "subschema"]

SUBSCHEMA = os.path.join(
    os.path.dirname(os.path.abspath(__file__)), "schemas", "ssh-services-subschema.json"
)
_HOST_SERVICE_SUBSCHEMA = "ssh-host-service-subschema.json"
_SETTINGS = {
    "SshHostService": {**settings.COMMON, **settings.HOST},
    "SshFileShareService": {**settings.COMMON, **settings.FILE_SHARE},
}
_PACKAGES = ("ssh_service.", "mlos_bench.services.remote.ssh.")


class WrongServiceSettings(ValidationError):  # type: ignore[misc]
    """The schema rejects settings of our services; the message names each of them."""


def subschema() -> Dict[str, Any]:
    """Return the schema of configs that name our services, without external references."""
    with open(SUBSCHEMA, encoding="utf-8") as file:
        schema: Dict[str, Any] = json.load(file)
    return schema


def extend() -> Callable[[], None]:
    """
    Add our services to mlos_bench's schema; return the undo function.

    Raises
    ------
    ImportError
        If mlos_bench's schema has an unknown structure.
    """
    lists = list(_lists_with(_HOST_SERVICE_SUBSCHEMA, ConfigSchema.SERVICE.schema))
    if len(lists) != 1:
        raise ImportError(
            f"mlos_bench's schema of services names {_HOST_SERVICE_SUBSCHEMA} in {len(lists)} "
            "places instead of one: this version of mlos_bench is too new or too old."
        )
    (alternatives,) = lists
    schema = subschema()
    ours = [_without_references(service, schema["$defs"]) for service in schema["oneOf"]]
    alternatives.extend(ours)

    def undo() -> None:
        alternatives[:] = [service for service in alternatives if service not in ours]

    return undo


def explain() -> Callable[[], None]:
    """Make errors of configs name the wrong settings, not the schema; return the undo function."""
    return wrap(ConfigSchema, {"validate": _validate})


def _validate(original: Method) -> Method:
    def validate(self: Any, config: Any) -> None:
        try:
            original(self, config)
            return
        except ValidationError:
            found = [
                text
                for service in _services(config)
                for text in _wrong_settings(service, lambda config: original(self, config))
            ]
            if not found:
                raise
        raise WrongServiceSettings("; ".join(found))

    return validate


def _services(config: Any) -> Iterator[Dict[str, Any]]:
    """Yield the configs of our services that a config contains."""
    if isinstance(config, dict):
        name = config.get("class")
        is_ours = isinstance(name, str) and name.startswith(_PACKAGES) and _settings_of(name)
        if is_ours and isinstance(config.get("config"), dict):
            yield config
        for value in config.values():
            yield from _services(value)
    elif isinstance(config, list):
        for item in config:
            yield from _services(item)


def _settings_of(class_name: str) -> Mapping[str, settings.Setting]:
    return _SETTINGS.get(class_name.rpartition(".")[2], {})


def _wrong_settings(service: Mapping[str, Any], validate: Callable[[Any], None]) -> Iterator[str]:
    """Yield a message for each setting that the schema rejects."""
    class_name = service["class"]
    known = _settings_of(class_name)
    for name, value in service["config"].items():
        try:
            validate({"class": class_name, "config": {name: value}})
        except ValidationError as error:
            texts = settings.problems({name: value}, known)
            if not texts and class_name.startswith(_PACKAGES[1]):
                ours = _PACKAGES[0] + class_name.rpartition(".")[2]
                texts = [f"{name}: this value needs our class name, {ours}"]
            for text in texts or [f"{name}: {error.message}"]:
                yield f"{class_name}: {text}"


def _without_references(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """Copy a schema with its references resolved, so that it can be part of another document."""
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
    """Yield the lists in a schema that contain a reference to a file."""
    if isinstance(schema, dict):
        for value in schema.values():
            yield from _lists_with(file, value)
    elif isinstance(schema, list):
        references = [item.get("$ref", "") for item in schema if isinstance(item, dict)]
        if any(str(reference).endswith(f"/{file}") for reference in references):
            yield schema
        for item in schema:
            yield from _lists_with(file, item)
