"""The Dockerfiles as text; only their bytecode command runs, on a small tree."""

from __future__ import annotations

import json
import os
import py_compile
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType

import pytest
import yaml

from .rendering import ROOT, case

PROGRAMS = {
    "predictor": "Dockerfile",
    "downloader": "Dockerfile.downloader",
    "jobs": "Dockerfile.jobs",
}
# The jobs program does not see the volume.
SHARED = {"predictor": {"modelstore"}, "downloader": {"modelstore"}, "jobs": set[str]()}
VENV = "/opt/venv"
STANDARD_LIBRARY = """"$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')\""""
LOCKS = ["predictor.lock", "predictor-cpu.lock", "downloader.lock", "jobs.lock"]


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile."""

    keyword: str
    rest: str


def instructions(program: str) -> list[Instruction]:
    """The instructions of a program's Dockerfile, with continuation lines joined."""
    text = (ROOT / PROGRAMS[program]).read_text("utf-8")
    joined = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^#.*\n", "", text))
    words = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [Instruction(keyword, rest) for keyword, rest in words]


def all_of(program: str, keyword: str) -> list[str]:
    """The arguments of all instructions with a keyword, in order."""
    return [item.rest for item in instructions(program) if item.keyword == keyword]


def final_stage(program: str) -> list[Instruction]:
    """The instructions after the last FROM."""
    found = instructions(program)
    last = max(index for index, item in enumerate(found) if item.keyword == "FROM")
    return found[last + 1 :]


def copied_folders(program: str) -> set[str]:
    """The folders of the repository that the final stage copies."""
    copies = [item.rest.split() for item in final_stage(program) if item.keyword == "COPY"]
    return {source.rstrip("/") for words in copies for source in words[:-1] if "--" not in words[0]}


def compile_commands(program: str) -> list[str]:
    """The commands of all stages that compile bytecode."""
    return [rest for rest in all_of(program, "RUN") if "compileall" in rest]


def run_in(root: Path, command: str) -> None:
    """Run a command of the final stage with ``root`` in place of the image's folders."""
    here = command.replace(STANDARD_LIBRARY, f"{root}/stdlib").replace(VENV, f"{root}/venv")
    assert "sysconfig" not in here  # or it would compile the standard library of this machine
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(["sh", "-c", here], cwd=root / "app", env=environment, check=True)


class BytecodeOnly(SourceFileLoader):
    """Python's importer, which compiles source only if the bytecode is stale; here that fails."""

    # The stubs of the two base classes disagree on whether this is a static method.
    def source_to_code(  # type: ignore[override]
        self, data: object, path: object, *, _optimize: int = -1
    ) -> CodeType:
        raise AssertionError(f"stale: {path}")


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_base_image_is_one_argument(program: str) -> None:
    first, *_ = instructions(program)
    assert first == Instruction("ARG", "BASE_IMAGE=python:3.11-slim-bookworm")
    bases = [rest.split()[0] for rest in all_of(program, "FROM")]
    assert bases == ["${BASE_IMAGE}", "${BASE_IMAGE}"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_user_is_numeric_and_matches_the_chart(program: str) -> None:
    (user,) = [item.rest for item in final_stage(program) if item.keyword == "USER"]
    security = case("default").predictor_container["securityContext"]
    assert user == f"{security['runAsUser']}:{security['runAsGroup']}"
    assert int(user.split(":")[0]) > 0


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_image_contains_only_its_package_and_the_modelstore(program: str) -> None:
    demo = {"demo/model"} if program == "downloader" else set()
    assert copied_folders(program) == {program} | SHARED[program] | demo
    for folder in copied_folders(program) - demo:
        assert (ROOT / folder / "__init__.py").is_file()


def test_the_demo_example_publishes_the_model_in_the_image() -> None:
    (copy,) = [rest for rest in all_of("downloader", "COPY") if rest.startswith("demo/")]
    source, target = copy.split()
    assert (ROOT / source / "model_index.json").is_file()
    values = yaml.safe_load((ROOT / "examples/cpu-demo/values.yaml").read_text("utf-8"))
    assert values["model"]["source"] == f"file://{target.rstrip('/')}"


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_image_has_a_writable_home_and_no_pip(program: str) -> None:
    (environment,) = [item.rest for item in final_stage(program) if item.keyword == "ENV"]
    assert "HOME=/tmp" in environment.split()
    removals = [rest for rest in all_of(program, "RUN") if "pip uninstall" in rest]
    assert len(removals) == 1
    # The base image has another one, whose bytecode would be compiled too.
    commands = [item.rest for item in final_stage(program) if item.keyword == "RUN"]
    (own,) = [command for command in commands if "/usr/local/bin/pip*" in command]
    assert "/usr/local/lib/python3.*/site-packages/*" in own.split()
    assert commands.index(own) < commands.index(compile_commands(program)[0])


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_new_version_changes_no_layer(program: str) -> None:
    """A RUN after an ARG runs again if its value changes."""
    keywords = [item.keyword for item in final_stage(program)]
    (version,) = [
        index
        for index, item in enumerate(final_stage(program))
        if item.keyword == "ARG" and item.rest.startswith("VERSION=")
    ]

    assert "LABEL" in keywords[version:]
    assert not {"RUN", "COPY"} & set(keywords[version:])


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_entry_point_is_the_package_without_a_shell(program: str) -> None:
    (entry_point,) = all_of(program, "ENTRYPOINT")
    assert json.loads(entry_point) == ["python", "-m", program]
    assert (ROOT / program / "__main__.py").is_file()
    assert all_of(program, "CMD") == []


def test_the_predictor_exposes_the_port_of_the_chart() -> None:
    (port,) = case("default").predictor_container["ports"]
    assert all_of("predictor", "EXPOSE") == [str(port["containerPort"])]


@pytest.mark.parametrize("program", PROGRAMS)
def test_dependencies_come_from_the_hashed_lock_file_only(program: str) -> None:
    assert f"LOCK=requirements/{program}.lock" in all_of(program, "ARG")
    installs = [rest for rest in all_of(program, "RUN") if "pip install" in rest]
    from_lock, *others = installs
    assert "--require-hashes" in from_lock
    assert all("--no-deps" in install for install in installs)
    # Only the CPU build of torch, on request: its hash differs between builds.
    assert all(install.startswith('if [ -n "${TORCH}" ]') for install in others)


def test_the_builder_has_a_compiler_where_a_package_has_no_wheel() -> None:
    """On arm64; the final stage has none unless it is requested."""
    runs = all_of("predictor", "RUN")
    (compiler,) = [rest for rest in runs if "gcc" in rest]
    (install,) = [rest for rest in runs if "--require-hashes" in rest]

    assert compiler.startswith('if [ "$(uname -m)" = aarch64 ]; then ')
    assert runs.index(compiler) < runs.index(install)
    assert compiler not in [item.rest for item in final_stage("predictor")]


@pytest.mark.parametrize("program", PROGRAMS)
def test_only_the_final_stage_compiles(program: str) -> None:
    installs = [rest for rest in all_of(program, "RUN") if "pip install" in rest]
    assert all("--no-compile" in install for install in installs)
    final = [item for item in final_stage(program) if item.keyword == "RUN"]
    assert compile_commands(program) == [item.rest for item in final if "compileall" in item.rest]


@pytest.mark.parametrize("program", PROGRAMS)
def test_all_python_is_compiled_after_it_is_copied(program: str) -> None:
    compiled: set[str] = set()
    for item in reversed(final_stage(program)):
        if "compileall" in item.rest:
            compiled |= {word.rstrip("/") for word in shlex.split(item.rest)}
        elif item.keyword == "COPY" and "demo/model/" not in item.rest:
            assert item.rest.split()[-1].rstrip("/") in compiled, item.rest


@pytest.mark.parametrize("program", PROGRAMS)
def test_bytecode_stays_valid_when_modification_times_change(program: str, tmp_path: Path) -> None:
    folders = ["stdlib", "venv/lib/python3.11/site-packages/package"]
    folders += [f"app/{folder}" for folder in (program, *SHARED[program])]
    sources = [tmp_path / folder / "module.py" for folder in folders]
    for source in sources:
        source.parent.mkdir(parents=True)
        source.write_text("NUMBER = 1\n")
        # As from an earlier stage or the base image: valid now, stale after a copy.
        py_compile.compile(str(source), invalidation_mode=py_compile.PycInvalidationMode.TIMESTAMP)
    # torch ships a file like this for newer Pythons.
    (sources[1].parent / "newer_python.py").write_text("def")

    for command in compile_commands(program):
        run_in(tmp_path, command)
    for source in sources:
        os.utime(source, (1, 1))  # image builders may round modification times

    for source in sources:
        assert BytecodeOnly("module", str(source)).get_code("module") is not None


@pytest.mark.parametrize("lock", LOCKS)
def test_the_lock_file_has_hashes(lock: str) -> None:
    assert "--hash=sha256:" in (ROOT / "requirements" / lock).read_text("utf-8")


def test_the_build_context_allows_only_copied_files() -> None:
    lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    allowed = {pattern[1:].rstrip("/") for pattern in patterns if pattern.startswith("!")}
    copied = {folder for program in PROGRAMS for folder in copied_folders(program)}
    assert patterns[0] == "*"
    assert allowed == copied | {"requirements"}
