"""``GET /openapi.json``: all routes, with the bounds and defaults of this server.

FastAPI lists the routes. The wire formats describe their own operations, ``route_descriptions.py``
those that make no pictures. Any other route keeps FastAPI's description.
https://spec.openapis.org/oas/v3.1.1.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson
from fastapi import FastAPI

from predictor.edge.access_control import AccessRules, is_admin_only, is_open
from predictor.edge.openapi_parts import (
    OF_CONNECTIONS,
    SECURITY_SCHEMES,
    ErrorComponents,
    header_components,
    headers,
)
from predictor.edge.route_descriptions import DESCRIPTIONS, RouteDescription
from predictor.protocol.accept import JSON
from predictor.protocol.json_schema import FieldSchemas, Schema, in_form
from predictor.requests import ModelProfile
from predictor.wire_formats import WIRE_FORMATS, BodySchema, WireFormat

_SCHEMAS = "#/components/schemas/"
_REFERENCE = re.compile(rf'"{_SCHEMAS}([^"]+)"')
_PARAMETER = re.compile(r"{(\w+)}")
# KServe has these routes, but no model of this server supports them.
_NOT_SERVED = re.compile(r".*:explain|.*/versions/.*")
_ITSELF = "/openapi.json"
_OF_ANY_ROUTE = (*OF_CONNECTIONS, 503)
_OF_BODIES = (400, 413, 415)
_OF_CALLS = (400, 404, 429, 500, 504)
_INFO = {
    "title": "Stable Diffusion on KServe",
    "version": "0.1.0",
    "description": "The bounds are those of this server's settings. If it has only one model, and "
    "the model is loaded, the document also has the model's defaults, schedulers and add-ons; "
    "`GET /v2/models/{model_name}` has those of any model. A request can set its `x-request-id`. "
    "HEAD works wherever GET does.",
}


class OpenApiDocument:
    """The document of one server, built again when its models or the loaded one change.

    ``profile_of_only_model`` returns None if there are several models, or none is loaded.
    """

    def __init__(
        self,
        app: FastAPI,
        rules: AccessRules,
        profile_of_only_model: Callable[[], ModelProfile | None],
        names: Callable[[], Sequence[str]],
    ) -> None:
        self._app = app
        self._rules = rules
        self._profile_of_only_model = profile_of_only_model
        self._names = names
        self._built_for: tuple[ModelProfile | None, list[str]] | None = None
        self._document: dict[str, Any] = {}

    def __call__(self) -> dict[str, Any]:
        """The document, as FastAPI expects it of ``FastAPI.openapi``."""
        needed = self._profile_of_only_model(), [*self._names()]
        if self._built_for != needed:
            self._document = _Builder(self._rules, *needed).built(self._app)
            self._built_for = needed
        return self._document


class _Builder:
    """Builds one document."""

    def __init__(
        self, rules: AccessRules, profile: ModelProfile | None, names: Sequence[str]
    ) -> None:
        self._rules = rules
        self._fields = FieldSchemas(rules.settings, profile)
        self._names = names
        self._errors = ErrorComponents()
        self._schemas: dict[str, Schema] = {}

    def built(self, app: FastAPI) -> dict[str, Any]:
        """The document of the routes of ``app``, which must all be registered."""
        base = FastAPI.openapi(app)
        found = {path: ops for path, ops in base["paths"].items() if not _NOT_SERVED.match(path)}
        found[_ITSELF] = {"get": {}}
        calls = {path: one for one in WIRE_FORMATS.values() for path in one.paths}
        paths = {
            path: {
                method: self._operation(method, path, calls.get(path), operation)
                for method, operation in operations.items()
            }
            for path, operations in found.items()
        }
        schemas = base.get("components", {}).get("schemas", {}) | self._schemas
        components: dict[str, Any] = {
            "schemas": _used(paths, schemas) | self._errors.schemas,
            "responses": self._errors.responses,
            "headers": header_components(),
        }
        if self._rules.keys:
            components["securitySchemes"] = SECURITY_SCHEMES
        return {"openapi": base["openapi"], "info": _INFO, "paths": paths, "components": components}

    def _operation(
        self, method: str, path: str, call: WireFormat | None, found: Mapping[str, Any]
    ) -> dict[str, Any]:
        description = DESCRIPTIONS.get((method, path))
        errors = {*_OF_ANY_ROUTE, *self._of_access(method, path)}
        if call is not None:
            parts = self._call(call)
            errors |= {*_OF_CALLS, *call.error_statuses}
        elif description is not None:
            parts = _plain(description)
            errors |= {*description.errors}
        else:
            parts = _of_fastapi(found)
        if "requestBody" in parts:
            errors |= {*_OF_BODIES}
        responses = {str(one): self._errors.reference(path, one) for one in sorted(errors)}
        return parts | {
            "operationId": re.sub(r"\W+", "_", f"{method}{path}").strip("_"),
            "parameters": [*self._path_parameters(path), *parts.get("parameters", ())],
            "responses": parts["responses"] | responses,
            **self._security(method, path),
        }

    def _call(self, call: WireFormat) -> dict[str, Any]:
        parts: dict[str, Any] = {
            "summary": call.summary,
            "description": call.description,
            "responses": {
                str(answer.status): {
                    "description": answer.description,
                    "headers": headers(*answer.headers),
                    "content": {name: {"schema": one} for name, one in answer.content.items()},
                }
                for answer in call.answers()
            },
            "parameters": [
                _parameter("header", name, {"type": "string"}, description=text)
                for name, text in call.request_headers.items()
            ],
        }
        if found := call.body_schema(_SCHEMAS):
            self._schemas |= {
                name: self._fields.bounded(schema, name)
                for name, schema in found.definitions.items()
            }
            if call.method == "GET":
                parts["parameters"] += self._query(found, call)
            else:
                parts["requestBody"] = self._body(found, call)
        return parts

    def _body(self, found: BodySchema, call: WireFormat) -> dict[str, Any]:
        schema = self._fields.bounded(found.schema)
        if found.media_type.startswith("multipart/"):
            schema = schema | {
                "properties": {n: in_form(one) for n, one in schema["properties"].items()}
            }
        examples = {name: {"value": value} for name, value in call.examples().items()}
        content = {"schema": schema} | ({"examples": examples} if examples else {})
        return {"required": True, "content": {found.media_type: content}}

    def _query(self, found: BodySchema, call: WireFormat) -> list[dict[str, Any]]:
        schema = self._fields.bounded(found.schema)
        example = next(iter(call.examples().values()), {})
        return [
            _parameter(
                "query",
                name,
                in_form(one),
                required=name in schema["required"],
                **({"example": example[name]} if name in example else {}),
            )
            for name, one in schema["properties"].items()
        ]

    def _path_parameters(self, path: str) -> list[dict[str, Any]]:
        # KServe takes a colon as the start of a verb.
        schema = {"type": "string", "pattern": "^[^/:]+$"}
        example = {"example": self._names[0]} if self._names else {}
        return [
            _parameter("path", name, schema, required=True, **(example if "model" in name else {}))
            for name in _PARAMETER.findall(path)
        ]

    def _of_access(self, method: str, path: str) -> tuple[int, ...]:
        if self._rules.are_off or is_open(method.upper(), path):
            return ()
        of_keys = (401, *((403,) if is_admin_only(path) else ())) if self._rules.keys else ()
        return (*of_keys, 429)

    def _security(self, method: str, path: str) -> dict[str, Any]:
        if self._rules.keys is None:
            return {}
        names: Iterable[str] = () if is_open(method.upper(), path) else SECURITY_SCHEMES
        return {"security": [{name: []} for name in names]}


def _plain(description: RouteDescription) -> dict[str, Any]:
    tag = ("etag",) if description.has_tag else ()
    content = description.contents()
    success = {"description": "Success.", "headers": headers(*tag), "content": content}
    parts: dict[str, Any] = {"summary": description.summary, "responses": {"200": success}}
    if description.has_tag:
        text = "The client has this version."
        parts["responses"]["304"] = {"description": text, "headers": headers(*tag)}
        parts["parameters"] = [_parameter("header", "if-none-match", {"type": "string"})]
    if description.body is not None:
        parts["requestBody"] = {"content": description.body_content()}
    return parts


def _of_fastapi(found: Mapping[str, Any]) -> dict[str, Any]:
    """FastAPI's own description, without its path parameters and its form of an invalid request."""
    responses = {code: one for code, one in found["responses"].items() if code != "422"}
    parameters = [one for one in found.get("parameters", ()) if one["in"] != "path"]
    parts = {name: value for name, value in found.items() if name != "tags"}
    return parts | {"responses": responses, "parameters": parameters}


def _parameter(place: str, name: str, schema: Schema, **others: Any) -> dict[str, Any]:
    """A parameter; a list or an object is JSON text."""
    is_scalar = schema.get("type", "object") not in ("array", "object")
    value = {"schema": schema} if is_scalar else {"content": {JSON: {"schema": schema}}}
    return {"name": name, "in": place} | others | value


def _used(paths: Mapping[str, Any], schemas: Mapping[str, Schema]) -> dict[str, Schema]:
    """The schemas that the paths refer to, also through others."""
    used: dict[str, Schema] = {}
    new = _references(paths) & schemas.keys()
    while new:
        used |= {name: schemas[name] for name in sorted(new)}
        new = (_references(used) & schemas.keys()) - used.keys()
    return used


def _references(part: Any) -> set[str]:
    return set(_REFERENCE.findall(orjson.dumps(part).decode()))
