"""The documents match the code: tables are compared with it, and curl commands run."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from kserve.errors import ModelNotReady
from PIL import Image

from demo.judge import look_at
from demo.shapes import Scene
from hack import document_families, document_metrics, document_parameters
from hack.document_settings import documented
from predictor.edge.error_responses import STATUS
from predictor.pipelines.schedulers import OWN, scheduler_names
from predictor.protocol.body import Instance
from tests.serving import Server

ROOT = Path(__file__).resolve().parent.parent.parent
README = (ROOT / "README.md").read_text("utf-8")
SETTINGS = (ROOT / "docs" / "settings.md").read_text("utf-8")
TROUBLESHOOTING = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
CLIENTS = (ROOT / "docs" / "clients.md").read_text("utf-8")
API = (ROOT / "docs" / "api.md").read_text("utf-8")
MODELS = (ROOT / "docs" / "models.md").read_text("utf-8")
LOCAL = "http://127.0.0.1:8080"


def curl_blocks(document: str) -> list[str]:
    """The shell blocks with requests to ``make serve``."""
    blocks = re.findall(r"```sh\n(.*?)```", document, re.DOTALL)
    return [block for block in blocks if LOCAL in block]


def run_as_written(block: str, server: Server, folder: Path) -> str:
    return run_script(block.replace(LOCAL, server.url), folder)


def run_script(script: str, folder: Path) -> str:
    """What a script of requests prints; it may not fail."""
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    done = subprocess.run(
        ["bash", "-c", "set -eu\n" + script],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_settings_tables_match_the_code() -> None:
    assert documented(SETTINGS) == SETTINGS, "run `make manifests`"


def test_the_table_of_families_matches_the_code() -> None:
    assert document_families.documented(MODELS) == MODELS, "run `make manifests`"


def test_the_table_of_parameters_is_current() -> None:
    assert document_parameters.documented(API) == API, "run `make manifests`"


def test_the_table_of_metrics_is_current() -> None:
    assert document_metrics.documented(API) == API, "run `make manifests`"


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
    table = API.partition("### Parameters\n")[2].partition("\n### ")[0]
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE))))

    assert named == set(Instance.model_fields) - {"parameters"}


def test_the_parameter_table_names_every_scheduler() -> None:
    row = re.search(r"^\| `scheduler` .*$", API, re.MULTILINE)
    assert row

    names = scheduler_names(EulerDiscreteScheduler())
    assert set(re.findall(r"`(\w+)`", row[0])) == {"scheduler", "sampler", *names}
    assert OWN in names


def test_the_status_table_names_every_status() -> None:
    documented_statuses = {
        int(status) for status in re.findall(r"^\| (\d{3}) \|", API, re.MULTILINE)
    }

    # Those of the router and of the connection, which answer before any error is raised.
    others = {405, 408, 414, 431}
    assert documented_statuses == {int(status) for status in STATUS.values()} | others


@pytest.mark.parametrize(
    "block",
    [*curl_blocks(API), *curl_blocks(CLIENTS)],
    ids=lambda block: block.split("\n")[0][-60:],
)
def test_the_curl_commands_of_the_api_document_work_as_written(
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
        found = json.loads(answer.read_text())
        pictures = found.get("predictions") or found.get("images") or found["outputs"][0]["data"]
        assert len(pictures) == 2


def test_the_readmes_curl_commands_return_the_promised_pictures(
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


@pytest.mark.parametrize(
    "block",
    re.findall(r"```python\n(.*?)```", README + CLIENTS, re.DOTALL),
    ids=lambda block: block.split("\n")[0],
)
def test_the_python_code_of_the_documents_makes_pictures(
    block: str, server: Server, tmp_path: Path
) -> None:
    address = LOCAL.removeprefix("http://")
    code = block.replace(address, server.url.removeprefix("http://"))
    code = code.replace("127.0.0.1:8081", f"127.0.0.1:{server.grpc_port}")

    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert done.returncode == 0, done.stderr
    written = re.findall(r'open\("(\S+\.png)"', block)
    assert written
    for name in written:
        with Image.open(tmp_path / name) as opened:
            seen = look_at(opened.convert("RGB"))
        expected = "star" if name == "edited.png" else "circle"
        assert seen.shows(Scene("red", expected, "blue")), name


def test_the_links_of_the_documents_are_pictures(server: Server) -> None:
    links = set(re.findall(r'<img src="(http://127[^"]+)"', README + CLIENTS))

    assert links
    for link in links:
        answer = httpx.get(link.replace(LOCAL, server.url), timeout=60)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")


def test_no_link_in_a_document_is_broken() -> None:
    for document in tracked("*.md"):
        missing = [link for link in links(document) if not leads_somewhere(document, link)]
        assert missing == [], document.relative_to(ROOT)


def links(document: Path) -> list[str]:
    """The relative targets of inline and reference links."""
    text = without_code(document.read_text("utf-8"))
    inline = re.findall(r"\]\(([^)\s]+)", text)
    references = re.findall(r"^\[[^]]+\]: (\S+)", text, re.MULTILINE)
    return [link for link in inline + references if not link.startswith(("http://", "https://"))]


def leads_somewhere(document: Path, link: str) -> bool:
    path, _, anchor = link.partition("#")
    target = document.parent / path if path else document
    return target.exists() and (not anchor or anchor in anchors(target))


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub derives from the headings."""
    headings = re.findall(r"^#+ (.+)$", without_code(document.read_text("utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def test_the_index_names_every_document() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {Path(link).name for link in links(index) if "/" not in link}

    assert listed == {path.name for path in tracked("docs/*.md")} - {index.name}


def test_every_error_in_the_troubleshooting_guide_exists_in_the_code() -> None:
    said = texts("predictor/*.py", "downloader/*.py", "modelstore/*.py", "deploy/*.py")
    # From KServe.
    said.add(str(ModelNotReady("stable-diffusion")))
    headings = re.findall(r"^### `(.+)`$", TROUBLESHOOTING, re.MULTILINE)

    assert len(headings) >= 10
    for heading in headings:
        parts = [part.strip() for part in heading.split("…") if part.strip()]
        assert any(all(part in text for part in parts) for text in said), heading


def texts(*patterns: str) -> set[str]:
    """Every string in the code; of the values in f-strings, only named constants."""
    paths = [path for pattern in patterns for path in tracked(pattern)]
    nodes = [node for path in paths for node in ast.walk(ast.parse(path.read_text("utf-8")))]
    constants = {
        target.id: node.value.value
        for node in nodes
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }

    def text(node: ast.AST) -> str:
        match node:
            case ast.Constant(value=str(value)):
                return value
            case ast.JoinedStr(values=values):
                return "".join(map(text, values))
            case ast.FormattedValue(value=ast.Name(id=name)):
                return str(constants.get(name, ""))
        return ""

    return {text(node) for node in nodes}


def tracked(pattern: str) -> list[Path]:
    """The tracked files that match; a star also matches slashes."""
    found = subprocess.run(
        ["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in found.stdout.splitlines()]


def test_the_repository_map_names_every_folder() -> None:
    paths = [path.relative_to(ROOT).parts for path in tracked("*")]
    folders = {path[0] for path in paths if len(path) > 1 and not path[0].startswith(".")}
    named = set(re.findall(r"^(\w+)/ ", README, re.MULTILINE))

    assert folders <= named
