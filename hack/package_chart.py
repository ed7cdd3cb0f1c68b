"""Package the chart with Helm's own engine: ``make package``.

The archive depends only on the commit: it is the same, byte for byte, wherever it is packaged. With
``--registry`` the chart's default images are those in the registry.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import helm_python
import yaml

ROOT = Path(__file__).resolve().parent.parent
# A script has its own folder on the import path, not the repository's root.
sys.path.insert(0, str(ROOT))

from hack.build_images import PLATFORMS, prefix  # noqa: E402
from hack.changelog import sections  # noqa: E402

CHART = "helm"
DIST = ROOT / "dist"
PLACEHOLDER = "registry.example.com/team/"
_REPOSITORY = re.compile(r"^( +repository: )(stable-diffusion-(\w+))$", re.MULTILINE)


class PackagingError(Exception):
    """The chart cannot be packaged; the message is a sentence."""


def packaged(destination: Path, registry: str = "", source: str = "") -> Path:
    """Write ``NAME-VERSION.tgz`` to a folder, and return its path.

    Raises:
        PackagingError: ``helm lint --strict`` finds something.
    """
    with tempfile.TemporaryDirectory() as folder:
        chart = _staged(Path(folder), prefix(registry), source.rstrip("/"))
        lint(chart)
        destination.mkdir(parents=True, exist_ok=True)
        return Path(helm_python.package(chart, destination=destination))


def lint(chart: Path) -> None:
    """Raise a ``PackagingError`` with every error and warning of ``helm lint``."""
    report = helm_python.lint(chart, strict=True)
    # Severity 1 is information, such as a missing icon.
    found = [one["error"] for one in report["messages"] if one["severity"] > 1]
    if found or report["errors"]:
        raise PackagingError("helm lint: " + "; ".join(found or report["errors"]))


def annotations(metadata: dict[str, Any], images: dict[str, str], source: str) -> dict[str, str]:
    """The annotations of Artifact Hub that depend on the version, the registry and the source.

    https://artifacthub.io/docs/topics/annotations/helm/
    """
    version = metadata["version"]
    section = sections((ROOT / "CHANGELOG.md").read_text("utf-8")).get(version)
    found: dict[str, list[dict[str, Any]]] = {
        "images": [
            {
                "name": name,
                "image": f"{image}:{metadata['appVersion']}",
                "platforms": PLATFORMS.split(","),
            }
            for name, image in images.items()
        ],
        "links": _links(source, version),
        "changes": [vars(change) for change in section.changes] if section else [],
    }
    texts = {key: yaml.safe_dump(value, sort_keys=False) for key, value in found.items() if value}
    texts["prerelease"] = "true" if "-" in version else "false"
    return {f"artifacthub.io/{key}": text for key, text in texts.items()}


def _links(source: str, version: str) -> list[dict[str, Any]]:
    if not source:
        return []
    return [
        {"name": "Documentation", "url": f"{source}/tree/v{version}/docs"},
        {"name": "Changelog", "url": f"{source}/blob/v{version}/CHANGELOG.md"},
    ]


def _staged(folder: Path, registry: str, source: str) -> Path:
    """A copy of the chart's tracked files to package, all with the time of the commit."""
    chart = folder / CHART
    for name in _git("ls-files", "-z", CHART).rstrip("\0").split("\0"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((ROOT / name).read_bytes())
    images = _set_registry(chart / "values.yaml", registry)
    _describe(chart / "Chart.yaml", images if registry else {}, source)
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH") or _git("show", "-s", "--format=%ct", "HEAD"))
    for path in (chart, *chart.rglob("*")):
        os.utime(path, (seconds, seconds))
    return chart


def _set_registry(values: Path, registry: str) -> dict[str, str]:
    """Put the registry before the names of the images, and return the images by program."""
    text = values.read_text("utf-8")
    found = {program: registry + name for _, name, program in _REPOSITORY.findall(text)}
    if found.keys() != {"predictor", "downloader", "jobs"}:
        raise PackagingError(
            f"{values.name} does not have exactly the repositories of three images"
        )
    values.write_text(_REPOSITORY.sub(rf"\g<1>{registry}\g<2>", text), "utf-8")
    return found


def _describe(path: Path, images: dict[str, str], source: str) -> None:
    metadata = yaml.safe_load(path.read_text("utf-8"))
    metadata["annotations"] |= annotations(metadata, images, source)
    if source:
        metadata |= {"home": source, "sources": [source]}
    path.write_text(yaml.safe_dump(metadata, sort_keys=False), "utf-8")


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Package the chart, and print its digest and the command that pushes it."""
    parser = argparse.ArgumentParser(description="Package the chart.")
    parser.add_argument("--registry", default="", help="where the images are: host/team/")
    parser.add_argument("--source", default="", help="the URL of the repository")
    parser.add_argument("--destination", type=Path, default=DIST, help="the folder to write to")
    options = parser.parse_args(arguments)
    try:
        archive = packaged(options.destination, options.registry, options.source)
    except PackagingError as error:
        print(error, file=sys.stderr)
        return 1
    name = os.path.relpath(archive)
    print(f"{name} {helm_python.digest(archive)}")
    print(f"helm push {name} oci://{prefix(options.registry) or PLACEHOLDER}charts")
    return 0


if __name__ == "__main__":
    sys.exit(main())
