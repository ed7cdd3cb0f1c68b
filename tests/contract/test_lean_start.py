"""What a process imports before its port opens and before it is ready; imports are most of a start.

A change that needs more raises a bound here on purpose, or imports later.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from predictor.checkpoint.checkpoint import Checkpoint
from predictor.loading.pipeline import load_pipeline
from predictor.pipelines.tasks import COMMON_FAMILIES, listed_pipelines
from predictor.settings import Settings
from tests.predictor.random_adapters import write_adapter

ROOT = Path(__file__).resolve().parent.parent.parent
# Modules when the port opens and when a Stable Diffusion model is loaded, as measured plus 2 %.
MOST_AT_THE_PORT = 1_880
MOST_WHEN_READY = 4_350
# Packages of the developers that libraries import if they find them; images do not have them.
DEVELOPERS = {"boto3", "botocore", "s3transfer", "jmespath", "crt", "matplotlib", "pytest"}

# What each of the packages that are postponed consists of, apart from its placeholder.
POSTPONED = {
    *("torch._dynamo.convert_frame", "torch._inductor.config"),
    *("scipy.stats._stats_py", "scipy.integrate._quadrature"),
}

# The same steps as ``predictor.__main__`` and the server, then a request, and then whatever uses a
# placeholder.
PROGRAM = """
import asyncio, json, sys
from predictor.__main__ import import_modules, parse_arguments
settings, _ = parse_arguments([f"--model_dir={sys.argv[1]}", "--max_lanes=2"])
import_modules("predictor.edge.server")
from predictor.edge.model import DiffusionModel
from predictor.loading.loader import ModelLoader
from predictor.residency import Residency
lists = [sorted(sys.modules)]
residency = Residency(
    ModelLoader(settings, is_bounded=False), max_wait_seconds=60, max_waiters=1
)
residency.add("m", settings.model_dir)
body = b'{"instances": [{"prompt": "a circle", "parameters": {"num_inference_steps": 2}}]}'

async def serve():
    await residency.prepare()
    await residency.preload(["m"])
    lists.append(sorted(sys.modules))
    answer = await DiffusionModel("m", settings, residency).predict(body, {})
    assert json.loads(answer)["predictions"]
    lists.append(sorted(sys.modules))

asyncio.run(serve())
residency.close()
import scipy, torch
from torch._dynamo.utils import counters
compiled = torch.compile(lambda number: number + 1, backend="eager")
assert compiled(torch.ones(1)).item() == 2
assert isinstance(torch.compile(torch.nn.Identity()), torch._dynamo.OptimizedModule)
assert scipy.stats.beta.ppf(0.5, 1, 1) == 0.5
lists.append(sorted(sys.modules))
json.dump(lists, sys.stdout)
"""

# Requests that need more than a prompt, each with the thread of every module that it imports.
LATER_PROGRAM = """
import asyncio, json, sys, threading
from predictor.__main__ import import_modules, parse_arguments
settings, _ = parse_arguments([f"--model_dir={sys.argv[1]}", "--max_lanes=2"])
import_modules("predictor.edge.server")
from predictor.edge.model import DiffusionModel
from predictor.intake.pool import READERS
from predictor.loading.loader import ModelLoader
from predictor.residency import Residency
residency = Residency(
    ModelLoader(settings, is_bounded=False), max_wait_seconds=60, max_waiters=1
)
residency.add("m", settings.model_dir)

class Watch:
    def __init__(self):
        self.threads = {}

    def find_spec(self, name, path, target=None):
        self.threads.setdefault(name, threading.current_thread().name)

async def serve():
    READERS.start()
    await residency.prepare()
    await residency.preload(["m"])
    watch = Watch()
    sys.meta_path.insert(0, watch)
    model = DiffusionModel("m", settings, residency)
    schedulers = residency["m"].loaded.profile.schedulers
    for request in [*({"scheduler": name} for name in schedulers), *json.load(sys.stdin)]:
        headers = {"accept": "text/event-stream"} if "previews" in request else {}
        body = {"prompt": "a circle", "num_inference_steps": 2} | request
        answer = await model.predict(json.dumps(body).encode(), headers)
        if "previews" in request:
            answer = [piece async for piece in answer]
            assert not any(b"event: error" in piece for piece in answer), answer
    return {name: thread for name, thread in watch.threads.items() if name in sys.modules}

found = asyncio.run(serve())
residency.close()
READERS.close()
json.dump(found, sys.stdout)
"""


class Imported(NamedTuple):
    """The modules when the port opens, when a model is ready, after a request, and later."""

    port: set[str]
    ready: set[str]
    served: set[str]
    later: set[str]


@pytest.fixture(scope="module")
def imported(demo_model: Path) -> Imported:
    """The modules of one process."""
    output = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(demo_model)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    return Imported(*map(_counted, json.loads(output)))


def _counted(modules: list[str]) -> set[str]:
    return {name for name in modules if name.split(".")[0] not in DEVELOPERS}


def test_the_port_opens_before_the_packages_of_the_model(imported: Imported) -> None:
    assert not {"torch", "diffusers", "transformers", "peft", "scipy"} & imported.port
    assert len(imported.port) <= MOST_AT_THE_PORT


def test_a_server_without_grpc_imports_none_of_its_modules(imported: Imported) -> None:
    assert {name for name in imported.ready if name.startswith("predictor.edge.grpc")} == set()


def test_a_model_is_ready_without_the_pipelines_of_other_families(imported: Imported) -> None:
    unneeded = {"diffusers.pipelines.auto_pipeline", "diffusers.models.controlnets.controlnet"}
    assert not unneeded & imported.ready
    # transformers imports these for losses and for models on several GPUs.
    assert not {"scipy.optimize", "torch.distributed.tensor"} & imported.ready
    assert len(imported.ready) <= MOST_WHEN_READY


def test_a_model_is_ready_without_a_compiler_and_the_rarer_noise_schedules(
    imported: Imported,
) -> None:
    assert POSTPONED & imported.ready == set()
    assert imported.later >= POSTPONED


def test_the_first_request_imports_nothing(imported: Imported) -> None:
    assert imported.served - imported.ready == set()


@pytest.fixture(scope="module")
def model_with_adapter(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with an adapter for its UNet and its text encoder."""
    folder = tmp_path_factory.mktemp("volume") / "model"
    shutil.copytree(demo_model.resolve(), folder)
    pipeline = load_pipeline(Checkpoint.read(demo_model), Settings()).diffusers
    write_adapter(
        pipeline, folder / "adapters" / "style", seed=0, components=("unet", "text_encoder")
    )
    return folder


def test_no_request_imports_a_module_on_the_event_loop_or_between_two_steps(
    model_with_adapter: Path,
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "white").save(file, "PNG")
    image = base64.b64encode(file.getvalue()).decode()
    requests: list[dict[str, object]] = [
        {"prompt": "a (red:1.2) circle", "clip_skip": 1, "guidance_rescale": 0.5},
        {"previews": 1},
        {"image": image, "strength": 0.9},
        {"image": image, "mask_image": image, "strength": 0.9},
        {"adapters": [{"name": "style"}]},
    ]

    output = subprocess.run(
        [sys.executable, "-c", LATER_PROGRAM, str(model_with_adapter)],
        input=json.dumps(requests).encode(),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    ).stdout

    found: dict[str, str] = json.loads(output)
    assert {name for name, thread in found.items() if thread in {"MainThread", "engine"}} == set()


def test_no_server_imports_what_the_image_lacks(imported: Imported) -> None:
    (removal,) = re.findall(r"find (.*) -type d -name tests", (ROOT / "Dockerfile").read_text())
    packages = set(removal.split())
    assert packages & {name.split(".")[0] for name in imported.ready}

    for name in imported.ready:
        package, *rest = name.split(".")
        assert not (package in packages and "tests" in rest), name
        assert not name.startswith("torch.test."), name
    (folder,) = re.findall(r"^ +(\w+)/aio \\$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert folder in imported.ready
    assert {name for name in imported.later if name.startswith(f"{folder}.aio")} == set()


def test_the_common_families_are_those_of_diffusers() -> None:
    for task, listed in listed_pipelines().items():
        for family, names in COMMON_FAMILIES.items():
            assert listed[family].__name__ == names[task]
