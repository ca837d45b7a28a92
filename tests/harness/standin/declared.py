"""Values against what the charm declares: options as ``juju config``, parameters as ``juju run``.

The messages are Juju's, where a test may want to show that it is Juju that refuses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from harness.standin.errors import ActionRefusedError, ModelError, NotModelledError

_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_CONFIG_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "secret": (str,),
    "int": (int,),
    "float": (float, int),
    "boolean": (bool,),
}
_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}
_SCHEMA_KEYS = {
    "additionalProperties",
    "default",
    "description",
    "enum",
    "items",
    "maxLength",
    "maximum",
    "minLength",
    "minimum",
    "pattern",
    "properties",
    "required",
    "title",
    "type",
}


def parse_option(config_yaml: Mapping[str, Any], name: str, value: Any) -> Any:
    """One option's value in its declared type.

    Args:
        config_yaml: the charm's config.yaml.
        name: the option.
        value: a string as typed after ``juju config``, or a value of the declared type.

    Returns:
        The value, or None where Juju takes an empty string as "back to the default" (every type
        but string).

    Raises:
        ModelError: unknown option, or a value of another type.
    """
    options = config_yaml.get("options") or {}
    if name not in options:
        raise ModelError(f'unknown option "{name}"')
    declared = options[name].get("type", "string")
    if isinstance(value, str) and declared not in ("string", "secret"):
        parsed = _parse_text(declared, value) if value else None
        if value and parsed is None:
            raise ModelError(f'option "{name}" expected {declared}, got "{value}"')
        return parsed
    is_bool = isinstance(value, bool)
    if not isinstance(value, _CONFIG_TYPES[declared]) or is_bool != (declared == "boolean"):
        raise ModelError(f'option "{name}" expected {declared}, got {json.dumps(value)}')
    return value


def _parse_text(declared: str, text: str) -> Any:
    if declared == "boolean":
        return True if text in _TRUE else False if text in _FALSE else None
    try:
        return int(text) if declared == "int" else float(text)
    except ValueError:
        return None


def effective_config(config_yaml: Mapping[str, Any], set_by_user: Mapping[str, Any]) -> dict:
    """Every option with a value: what config-get prints; options without one are left out."""
    defaults = {
        name: option["default"]
        for name, option in (config_yaml.get("options") or {}).items()
        if option.get("default") is not None
    }
    return {**defaults, **set_by_user}


def parse_parameters(texts: Mapping[str, str]) -> dict[str, Any]:
    """Parameters as typed after ``juju run``: dotted keys nest, values are YAML scalars or JSON."""
    result: dict[str, Any] = {}
    for key, text in texts.items():
        *path, last = key.split(".")
        place = result
        for part in path:
            place = place.setdefault(part, {})
        place[last] = _parse_scalar(text)
    return result


def _parse_scalar(text: str) -> Any:
    # YAML 1.1, as Juju's Go library resolves it; everything else that is not JSON is a string.
    if text.lower() in ("yes", "on", "true", "no", "off", "false"):
        return text.lower() in ("yes", "on", "true")
    try:
        return json.loads(text)
    except ValueError:
        return text


def action_parameters(
    actions_yaml: Mapping[str, Any], name: str, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Parameters of an action with its defaults filled in.

    Raises:
        ActionRefusedError: the action is not declared or the parameters fail its schema.
        NotModelledError: the schema uses a keyword beyond the subset known here.
    """
    if name not in actions_yaml:
        raise ActionRefusedError(f"action {name!r} not defined by the charm")
    spec = actions_yaml[name] or {}
    schema = {
        "type": "object",
        "properties": spec.get("params") or {},
        "required": spec.get("required") or [],
        "additionalProperties": spec.get("additionalProperties", True),
    }
    return _validate(schema, dict(given), "(root)")


def _validate(schema: Mapping[str, Any], value: Any, where: str) -> Any:
    unknown = set(schema) - _SCHEMA_KEYS
    if unknown:
        raise NotModelledError(f"schema keyword {sorted(unknown)} of {where}")
    declared = schema.get("type")
    if declared is not None:
        is_bool = isinstance(value, bool)
        if not isinstance(value, _JSON_TYPES[declared]) or is_bool != (declared == "boolean"):
            raise ActionRefusedError(
                f"validation failed: {where} : must be of type {declared}, given {value!r}"
            )
    for problem in _violations(schema, value):
        raise ActionRefusedError(f"validation failed: {where} : {problem}, given {value!r}")
    if isinstance(value, dict):
        return _validate_object(schema, value, where)
    if isinstance(value, list) and "items" in schema:
        items = schema["items"]
        return [_validate(items, item, f"{where}.{n}") for n, item in enumerate(value)]
    return value


def _violations(schema: Mapping[str, Any], value: Any):
    if "enum" in schema and value not in schema["enum"]:
        yield f"must match one of {schema['enum']}"
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"does not match pattern '{schema['pattern']}'"
        if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", len(value)):
            yield "has a wrong length"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield "is out of range"


def _validate_object(schema: Mapping[str, Any], value: dict, where: str) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    result = {key: item["default"] for key, item in properties.items() if "default" in item}
    result.update(value)
    for key in schema.get("required") or []:
        if key not in result:
            raise ActionRefusedError(f'validation failed: {where} : "{key}" property is missing')
    for key in result:
        if key in properties:
            result[key] = _validate(properties[key], result[key], f"{where}.{key}")
        elif schema.get("additionalProperties", True) is False:
            raise ActionRefusedError(
                f'validation failed: {where} : additional property "{key}" is not allowed'
            )
    return result
