"""docs/api.md and docs/clients.md against ``GET /openapi.json``: each has what the other has."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from predictor.edge.openapi_parts import ERRORS
from predictor.requests.validation import Parameters
from predictor.wire_formats.openai_fields import REFUSED
from tests.contract.test_documents import API, CLIENTS
from tests.serving import Server


@pytest.fixture(scope="module")
def document(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = httpx.get(server.url + "/openapi.json").raise_for_status().json()
    return found


def section(document: str, heading: str) -> str:
    return document.partition(f"\n{heading}\n")[2].partition("\n## ")[0].partition("\n### ")[0]


def names(text: str) -> set[str]:
    """The names in the first column of a table."""
    cells = re.findall(r"^\| (`.*?) +\|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`(\w+)`", cell)}


def properties(document: dict[str, Any], name: str) -> set[str]:
    return {*document["components"]["schemas"][name]["properties"]}


def test_the_table_of_routes_matches(document: dict[str, Any]) -> None:
    text = section(API, "## Routes")
    of_any = re.search(r"Any route can also respond with ([\d, and]+)\.", text)
    assert of_any
    shared = {*re.findall(r"\d+", of_any[1])}
    rows = re.findall(r"^\| `(\w+ /[^`]*)` +\| .*? \| ([\d, ]+) \|$", text, re.MULTILINE)
    documented = {
        route.replace("{name}", "{model_name}"): {*statuses.split(", ")} | shared
        for route, statuses in rows
    }

    served = {
        f"{method.upper()} {path}": {*operation["responses"]}
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    assert documented == served


def test_the_table_of_statuses_matches() -> None:
    text = section(API, "## Errors")

    assert {int(one) for one in re.findall(r"^\| (\d{3}) \|", text, re.MULTILINE)} == {*ERRORS}


def test_the_table_of_parameters_matches(document: dict[str, Any]) -> None:
    text = section(API, "### Parameters")
    aliases = re.findall(r"Alias: `(\w+)`", text)

    assert names(text) | {*aliases} == properties(document, "Instance") - {"parameters"}


def test_the_table_of_openais_fields_matches(document: dict[str, Any]) -> None:
    documented = names(section(CLIENTS, "### Fields"))
    # The document has only fields that a request may have.
    of_openai = properties(document, "ImageFields") - properties(document, "Parameters")

    assert of_openai <= documented
    assert documented <= properties(document, "ImageFields") | {*REFUSED}
    assert {*Parameters.model_fields} <= properties(document, "ImageFields")


def test_the_fields_of_edits_match(document: dict[str, Any]) -> None:
    content = document["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]
    form = content["multipart/form-data"]["schema"]["properties"].keys()

    assert form - properties(document, "ImageFields") == {"mask"}
    assert "mask_image" not in form
    assert "`mask`" in section(CLIENTS, "### Fields")


def test_the_fields_of_links_match(document: dict[str, Any]) -> None:
    def query(path: str) -> set[str]:
        parameters = document["paths"][path]["get"]["parameters"]
        return {one["name"] for one in parameters if one["in"] == "query"}

    flat = properties(document, "Instance") - {"parameters"}
    text = section(CLIENTS, "## A link")
    assert query("/v1/models/{model_name}/picture") == flat
    assert query("/imagine") == flat | {"img_size", "model"}
    assert {"`img_size`", "`model`"} <= {*re.findall("`[a-z_]+`", text)}
