"""Which kubeconfig applies, and why it cannot be used; nothing here calls a cluster.

https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy.errors import ClusterError
from deploy.objects import dig

# A pod's service account (https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/).
IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_DEFAULT = "~/.kube/config"
_ADVICE = (
    "Pass the file of your cluster with --kubeconfig or in $KUBECONFIG, or have your provider's "
    "tool write ~/.kube/config. `kubectl config get-contexts` lists what kubectl finds."
)
_SECTIONS = ("clusters", "contexts", "users")


@dataclass(frozen=True)
class Kubeconfig:
    """The files that apply, in order, and which source names them; none inside a pod."""

    paths: tuple[Path, ...]
    source: str

    @property
    def path(self) -> str:
        """All paths, as `KUBECONFIG` joins them."""
        return os.pathsep.join(map(str, self.paths))


def find(flag: Path | None, context: str | None, environ: Mapping[str, str]) -> Kubeconfig | None:
    """The kubeconfig as kubectl finds it, or None to use the service account of this pod.

    Raises:
        ClusterError: there is none, with every path that was searched.
    """
    value = environ.get("KUBECONFIG", "")
    source = "--kubeconfig" if flag else "$KUBECONFIG" if value else "the default path"
    named = [str(flag)] if flag else value.split(os.pathsep) if value else [_DEFAULT]
    # `Path.expanduser` raises an error for the home of an unknown user.
    searched = [Path(os.path.expanduser(one)) for one in named if one]  # noqa: PTH111
    states = [(path, _state(path)) for path in searched]
    if usable := tuple(path for path, state in states if not state):
        return Kubeconfig(usable, source)
    if not flag and not context and (IN_POD / "token").is_file():
        return None
    lines = [f"{path} ({source}) {state}" for path, state in states]
    lines += [] if searched else ["$KUBECONFIG names no file"]
    lines += [] if flag or value else ["$KUBECONFIG is not set"]
    lines += [] if flag else [f"{IN_POD / 'token'}, which only a pod has, {_token_state()}"]
    raise ClusterError(f"no kubeconfig: {'; '.join(lines)}.\n{_ADVICE}")


def context_of(kubeconfig: Kubeconfig, context: str | None) -> tuple[str, str | None]:
    """The name of the context that applies and its namespace, after a check of what it names.

    Raises:
        ClusterError: names the file, the context, cluster, user or plugin that is missing.
    """
    merged: dict[str, Any] = {}
    for path in kubeconfig.paths:
        content = _read(path)
        # The first file wins, with an entry of a name as with the current context.
        for section in _SECTIONS:
            entries = merged.setdefault(section, {})
            for entry in _entries(path, content, section):
                entries.setdefault(str(entry["name"]), entry)
        merged["current-context"] = merged.get("current-context") or content.get("current-context")
    where = f"kubeconfig {kubeconfig.path}"
    chosen = _chosen(merged, context, where)
    cluster, user = (_named(merged, section, chosen, where) for section in ("clusters", "users"))
    if not str(dig(cluster, "cluster", "server")).startswith(("http://", "https://")):
        raise ClusterError(f"{where}: cluster {cluster['name']!r} needs the URL of its `server`")
    _check_plugin(user, where)
    return str(chosen["name"]), dig(chosen, "context", "namespace")


def _state(path: Path) -> str:
    """Why there is nothing to read at ``path``; empty if there is."""
    try:
        if path.is_dir():
            return "is a folder"
        return "" if path.stat().st_size else "is empty"
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _token_state() -> str:
    return "applies only without --context" if (IN_POD / "token").is_file() else "does not exist"


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ClusterError(f"kubeconfig {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ClusterError(f"kubeconfig {path} is not text") from None
    except yaml.YAMLError as error:
        # Only the place: the text around it may be a credential.
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        raise ClusterError(f"kubeconfig {path} is not valid YAML{place}.\n{_ADVICE}") from None
    if not isinstance(content, dict):
        raise ClusterError(f"kubeconfig {path} is not a mapping of clusters.\n{_ADVICE}")
    return content


def _entries(path: Path, content: Mapping[str, Any], section: str) -> Sequence[Mapping[str, Any]]:
    entries = content.get(section) or []
    singular = section.removesuffix("s")
    if not isinstance(entries, list) or not all(
        isinstance(one, dict) and one.get("name") and isinstance(one.get(singular), dict)
        for one in entries
    ):
        raise ClusterError(
            f"kubeconfig {path}: every entry of `{section}` needs a name and a mapping "
            f"`{singular}`.\n{_ADVICE}"
        )
    return entries


def _chosen(merged: Mapping[str, Any], context: str | None, where: str) -> Mapping[str, Any]:
    name, contexts = str(context or merged["current-context"] or ""), merged["contexts"]
    known = ", ".join(sorted(contexts)) or "none"
    if not name:
        raise ClusterError(
            f"{where} has no current context. Choose one with --context or `kubectl config "
            f"use-context NAME`. Contexts: {known}"
        )
    if name not in contexts:
        raise ClusterError(
            f"{where} has no context {name!r}. Choose another with --context. Contexts: {known}"
        )
    chosen: Mapping[str, Any] = contexts[name]
    return chosen


def _named(
    merged: Mapping[str, Any], section: str, context: Mapping[str, Any], where: str
) -> Mapping[str, Any]:
    """The cluster or user that the context names; empty for a context without a user."""
    singular, entries = section.removesuffix("s"), merged[section]
    wanted = dig(context, "context", singular)
    if str(wanted) not in entries and (wanted or section == "clusters"):
        raise ClusterError(
            f"{where}: context {context['name']!r} names the {singular} {wanted!r}, which does "
            f"not exist. Available: {', '.join(sorted(entries)) or 'none'}"
        )
    entry: Mapping[str, Any] = entries.get(str(wanted), {})
    return entry


def _check_plugin(user: Mapping[str, Any], where: str) -> None:
    """Without its credential plugin the client would send a request without credentials."""
    plugin = dig(user, "user", "exec")
    command = str(dig(plugin, "command") or "")
    if plugin and not command:
        raise ClusterError(f"{where}: user {user['name']!r} needs the `command` of its `exec`")
    if command and "/" not in command and shutil.which(command) is None:
        raise ClusterError(
            f"{where}: user {user['name']!r} gets its credentials from {command!r}, which is not "
            f"installed or not in PATH.\n{dig(plugin, 'installHint') or 'Install it.'}"
        )
