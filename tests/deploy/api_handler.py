"""The paths of the Kubernetes API server that the deploy command uses, over an ``ApiServer``.

Discovery, get, list, watch, server-side apply with field managers and dry run, delete, pod logs
with follow, SelfSubjectAccessReview.
"""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import yaml

from tests.deploy.apply_semantics import FieldConflictError, merge

if TYPE_CHECKING:
    from tests.deploy.api_server import ApiServer

Object = dict[str, Any]


class ApiHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Send head and body in one packet, to avoid waiting for the client's delayed acknowledgement.
    disable_nagle_algorithm = True
    api: ApiServer

    def log_message(self, *arguments: Any) -> None:
        pass

    def _handle(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.api.requests.append((self.command, url.path, query))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            if self.headers["Authorization"] != f"Bearer {self.api.token}":
                self._fail(401, "Unauthorized", "Unauthorized")
                return
            if self.api.failures:
                self.api.failures -= 1
                self._fail(503, "the apiserver is shutting down", "ServiceUnavailable")
                return
            self._route(url.path.strip("/").split("/"), query, body)
        except ConnectionError:
            self.close_connection = True

    do_GET = do_PATCH = do_POST = do_DELETE = _handle  # noqa: N815

    def _route(self, parts: list[str], query: dict[str, str], body: bytes) -> None:
        if parts == ["version"]:
            self._answer({"gitVersion": self.api.git_version})
        elif parts == ["apis"]:
            self._answer({"kind": "APIGroupList", "groups": self._groups()})
        else:
            group_version, rest = self._split(parts)
            if group_version not in self.api.kinds:
                self._fail(404, "the server could not find the requested resource")
            elif not rest:
                self._answer(
                    {"kind": "APIResourceList", "resources": self._resources(group_version)}
                )
            elif rest == ["selfsubjectaccessreviews"]:
                self._review(json.loads(body))
            else:
                self._on_object(group_version, rest, query, body)

    def _split(self, parts: list[str]) -> tuple[str, list[str]]:
        length = 2 if parts[0] == "api" else 3
        return "/".join(parts[1:length]), parts[length:]

    def _groups(self) -> list[Object]:
        named = [one for one in self.api.kinds if "/" in one]
        versions = [
            (one.split("/")[0], {"groupVersion": one, "version": one.split("/")[1]})
            for one in named
        ]
        return [
            {"name": name, "versions": [version], "preferredVersion": version}
            for name, version in versions
        ]

    def _resources(self, group_version: str) -> list[Object]:
        return [
            {
                "name": plural,
                "singularName": "",
                "namespaced": namespaced,
                "kind": kind,
                "verbs": ["get"],
            }
            for kind, (plural, namespaced) in self.api.kinds[group_version].items()
        ]

    def _review(self, review: Object) -> None:
        attributes = review["spec"]["resourceAttributes"]
        allowed = (attributes["verb"], attributes["resource"]) not in self.api.denied
        self._answer({**review, "status": {"allowed": allowed}}, 201)

    def _on_object(
        self, group_version: str, rest: list[str], query: dict[str, str], body: bytes
    ) -> None:
        namespace = ""
        if rest[0] == "namespaces" and len(rest) > 2:
            namespace, rest = rest[1], rest[2:]
        plural, name = rest[0], rest[1] if len(rest) > 1 else ""
        kinds = self.api.kinds[group_version]
        kind = next((kind for kind, (its, _) in kinds.items() if its == plural), None)
        verb = {"GET": "get" if name else "list", "PATCH": "patch", "DELETE": "delete"}[
            self.command
        ]
        if kind is None:
            self._fail(404, "the server could not find the requested resource")
        elif (verb, plural) in self.api.denied:
            group = group_version.rpartition("/")[0]
            self._fail(
                403,
                f'{plural} is forbidden: User "jane" cannot {verb} resource "{plural}" in API '
                f'group "{group}" in the namespace "{namespace}"',
            )
        elif rest[2:] == ["log"]:
            self._log(name, query)
        elif "watch" in query:
            self._watch(kind, query)
        else:
            getattr(self, f"_{verb}")(kind, plural, namespace, name, query, body)

    def _get(self, kind: str, plural: str, namespace: str, name: str, *_: Any) -> None:
        item = self.api.objects.get((kind, namespace, name))
        if item:
            self._answer(item)
        else:
            self._fail(404, f'{plural} "{name}" not found', "NotFound")

    def _list(
        self, kind: str, _: str, namespace: str, __: str, query: dict[str, str], *___: Any
    ) -> None:
        found = [v for k, v in self.api.objects.items() if k[:2] == (kind, namespace)]
        for term in filter(None, query.get("labelSelector", "").split(",")):
            label, _, value = term.partition("=")
            found = [one for one in found if one["metadata"].get("labels", {}).get(label) == value]
        self._answer({"kind": f"{kind}List", "apiVersion": "v1", "metadata": {}, "items": found})

    def _patch(
        self, kind: str, plural: str, namespace: str, name: str, query: dict[str, str], body: bytes
    ) -> None:
        assert self.headers["Content-Type"] == "application/apply-patch+yaml"
        assert query["fieldManager"]
        if namespace and ("Namespace", "", namespace) not in self.api.objects:
            return self._fail(404, f'namespaces "{namespace}" not found', "NotFound")
        if kind in self.api.refusals:
            return self._fail(*self.api.refusals[kind])
        applied, key = yaml.safe_load(body), (kind, namespace, name)
        existing = self.api.objects.get(key)
        try:
            merged, owners = merge(
                existing,
                self.api.owners.get(key, {}),
                applied,
                query["fieldManager"],
                query.get("force", "").lower() == "true",
            )
        except FieldConflictError as conflict:
            return self._answer(conflict.status(), 409)
        if (
            kind == "Job"
            and existing
            and existing["spec"]["template"] != merged["spec"]["template"]
        ):
            return self._fail(
                422,
                f'Job.batch "{name}" is invalid: spec.template: Invalid value: '
                "core.PodTemplateSpec{...}: field is immutable",
                "Invalid",
            )
        if namespace:
            merged["metadata"]["namespace"] = namespace
        if merged != existing:
            # The real server bumps the generation in a dry run too.
            merged["metadata"]["generation"] = merged["metadata"].get("generation", 0) + 1
        if query.get("dryRun") != "All":
            self.api.owners[key] = owners
            if merged != existing:
                merged = self.api.put(merged)
                if kind in self.api.controllers:
                    self.api.controllers[kind](self.api, merged)
        return self._answer(merged, 200 if existing else 201)

    def _delete(
        self, kind: str, plural: str, namespace: str, name: str, query: dict[str, str], _: bytes
    ) -> None:
        if (kind, namespace, name) not in self.api.objects:
            self._fail(404, f'{plural} "{name}" not found', "NotFound")
        else:
            if query.get("dryRun") != "All":
                self.api.remove(kind, name)
            self._answer({"kind": "Status", "status": "Success"})

    def _watch(self, kind: str, query: dict[str, str]) -> None:
        name = query["fieldSelector"].removeprefix("metadata.name=")
        since, end = query.get("resourceVersion"), time.monotonic() + float(query["timeoutSeconds"])
        self._begin_stream("application/json")
        with self.api.changed:
            while (left := end - time.monotonic()) > 0:
                item = self.api.find(kind, name)
                if item is None or item["metadata"]["resourceVersion"] != since:
                    event = {"type": "MODIFIED" if item else "DELETED", "object": item or {}}
                    self._chunk(json.dumps(event) + "\n")
                    break
                self.api.changed.wait(left)
        self._chunk("")

    def _log(self, pod: str, query: dict[str, str]) -> None:
        if pod not in self.api.logs:
            return self._fail(
                400, f'container "{query["container"]}" in pod "{pod}" is waiting to start'
            )
        self._begin_stream("text/plain")
        for line in self.api.logs[pod]():
            self._chunk(line + "\n")
        return self._chunk("")

    def _begin_stream(self, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _fail(self, code: int, message: str, reason: str = "") -> None:
        self._answer(
            {
                "kind": "Status",
                "status": "Failure",
                "message": message,
                "reason": reason,
                "code": code,
            },
            code,
        )

    def _answer(self, body: Object, code: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
