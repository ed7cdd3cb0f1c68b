"""The cluster's API: the only module that calls it, with the dynamic client of `kubernetes`.

Arguments and results are plain dictionaries; every refusal becomes an error of this package.
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config, dynamic
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from kubernetes.dynamic.exceptions import ResourceNotFoundError

from deploy.errors import (
    ClusterError,
    ConflictError,
    ForbiddenError,
    RefusedError,
    UnreachableError,
)
from deploy.kubeconfig import IN_POD, Kubeconfig, context_of, find
from deploy.objects import Object, dig, name_of

FIELD_MANAGER = "stable-diffusion-deploy"
_REQUEST_SECONDS = 30.0
_OVERLOADED = (429, 502, 503, 504)


class Cluster:
    """One cluster, seen from one namespace."""

    def __init__(self, api: Any, namespace: str) -> None:
        self.namespace = namespace
        # The library caches its discovery in a file that all processes share and that may be
        # outdated. It works without a file that it cannot write.
        with tempfile.TemporaryDirectory(prefix="deploy-") as folder:
            cache = str(Path(folder, "resources.json"))
            self._client: Any = _answered(lambda: dynamic.DynamicClient(api, cache_file=cache))

    @classmethod
    def connect(
        cls, kubeconfig: Path | None, context: str | None, namespace: str | None
    ) -> Cluster:
        """Read the kubeconfig as kubectl does, or use the service account inside a pod.

        Raises:
            ClusterError: there is no usable kubeconfig, or the cluster does not answer.
        """
        found = find(kubeconfig, context, os.environ)
        place: str | None
        try:
            if found is None:
                config.load_incluster_config()
                api, place = client.ApiClient(), (IN_POD / "namespace").read_text("utf-8").strip()
            else:
                name, place = context_of(found, context)
                api = _client(found, name)
        except (ConfigException, OSError, LookupError, TypeError, ValueError, AttributeError) as e:
            where = f"kubeconfig {found.path}" if found else f"service account {IN_POD}"
            raise ClusterError(f"{where} cannot be used: {e}") from None
        return cls(api, namespace or place or "default")

    @property
    def version(self) -> str:
        """The API server's version, as in `v1.32.4`; empty if it does not say."""
        return str(dig(self._client.version, "kubernetes", "gitVersion") or "")

    def knows(self, api_version: str, kind: str) -> bool:
        """Whether the API serves this kind: for a custom resource, whether its CRD is installed."""
        return self._resource(api_version, kind) is not None

    def get(
        self, api_version: str, kind: str, name: str, namespace: str | None = None
    ) -> Object | None:
        """One object, or None if it or its kind does not exist."""
        resource = self._resource(api_version, kind)
        if resource is None:
            return None
        try:
            place = namespace or self._place(resource)
            found: Object = self._call(resource.get, name=name, namespace=place)
        except RefusedError as error:
            if error.status == 404:
                return None
            raise
        return found

    def list(
        self, api_version: str, kind: str, *, labels: str = "", namespace: str | None = None
    ) -> list[Object]:
        """All objects of a kind in the namespace; none if the API does not know the kind."""
        resource = self._resource(api_version, kind)
        if resource is None:
            return []
        answer = self._call(
            resource.get,
            namespace=namespace or self._place(resource),
            label_selector=labels or None,
        )
        return list(answer.get("items") or ())

    def apply(self, item: Object, *, dry_run: bool = False, force: bool = False) -> Object:
        """Create or change an object by server-side apply, and return the API's version of it.

        Raises:
            ConflictError: another manager set one of the fields to another value.
            RefusedError: the API refuses it for another reason.
        """
        resource = self._resource(item["apiVersion"], item["kind"])
        if resource is None:
            raise RefusedError(
                f"no matches for kind {item['kind']!r} in version {item['apiVersion']!r}", 404
            )
        applied: Object = self._call(
            resource.server_side_apply,
            body=item,
            name=name_of(item),
            namespace=self._place(resource),
            field_manager=FIELD_MANAGER,
            force_conflicts=force or None,
            dry_run="All" if dry_run else None,
        )
        return applied

    def delete(self, item: Object, *, dry_run: bool = False) -> bool:
        """Delete an object and what it owns; return whether it existed."""
        resource = self._resource(item["apiVersion"], item["kind"])
        if resource is None:
            return False
        try:
            self._call(
                resource.delete,
                name=name_of(item),
                namespace=self._place(resource),
                propagation_policy="Foreground",
                dry_run="All" if dry_run else None,
            )
        except RefusedError as error:
            if error.status == 404:
                return False
            raise
        return True

    def wait_for_change(self, item: Object, seconds: float) -> None:
        """Return when the object may have changed, or after ``seconds``."""
        resource = self._resource(item["apiVersion"], item["kind"])
        begun = time.monotonic()
        try:
            response = self._client.get(
                resource,
                namespace=self._place(resource),
                field_selector=f"metadata.name={name_of(item)}",
                resource_version=dig(item, "metadata", "resourceVersion"),
                watch=True,
                timeout_seconds=max(1, round(seconds)),
                _request_timeout=(_REQUEST_SECONDS, seconds + 1),
                serialize=False,
            )
            changed = bool(next(_lines(response), ""))
            response.close()
        except (ApiException, urllib3.exceptions.HTTPError):
            changed = False
        if not changed:
            # A watch that is refused or cut must not make the caller's loop spin.
            time.sleep(max(0.0, min(seconds, 1.0) - (time.monotonic() - begun)))

    def log(self, pod: str, container: str, *, follow: bool, quiet: float = 60) -> Iterator[str]:
        """The lines of a container's log, to its end or until ``quiet`` seconds of silence."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{pod}/log"
        query = [("container", container), ("follow", str(follow).lower())]
        response = self._call(
            self._client.request,
            "get",
            path,
            query_params=query,
            header_params={"Accept": "*/*"},
            _request_timeout=(_REQUEST_SECONDS, quiet),
            serialize=False,
        )
        try:
            yield from _lines(response)
        except urllib3.exceptions.HTTPError:
            return
        finally:
            response.close()

    def may(self, verb: str, group: str, resource: str) -> bool:
        """Ask a SelfSubjectAccessReview for a permission; ``resource`` as in RBAC (`pods/log`)."""
        name, _, subresource = resource.partition("/")
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {
                "resourceAttributes": {
                    "namespace": self.namespace,
                    "verb": verb,
                    "group": group,
                    "resource": name,
                    "subresource": subresource,
                }
            },
        }
        kind = self._resource("authorization.k8s.io/v1", "SelfSubjectAccessReview")
        return kind is None or bool(dig(self._call(kind.create, body=review), "status", "allowed"))

    def plural(self, api_version: str, kind: str) -> str:
        """The kind's name in paths and permissions, as in `inferenceservices`."""
        resource = self._resource(api_version, kind)
        return str(resource.name) if resource else f"{kind.lower()}s"

    def _resource(self, api_version: str, kind: str) -> Any:
        group, _, version = api_version.rpartition("/")
        query = {"prefix": "apis", "group": group} if group else {"prefix": "api"}
        try:
            return _answered(
                lambda: self._client.resources.get(api_version=version, kind=kind, **query)
            )
        except ResourceNotFoundError:
            return None

    def _place(self, resource: Any) -> str | None:
        return self.namespace if resource.namespaced else None

    def _call(self, function: Callable[..., Any], *positional: Any, **arguments: Any) -> Any:
        arguments.setdefault("_request_timeout", _REQUEST_SECONDS)
        answer = _answered(lambda: function(*positional, **arguments))
        return answer.to_dict() if hasattr(answer, "to_dict") else answer


def _client(kubeconfig: Kubeconfig, context: str) -> Any:
    """A client with the credentials of the context.

    The library only logs the failure of a credential plugin, and sends requests without
    credentials then.
    """
    logged: list[str] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logging.root.addHandler(handler)
    try:
        api = config.new_client_from_config(kubeconfig.path, context, persist_config=False)
    finally:
        logging.root.removeHandler(handler)
    if logged:
        raise ConfigException("; ".join(logged))
    return api


def _answered(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except ApiException as error:
        raise _refusal(error) from None
    except urllib3.exceptions.HTTPError as error:
        reason = getattr(error, "reason", None) or error
        raise UnreachableError(f"the cluster does not answer: {reason}") from None


def _refusal(error: ApiException) -> ClusterError | RefusedError:
    try:
        status = json.loads(error.body or "")
    except (ValueError, RecursionError):
        status = {}
    message = str(dig(status, "message") or error.body or error.reason)
    causes = dig(status, "details", "causes") or ()
    if error.status == 401:
        return ClusterError(f"the cluster does not accept these credentials: {message}")
    # A webhook's failure is a 500, which is not among these.
    if error.status in _OVERLOADED:
        return UnreachableError(f"the cluster does not answer: {error.status}, {message}")
    if error.status == 409 and any(one.get("reason") == "FieldManagerConflict" for one in causes):
        return ConflictError(message, 409, causes)
    # Quotas and webhooks also refuse with 403; only the authorizer names the user.
    if error.status == 403 and re.search(r'User "[^"]*" cannot ', message):
        return ForbiddenError(message, 403, causes)
    return RefusedError(message, error.status or 0, causes)


def _lines(response: Any) -> Iterator[str]:
    """Complete lines of a streamed response, as they arrive."""
    rest = b""
    for chunk in response.stream(4096, decode_content=True):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line.decode("utf-8", "replace") for line in lines)
    if rest:
        yield rest.decode("utf-8", "replace")
