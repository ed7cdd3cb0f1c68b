"""The objects to deploy: read from a folder and sorted into the order of application."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from deploy.errors import UsageError

Object = dict[str, Any]

# Objects that others need come first. Kinds not listed here come in between, in the folder's order.
_FIRST = ("Namespace", "ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Secret")
_THEN = ("PersistentVolumeClaim", "NetworkPolicy", "Job")
_LAST = ("InferenceService",)
_KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
_FORMAT_KEYS = {"apiVersion", "kind", "resources"}


def load_objects(folder: Path) -> list[Object]:
    """Every object of ``folder``, or of one YAML file, in the order of application.

    Raises:
        UsageError: there is nothing to deploy, or a file is not YAML of Kubernetes objects.
    """
    if not folder.exists():
        raise UsageError(f"{folder} does not exist; pass the folder with the manifests")
    kustomization = _kustomization(folder)
    if kustomization is None:
        objects = list(_read(sorted(folder.glob("*.y*ml")) if folder.is_dir() else [folder]))
    elif (paths := _plain_resources(kustomization)) is not None:
        objects = list(_read(paths))
    else:
        objects = list(_parse(_kustomized(folder), str(folder)))
    if not objects:
        raise UsageError(f"{folder} contains no Kubernetes objects")
    return sorted(objects, key=_rank)


def of_kind(objects: Iterable[Object], kind: str) -> list[Object]:
    """Those of one kind, in their order."""
    return [each for each in objects if each["kind"] == kind]


def name_of(item: Object) -> str:
    """The object's name."""
    return str(item["metadata"]["name"])


def title(item: Object) -> str:
    """The object as kubectl prints it: ``job/stable-diffusion-download``."""
    return f"{item['kind'].lower()}/{name_of(item)}"


def dig(item: Any, *path: str | int) -> Any:
    """The value at ``path`` within nested mappings and lists, or None if there is none."""
    for step in path:
        if isinstance(item, dict):
            item = item.get(step)
        elif isinstance(item, list) and isinstance(step, int) and -len(item) <= step < len(item):
            item = item[step]
        else:
            return None
    return item


def _rank(item: Object) -> int:
    kind = item["kind"]
    for rank, kinds in ((0, _FIRST), (100, _THEN), (300, _LAST)):
        if kind in kinds:
            return rank + kinds.index(kind)
    return 200


def _kustomization(folder: Path) -> Path | None:
    return next((folder / name for name in _KUSTOMIZATIONS if (folder / name).is_file()), None)


def _plain_resources(kustomization: Path) -> list[Path] | None:
    """The files of a Kustomization that only lists files, which can be read without kubectl."""
    content = yaml.safe_load(kustomization.read_text("utf-8"))
    if not isinstance(content, dict) or not content.keys() <= _FORMAT_KEYS:
        return None
    paths = [kustomization.parent / str(name) for name in content.get("resources") or ()]
    return paths if all(path.is_file() for path in paths) else None


def _kustomized(folder: Path) -> str:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise UsageError(
            f"{folder} is a kustomize overlay, which needs kubectl, and kubectl is not installed"
        )
    done = subprocess.run(  # noqa: S603  # the program is kubectl, the argument a folder
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UsageError(f"kubectl kustomize {folder}: {done.stderr.strip()}")
    return done.stdout


def _read(paths: Iterable[Path]) -> Iterator[Object]:
    for path in paths:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: {error}") from None
        yield from _parse(text, str(path))


def _parse(text: str, source: str) -> Iterator[Object]:
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise UsageError(f"{source} is not valid YAML: {error}") from None
    for document in documents:
        if not isinstance(document, dict) or not (
            document.get("apiVersion")
            and document.get("kind")
            and dig(document, "metadata", "name")
        ):
            raise UsageError(f"{source}: every document needs apiVersion, kind and metadata.name")
        yield document
