"""Check that this commit can be released, and tag it: ``make release``.

The version is that of ``pyproject.toml``; the tag is ``v`` and the version. ``--verify TAG`` checks
only what does not change once a tag exists, as the release workflow does.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# A script has its own folder on the import path, not the repository's root.
sys.path.insert(0, str(ROOT))

from hack.changelog import UNRELEASED, sections  # noqa: E402

# https://semver.org, without build metadata, which no image tag can have.
_NUMBER = r"(?:0|[1-9]\d*)"
_IDENTIFIER = rf"(?:{_NUMBER}|\d*[A-Za-z-][0-9A-Za-z-]*)"
_VERSION = re.compile(rf"{_NUMBER}(?:\.{_NUMBER}){{2}}(?:-{_IDENTIFIER}(?:\.{_IDENTIFIER})*)?")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
# Where the version is repeated: files, as patterns of git, and the version in them.
PLACES = (
    (("helm/Chart.yaml",), r"^(?:version|appVersion): \"?([^\"\s]+)"),
    (("Dockerfile*",), r"^ARG VERSION=(\S+)"),
    (("predictor/edge/openapi.py", "jobs/api/openapi.py"), r"^ +\"version\": \"([^\"]+)\""),
    (
        ("Dockerfile*", "README.md", "docs/*.md", "manifests/*.yaml", "examples/*.yaml"),
        r"stable-diffusion-(?:predictor|downloader|jobs):([0-9][\w.-]*)",
    ),
    # docs/rollout.md has the tag of a later version, the canary.
    (
        ("helm/ci/*.yaml", "examples/*.yaml", "docs/gpus.md"),
        r"^[ -]*(?:tag|newTag): \"?([0-9][^\"\s]*)",
    ),
    (("examples/*.md",), r"`([0-9][\w.]*-cpu)`"),
    (("docs/*.md",), r"stable-diffusion-([0-9][\w.-]*)\.tgz"),
    (("docs/*.md",), r"^VERSION=(\S+)"),
)
# The tag of an image may have a suffix that names the variant.
_VARIANT = re.compile(r"-(?:cpu|rocm)$")


def version() -> str:
    """The version in ``pyproject.toml``."""
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    (found,) = re.findall(r"^version = \"(.*)\"$", text, re.MULTILINE)
    return str(found)


def problems_of_files(expected: str) -> Iterator[str]:
    """What in the files does not agree with the version, as sentences."""
    if not _VERSION.fullmatch(expected):
        yield f"{expected!r} in pyproject.toml is not a version such as 1.2.3 or 1.2.3-rc.1."
    for patterns, expression in PLACES:
        for path in _git("ls-files", *patterns).splitlines():
            text = (ROOT / path).read_text("utf-8")
            for match in re.finditer(expression, text, re.MULTILINE):
                if _VARIANT.sub("", match[1]) != expected:
                    line = text.count("\n", 0, match.start(1)) + 1
                    yield f"{path}:{line} has {match[1]}, but pyproject.toml has {expected}."


def problems_of_changelog(expected: str) -> Iterator[str]:
    """What is missing in the changelog, as sentences."""
    found = sections((ROOT / "CHANGELOG.md").read_text("utf-8"))
    heading = f"`## {expected} - YYYY-MM-DD`"
    if expected not in found:
        yield f"CHANGELOG.md has no section for {expected}: rename {UNRELEASED} to {heading}."
        return
    if not _DATE.fullmatch(found[expected].date):
        yield f"The section for {expected} in CHANGELOG.md has no date: write {heading}."
    if not found[expected].changes:
        yield f"The section for {expected} in CHANGELOG.md has no entries."
    if UNRELEASED in found and found[UNRELEASED].changes:
        yield f"{UNRELEASED} in CHANGELOG.md still has entries: move them to {heading}."


def problems_of_repository(tag: str) -> Iterator[str]:
    """What prevents a new tag of the current commit, as sentences."""
    changed = _git("status", "--porcelain").splitlines()
    if changed:
        names = ", ".join(sorted(line[3:] for line in changed))
        yield f"The working tree has changes that are not committed: {names}."
    if _git("tag", "--list", tag):
        commit = _git("rev-list", "--max-count=1", "--abbrev-commit", tag).strip()
        yield f"The tag {tag} already exists, on {commit}: increase the version."


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Tag the commit and return 0, or print every reason not to and return 1."""
    parser = argparse.ArgumentParser(description="Check this commit and tag it as a release.")
    parser.add_argument("--verify", metavar="TAG", help="check that the files agree with a tag")
    options = parser.parse_args(arguments)
    expected = version()
    tag = f"v{expected}"
    problems = [*problems_of_files(expected), *problems_of_changelog(expected)]
    if options.verify is None:
        problems += problems_of_repository(tag)
    elif options.verify != tag:
        problems.append(f"The tag is {options.verify}, but pyproject.toml has {expected}.")
    if problems:
        print("\n".join(problems), file=sys.stderr)
        return 1
    return 0 if options.verify else _tag(tag)


def _tag(tag: str) -> int:
    command = ["git", "tag", "--annotate", tag, "--message", f"Version {tag.removeprefix('v')}"]
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status == 0:
        print(f"Tagged this commit. To publish it: git push origin {tag}")
    return status


if __name__ == "__main__":
    sys.exit(main())
