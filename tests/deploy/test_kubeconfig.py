"""Without a usable kubeconfig the command says where it looked, what is wrong and what to do."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import kubeconfig
from deploy.kubeconfig import context_of, find
from tests.deploy.conftest import Deployment, Run

Object = dict[str, Any]


def config(**changes: Any) -> Object:
    """A valid kubeconfig of one context, with some of its keys replaced."""
    return {
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "jane", "user": {"token": "the-token"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "jane"}}],
        **changes,
    }


def status(deployment: Deployment, content: str | Object, *flags: str) -> Run:
    """Run `status` with a kubeconfig of this content."""
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    deployment.kubeconfig.write_text(text)
    return deployment.run("status", *flags)


def search(monkeypatch: pytest.MonkeyPatch, home: Path, pod: Path, **environ: str) -> str:
    """The error of a search with these variables, from this home and service account."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(kubeconfig, "IN_POD", pod)
    with pytest.raises(kubeconfig.ClusterError) as raised:
        find(None, None, environ)
    return str(raised.value)


def test_every_searched_path_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = search(monkeypatch, tmp_path, tmp_path / "pod")

    assert f"{tmp_path}/.kube/config (the default path) does not exist" in text
    assert "$KUBECONFIG is not set" in text
    assert f"{tmp_path}/pod/token, which only a pod has, does not exist" in text
    assert "--kubeconfig" in text.splitlines()[1]


def test_every_path_of_the_variable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").touch()
    paths = [str(tmp_path / name) for name in ("missing", "empty", "")]

    text = search(monkeypatch, tmp_path, tmp_path / "pod", KUBECONFIG=os.pathsep.join(paths))

    assert f"{tmp_path}/missing ($KUBECONFIG) does not exist" in text
    assert f"{tmp_path}/empty ($KUBECONFIG) is empty" in text
    assert f"{tmp_path} ($KUBECONFIG) is a folder" in text
    assert ".kube" not in text.splitlines()[0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (os.pathsep, "no kubeconfig: $KUBECONFIG names no file; "),
        ("~no-such-user/config", "~no-such-user/config ($KUBECONFIG) does not exist"),
    ],
)
def test_a_variable_without_a_file_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, expected: str
) -> None:
    assert expected in search(monkeypatch, tmp_path, tmp_path / "pod", KUBECONFIG=value)


def test_the_files_of_the_variable_that_exist_are_used(tmp_path: Path) -> None:
    (tmp_path / "there").write_text(yaml.safe_dump(config()))
    paths = [str(tmp_path / name) for name in ("missing", "there")]

    found = find(None, None, {"KUBECONFIG": os.pathsep.join(paths)})

    assert found
    assert found.path == str(tmp_path / "there")


def test_a_pod_without_a_kubeconfig_uses_its_service_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("a-token")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(kubeconfig, "IN_POD", tmp_path)

    assert find(None, None, {}) is None
    with pytest.raises(kubeconfig.ClusterError, match="applies only without --context"):
        find(None, "prod", {})


def test_the_first_file_wins_as_with_kubectl(tmp_path: Path) -> None:
    for name in ("a", "b"):
        context = {"cluster": "test", "user": "jane", "namespace": name}
        content = config(contexts=[{"name": "test", "context": context}])
        (tmp_path / name).write_text(yaml.safe_dump(content))
    other = config(**{"current-context": "other"})
    (tmp_path / "c").write_text(yaml.safe_dump(other))
    value = os.pathsep.join(str(tmp_path / name) for name in ("a", "b", "c"))

    found = find(None, None, {"KUBECONFIG": value})

    assert found
    assert context_of(found, None) == ("test", "a")


def test_a_flag_that_names_no_file(deployment: Deployment) -> None:
    deployment.kubeconfig = deployment.folder / "nowhere"

    done = deployment.run("status")

    assert done.code == 3
    assert f"{deployment.folder}/nowhere (--kubeconfig) does not exist" in done.err


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("users: [{token: the-token", "is not valid YAML at line 1"),
        ("just text, the-token", "is not a mapping of clusters"),
        (config(users=["the-token"]), "every entry of `users` needs a name and a mapping `user`"),
        (config(contexts={"test": {}}), "every entry of `contexts` needs a name"),
        (config(**{"current-context": ""}), "has no current context"),
        (config(**{"current-context": "old"}), "has no context 'old'"),
        (config(clusters=[]), "context 'test' names the cluster 'test', which does not exist"),
        (config(users=[]), "context 'test' names the user 'jane', which does not exist"),
        (
            config(clusters=[{"name": "test", "cluster": {"server": 443}}]),
            "cluster 'test' needs the URL of its `server`",
        ),
        (
            config(
                clusters=[
                    {
                        "name": "test",
                        "cluster": {
                            "server": "https://127.0.0.1:9",
                            "certificate-authority": "/nowhere/ca.crt",
                        },
                    }
                ]
            ),
            "cannot be used: File does not exist: /nowhere/ca.crt",
        ),
        (
            config(
                users=[
                    {
                        "name": "jane",
                        "user": {"exec": {"command": "no-such-plugin", "installHint": "Buy it."}},
                    }
                ]
            ),
            "gets its credentials from 'no-such-plugin', which is not installed or not in PATH.\n"
            "Buy it.",
        ),
        (
            config(users=[{"name": "jane", "user": {"exec": "the-token"}}]),
            "user 'jane' needs the `command` of its `exec`",
        ),
        (
            config(
                users=[
                    {
                        "name": "jane",
                        "user": {
                            "exec": {
                                "apiVersion": "client.authentication.k8s.io/v1",
                                "command": "sh",
                                "args": ["-c", "echo the session is over >&2; exit 3"],
                            }
                        },
                    }
                ]
            ),
            "cannot be used: exec: process returned 3. the session is over",
        ),
        (
            config(
                users=[
                    {
                        "name": "jane",
                        "user": {"exec": {"apiVersion": "v1", "command": "/nowhere/plugin"}},
                    }
                ]
            ),
            "No such file or directory: '/nowhere/plugin'",
        ),
        (
            config(contexts=[{"name": "test", "context": {"cluster": ["test"]}}]),
            "context 'test' names the cluster ['test'], which does not exist",
        ),
        (config(**{"current-context": ["test"]}), "has no context \"['test']\""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_invalid_kubeconfig_is_one_sentence(
    deployment: Deployment, content: str | Object, expected: str
) -> None:
    done = status(deployment, content)

    assert done.code == 3
    assert expected in done.err
    assert f"kubeconfig {deployment.kubeconfig}" in done.err
    assert "Traceback" not in done.err
    assert "the-token" not in done.err


def test_an_unknown_context_lists_those_that_exist(deployment: Deployment) -> None:
    done = deployment.run("status", "--context", "prod")

    assert done.code == 3
    assert "has no context 'prod'. Choose another with --context. Contexts: test" in done.err


def test_a_context_can_be_chosen_without_a_current_one(deployment: Deployment) -> None:
    content = yaml.safe_load(deployment.kubeconfig.read_text())
    del content["current-context"]
    content["contexts"][0]["context"]["namespace"] = "images"

    done = status(deployment, content, "--context", "test")

    assert done.code == 10
    assert any("/namespaces/images/" in path for _, path, _ in deployment.api.requests)
