"""The documents say what the code does: tables are compared, curl lines are run."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from PIL import Image

from demo.judge import look_at
from demo.shapes import Scene
from hack import document_families
from hack.document_settings import documented
from predictor.edge.error_responses import STATUS
from predictor.pipelines.schedulers import OWN, scheduler_names
from predictor.protocol.fields import Instance
from tests.serving import Server

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")
API = (ROOT / "docs" / "api.md").read_text("utf-8")
MODELS = (ROOT / "docs" / "models.md").read_text("utf-8")
LOCAL = "http://127.0.0.1:8080"


def curl_blocks(document: str) -> list[str]:
    """The shell blocks that talk to ``make serve``."""
    blocks = re.findall(r"```sh\n(.*?)```", document, re.DOTALL)
    return [block for block in blocks if LOCAL in block]


def run_as_written(block: str, server: Server, folder: Path) -> str:
    if shutil.which("curl") is None:
        pytest.skip("there is no curl on this machine")
    script = "set -eu\n" + block.replace(LOCAL, server.url)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_settings_tables_are_those_of_the_code() -> None:
    assert documented(README) == README, "run `make manifests`"


def test_the_table_of_families_is_that_of_the_code() -> None:
    assert document_families.documented(MODELS) == MODELS, "run `make manifests`"


def test_the_models_document_names_every_flow_scheduler() -> None:
    section = MODELS.partition("## Schedulers")[2]
    listed = {
        model: tuple(re.findall(r"`(\w+)`", names.partition(";")[0]))
        for model, names in re.findall(r"^\| ([^|]+) \| (`[^|]*) \|$", section, re.MULTILINE)
    }
    shifting = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    constant = FlowMatchEulerDiscreteScheduler()

    assert listed == {
        "LCM": ("lcm", OWN),
        "SD3, SD 3.5": scheduler_names(constant),
        "FLUX dev": scheduler_names(shifting, always_shifts=True),
        "FLUX schnell": scheduler_names(constant, always_shifts=True),
        "unknown": (OWN,),
    }


def test_the_parameter_table_names_every_parameter() -> None:
    table = README.partition("## Parameters of a request")[2].partition("## ")[0]
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))))

    assert named == set(Instance.model_fields) - {"parameters"}


def test_the_parameter_table_names_every_scheduler() -> None:
    row = re.search(r"^\| `scheduler` .*$", README, re.MULTILINE)
    assert row

    names = scheduler_names(EulerDiscreteScheduler())
    assert set(re.findall(r"`(\w+)`", row[0])) == {"scheduler", *names}
    assert OWN in names


def test_the_status_table_names_every_status() -> None:
    documented_statuses = {
        int(status) for status in re.findall(r"^\| (\d{3}) \|", API, re.MULTILINE)
    }

    assert documented_statuses == {int(status) for status in STATUS.values()}


@pytest.mark.parametrize("block", curl_blocks(API), ids=lambda block: block.split("\n")[0][-60:])
def test_the_curl_lines_of_the_interface_work_as_written(
    block: str, server: Server, tmp_path: Path
) -> None:
    printed = run_as_written(block, server, tmp_path)

    promised = re.search(r"^# (\{.*\})$", block, re.MULTILINE)
    if promised:
        assert json.loads(printed) == json.loads(promised[1])
    for picture in [*tmp_path.glob("*.png"), *tmp_path.glob("*.webp")]:
        with Image.open(picture) as opened:
            assert opened.format == picture.suffix[1:].upper()
    for answer in tmp_path.glob("*.json"):
        assert len(json.loads(answer.read_text())["predictions"]) == 2


def test_the_readmes_curl_lines_bring_the_pictures_that_they_promise(
    server: Server, tmp_path: Path
) -> None:
    for block in curl_blocks(README):
        run_as_written(block, server, tmp_path)

    with Image.open(tmp_path / "star.png") as star:
        seen = look_at(star)
    predictions = json.loads((tmp_path / "answer.json").read_text())["predictions"]
    assert seen.shows(Scene("yellow", "star", "purple"))
    assert [one["prompt"] for one in predictions] == [
        "a red circle on a blue background",
        "a white square on a green background",
    ]


def test_every_file_that_a_document_links_to_is_there() -> None:
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]:
        links = re.findall(r"\]\((?!https?://|#)([^)#\s]+)", document.read_text("utf-8"))
        missing = [link for link in links if not (document.parent / link).exists()]
        assert missing == [], document.name


def test_the_repository_map_names_every_folder() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\n")
    folders = {path.split("/")[0] for path in tracked if "/" in path and not path.startswith(".")}
    named = set(re.findall(r"^(\w+)/ ", README, re.MULTILINE))

    assert folders <= named
