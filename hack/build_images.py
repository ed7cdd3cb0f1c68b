"""Build the images, or push them for all platforms: ``make images``.

By default docker or buildah builds for the platform of this machine and keeps the images locally.
With ``--push`` the images for amd64 and arm64 go to the registry, with an SBOM and, if docker
builds them, with provenance: docker's local store may keep neither.
"""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = "dist"
# The platforms for which PyPI has wheels of torch.
PLATFORMS = "linux/amd64,linux/arm64"
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
# Where an image has its SBOM if the tool cannot attach one to it.
SBOM_PATH = "/usr/share/sbom/image.spdx.json"


@dataclass(frozen=True)
class Image:
    """An image: its name without the registry, a suffix of its tag, and build arguments."""

    name: str
    dockerfile: str
    suffix: str = ""
    arguments: tuple[str, ...] = ()


def _torch() -> str:
    lock = (ROOT / "requirements" / "predictor.lock").read_text("utf-8")
    (version,) = re.findall(r"^(torch==[\d.]+)", lock, re.MULTILINE)
    return str(version)


IMAGES = {
    "predictor": Image("stable-diffusion-predictor", "Dockerfile"),
    "predictor-cpu": Image(
        "stable-diffusion-predictor",
        "Dockerfile",
        "-cpu",
        (
            "LOCK=requirements/predictor-cpu.lock",
            f"TORCH={_torch()}+cpu",
            f"PIP_EXTRA_INDEX_URL={CPU_WHEELS}",
        ),
    ),
    "downloader": Image("stable-diffusion-downloader", "Dockerfile.downloader"),
    "jobs": Image("stable-diffusion-jobs", "Dockerfile.jobs"),
}
DEFAULT_IMAGES = ("predictor", "downloader", "jobs")


@dataclass(frozen=True)
class Build:
    """What all images of one build have in common."""

    tool: str
    version: str
    registry: str = ""
    platforms: str = ""
    is_pushed: bool = False
    labels: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()


def prefix(registry: str) -> str:
    """The registry as a prefix of image names, which ends with a slash unless it is empty."""
    return registry and registry.rstrip("/") + "/"


def commands(name: str, build: Build) -> Iterator[list[str]]:
    """The commands that build, and perhaps push, the image with this name."""
    image = IMAGES[name]
    version = build.version + image.suffix
    reference = f"{prefix(build.registry)}{image.name}:{version}"
    arguments = (f"VERSION={version}", *image.arguments)
    options = [
        f"--file={image.dockerfile}",
        *(f"--build-arg={argument}" for argument in arguments),
        *(f"--label={label}" for label in build.labels),
        *([f"--platform={build.platforms}"] if build.platforms else []),
        *build.extra,
    ]
    tool = shlex.split(build.tool)
    if not build.is_pushed:
        yield [*tool, "build", f"--tag={reference}", *options, "."]
    elif any(Path(word).name == "docker" for word in tool):
        attested = ["--sbom=true", "--provenance=mode=max", "--push"]
        result = f"--metadata-file={DIST}/{name}.json"
        yield [*tool, "buildx", "build", f"--tag={reference}", *options, *attested, result, "."]
    else:
        attested = ["--sbom=syft-spdx", f"--sbom-image-output={SBOM_PATH}"]
        yield [*tool, "build", f"--manifest={reference}", *options, *attested, "."]
        yield [*tool, "manifest", "push", "--all", reference, f"docker://{reference}"]


def labels(source: str) -> tuple[str, ...]:
    """The OCI labels that depend on the commit; the Dockerfiles have the others.

    https://github.com/opencontainers/image-spec/blob/main/annotations.md
    """
    found = {"revision": _revision(), "created": _git("show", "--no-patch", "--format=%cI", "HEAD")}
    found["source"] = source
    return tuple(f"org.opencontainers.image.{key}={value}" for key, value in found.items() if value)


def _revision() -> str:
    revision = _git("rev-parse", "HEAD")
    return revision + "-dirty" if revision and _git("status", "--porcelain") else revision


def _git(*arguments: str) -> str:
    """What git prints; empty outside of a repository."""
    command = ["git", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    return done.stdout.strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the commands and return 0, or the status of the first that fails.

    With ``--push``, docker writes the digest of each image to ``dist/<image>.json``.
    """
    options = _options(arguments)
    build = Build(
        options.tool,
        options.version,
        options.registry,
        options.platforms or (PLATFORMS if options.push else ""),
        options.push,
        labels(options.source),
        tuple(options.extra),
    )
    if options.push and not options.dry_run:
        (ROOT / DIST).mkdir(exist_ok=True)
    for name in options.image or DEFAULT_IMAGES:
        for command in commands(name, build):
            print(shlex.join(command), flush=True)
            if not options.dry_run and (status := _run(command)):
                return status
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build the images.")
    parser.add_argument("--tool", default="docker", help="docker, buildah or podman")
    parser.add_argument("--version", required=True, help="the tag of the images")
    parser.add_argument("--registry", default="", help="the prefix of the names: host/team/")
    parser.add_argument("--source", default="", help="the URL of the repository, for a label")
    parser.add_argument("--image", action="append", choices=IMAGES, help="may be repeated")
    parser.add_argument("--push", action="store_true", help=f"push for {PLATFORMS}")
    parser.add_argument("--platforms", default="", help="build for these platforms")
    parser.add_argument("--dry-run", action="store_true", help="only print the commands")
    parser.add_argument("extra", nargs="*", help="options for the tool, after --")
    options = parser.parse_args(arguments)
    if options.push and not options.registry:
        parser.error("--push requires --registry")
    return options


def _run(command: list[str]) -> int:
    try:
        return subprocess.run(command, cwd=ROOT, check=False).returncode
    except FileNotFoundError:
        print(f"{command[0]} is not installed: set IMAGE_TOOL", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main())
