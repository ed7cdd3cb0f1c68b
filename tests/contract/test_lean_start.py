"""What a process imports before its port opens and before it is ready; imports are most of a start.

A change that needs more raises a bound here on purpose, or imports later.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from predictor.pipelines.tasks import COMMON_FAMILIES, listed_pipelines

ROOT = Path(__file__).resolve().parent.parent.parent
# Modules when the port opens and when a Stable Diffusion model is loaded, as measured plus 2 %.
MOST_AT_THE_PORT = 1_870
MOST_WHEN_READY = 5_180
# Packages of the developers that libraries import if they find them; images do not have them.
DEVELOPERS = {"boto3", "botocore", "s3transfer", "jmespath", "crt", "matplotlib", "pytest"}

# The same steps as ``predictor.__main__`` and the loading thread.
PROGRAM = """
import json, sys
from predictor.__main__ import import_modules, parse_arguments
settings, _ = parse_arguments([f"--model_dir={sys.argv[1]}", "--max_lanes=2"])
import_modules("predictor.edge.server")
port = sorted(sys.modules)
from predictor.loading.loader import ModelLoader
loader = ModelLoader(settings, is_bounded=False)
loader.prepare()
loader.load(loader.read(settings.model_dir), lambda: None)
json.dump([port, sorted(sys.modules)], sys.stdout)
"""


@pytest.fixture(scope="module")
def imported(demo_model: Path) -> tuple[set[str], set[str]]:
    """The modules at the two moments."""
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(demo_model)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    port, ready = json.loads(output)
    return _counted(port), _counted(ready)


def _counted(modules: list[str]) -> set[str]:
    return {name for name in modules if name.split(".")[0] not in DEVELOPERS}


def test_the_port_opens_before_the_packages_of_the_model(
    imported: tuple[set[str], set[str]],
) -> None:
    port, _ = imported

    assert not {"torch", "diffusers", "transformers", "peft", "scipy"} & port
    assert len(port) <= MOST_AT_THE_PORT


def test_a_server_without_grpc_imports_none_of_its_modules(
    imported: tuple[set[str], set[str]],
) -> None:
    _, ready = imported

    assert {name for name in ready if name.startswith("predictor.edge.grpc")} == set()


def test_a_model_is_ready_without_the_pipelines_of_other_families(
    imported: tuple[set[str], set[str]],
) -> None:
    _, ready = imported

    unneeded = {"diffusers.pipelines.auto_pipeline", "diffusers.models.controlnets.controlnet"}
    assert not unneeded & ready
    assert len(ready) <= MOST_WHEN_READY


def test_no_server_imports_the_test_suites_that_the_image_lacks(
    imported: tuple[set[str], set[str]],
) -> None:
    (removal,) = re.findall(r"find (.*) -type d -name tests", (ROOT / "Dockerfile").read_text())
    packages = set(removal.split())
    assert packages & {name.split(".")[0] for name in imported[1]}

    for name in imported[1]:
        package, *rest = name.split(".")
        assert not (package in packages and "tests" in rest), name
        assert not name.startswith("torch.test."), name


def test_the_common_families_are_those_of_diffusers() -> None:
    for task, listed in listed_pipelines().items():
        for family, names in COMMON_FAMILIES.items():
            assert listed[family].__name__ == names[task]
