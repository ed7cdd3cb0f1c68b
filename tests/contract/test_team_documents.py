"""The pages for platform teams: their values render, and their commands and names exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import helm_python
import pytest
import yaml

from deploy.settings import read_verb as read_deploy_verb
from downloader.cli import read_verb as read_downloader_verb
from predictor.settings import Settings
from tests.chart.rendering import CHART, ROOT, Object, Rendered, UniqueKeyLoader, render

PAGES = {
    name: (ROOT / "docs" / f"{name}.md").read_text("utf-8")
    for name in (
        *("air-gap", "cost", "gateway", "gitops", "gpus", "install", "openshift", "rollout"),
        *("upgrading", "volumes"),
    )
}
VALUES = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
# The upgrade notes name values that no longer exist.
FORMER = {"predictor.containerConcurrency"}


class Block(NamedTuple):
    """A fenced block of a page, without its indentation."""

    page: str
    language: str
    text: str

    @property
    def title(self) -> str:
        """The name of the file that the first line gives, such as `mig-values.yaml`."""
        found = re.match(r"# (\S+\.yaml)\n", self.text)
        return found[1] if found else ""


def blocks(language: str) -> list[Block]:
    found = [
        Block(page, match[2], textwrap.dedent(match[3]))
        for page, text in PAGES.items()
        for match in re.finditer(r"^( *)```(\w+)\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    ]
    return [block for block in found if block.language == language]


CALL = re.compile(r"python -m (?:downloader|deploy)\b.*")
SNIPPETS = {block.title: block for block in blocks("yaml") if "values" in block.title}
SCRIPTS = blocks("sh")


def exists(key: str) -> bool:
    """Whether the chart has the value or the predictor the setting; below `{}` any key is fine."""
    if key.startswith("predictor.settings."):
        return key.removeprefix("predictor.settings.") in Settings.model_fields
    node: Any = VALUES
    for part in key.split("."):
        if not isinstance(node, dict) or (node and part not in node):
            return False
        node = node.get(part, {})
    return True


def values_of(title: str) -> Object:
    return helm_python.values_from_yaml(SNIPPETS[title].text)


def merged(*parts: Mapping[str, Any]) -> Object:
    """Values in the order of Helm's flags; the later ones win."""
    result: Object = {}
    for part in parts:
        for key, value in part.items():
            below = result.get(key)
            both = isinstance(value, dict) and isinstance(below, dict)
            result[key] = merged(below, value) if both else value
    return result


def logical_lines(script: str) -> Iterator[str]:
    yield from re.sub(r"\\\n\s*", "", script).splitlines()


def helm_commands() -> Iterator[tuple[str, str]]:
    """The page and the text of each command that renders this chart."""
    for block in SCRIPTS:
        for line in logical_lines(block.text):
            is_ours = re.search(r" (helm/|stable-diffusion-\d[\w.-]*\.tgz)( |$)", line)
            if re.match(r"helm (install|upgrade|template) ", line) and is_ours:
                yield block.page, line


def program_commands() -> Iterator[tuple[str, str]]:
    """Each call of our two programs, in scripts and in the prose."""
    for page, text in PAGES.items():
        prose = re.sub(r"(?sm)^ *```.*?^ *```", "", text)
        prose = re.sub(r"\s+", " ", prose)
        quoted = re.findall(r"`(python -m (?:downloader|deploy)\b[^`]*)`", prose)
        scripts = [block.text for block in SCRIPTS if block.page == page]
        lines = [line for script in scripts for line in logical_lines(script)]
        called = [found[0] for line in lines for found in CALL.finditer(line)]
        yield from ((page, command) for command in [*quoted, *called])


def words(command: str) -> list[str]:
    """The words of a command, up to a pipe or a redirection."""
    found = shlex.split(command, comments=True)
    ends = [place for place, word in enumerate(found) if word in {"|", ">", "&&"}]
    return found[: min(ends, default=len(found))]


def test_the_pages_have_snippets_and_commands() -> None:
    assert len(SNIPPETS) == len([block for block in blocks("yaml") if "values" in block.title])
    assert len(SNIPPETS) >= 20
    assert len(list(helm_commands())) >= 15
    assert {command.split()[2] for _, command in program_commands()} == {"downloader", "deploy"}


@pytest.mark.parametrize("title", SNIPPETS)
def test_the_values_render(title: str) -> None:
    assert render(values_of(title)).predictors


@pytest.mark.parametrize(("page", "command"), list(helm_commands()))
def test_the_helm_commands_render(page: str, command: str) -> None:
    given: list[Mapping[str, Any]] = []
    arguments = iter(words(command)[2:])
    for word in arguments:
        if word == "--values":
            name = next(arguments)
            if name in SNIPPETS:
                assert SNIPPETS[name].page == page
                given.append(values_of(name))
            elif name != "values.yaml":  # written by `helm get values`
                given.append(helm_python.values_from_yaml((ROOT / name).read_text("utf-8")))
        elif word == "--set":
            expression = next(arguments)
            assert exists(expression.partition("=")[0]), page
            given.append(helm_python.parse_set_string(expression))

    assert render(merged(*given)).predictors


@pytest.mark.parametrize(("page", "command"), list(program_commands()))
def test_our_programs_accept_the_arguments(page: str, command: str) -> None:
    _, _, program, *arguments = words(command)
    read = {"downloader": read_downloader_verb, "deploy": read_deploy_verb}[program]

    assert read(arguments), page


def test_the_shell_parses_every_script() -> None:
    for block in SCRIPTS:
        done = subprocess.run(
            ["bash", "-n"], input=block.text, text=True, capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), block


def test_no_script_copies_the_root_of_a_folder_into_a_volume() -> None:
    """tar would set its mode, which the user of the pod may not change on the volume's root."""
    lines = [line for block in SCRIPTS for line in logical_lines(block.text)]
    calls = [words(line) for line in lines if line.startswith("tar ")]

    assert calls
    assert [call for call in calls if "." in call] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_value_that_a_page_names_exists(page: str) -> None:
    sections = "|".join(VALUES)
    named = set(re.findall(rf"`((?:{sections})\.[\w.]*\w)(?:[:=][^`]*)?`", PAGES[page]))

    assert {key for key in named - FORMER if not exists(key)} == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_path_and_target_that_a_page_names_exists(page: str) -> None:
    paths = re.findall(r"(?<![\w/.])((?:examples|manifests|requirements)/[\w./-]*\w)", PAGES[page])
    targets = re.findall(r"`make ([a-z-]+)", PAGES[page])
    for block in SCRIPTS:
        targets += re.findall(r"(?m)^make ([a-z-]+)", block.text) if block.page == page else []
    makefile = (ROOT / "Makefile").read_text("utf-8")

    assert [path for path in paths if not (ROOT / path).exists()] == []
    assert [one for one in targets if f"\n{one}:" not in makefile] == []


def test_the_objects_that_the_pages_name_exist() -> None:
    rendered = render()
    names = {item["metadata"]["name"] for item in [*rendered.objects, *rendered.hooks]}
    # KServe creates these, and another branch the route.
    names |= {"stable-diffusion-predictor", "stable-diffusion-canary-predictor"}
    names |= {"stable-diffusion-route"}
    kinds = "inferenceservices?|pvc|pod|httproutes?|service|serviceaccount"
    named = {
        name
        for block in SCRIPTS
        for name in re.findall(rf"\b(?:{kinds})[/ ](stable-diffusion[\w-]*)", block.text)
    }

    assert named
    assert named <= names


def manifests() -> Iterator[Object]:
    """The objects in the pages that are not values, and in the folders that the pages use."""
    texts = [block.text for block in blocks("yaml") if "values" not in block.title]
    for folder in ("gateway", "gitops", "volumes"):
        paths = sorted((ROOT / "examples" / folder).rglob("*.yaml"))
        texts += [path.read_text("utf-8") for path in paths if path.stem != "kustomization"]
    for text in texts:
        yield from yaml.load_all(text, UniqueKeyLoader)


def test_every_manifest_is_an_object() -> None:
    found = list(manifests())

    assert {"Application", "Gateway", "HelmRelease", "Job", "PersistentVolume"} <= {
        item["kind"] for item in found
    }
    for item in found:
        assert item["apiVersion"]
        assert item["metadata"]["name"]


def security_contexts(rendered: Rendered) -> list[Object]:
    """Those of all pods and containers."""
    jobs = [item["spec"]["template"]["spec"] for item in rendered.all_of("Job")]
    pods = [*jobs, *rendered.predictors.values(), *(item["spec"] for item in rendered.hooks)]
    containers = [container for pod in pods for container in pod["containers"]]
    return [one["securityContext"] for one in [*pods, *containers] if "securityContext" in one]


def test_openshift_may_assign_all_users_and_groups() -> None:
    rendered = render(values_of("openshift-values.yaml"))
    contexts = security_contexts(rendered)

    assert len(contexts) >= 4
    for context in contexts:
        assert context.keys().isdisjoint({"runAsUser", "runAsGroup", "fsGroup"})
    assert {context["seccompProfile"]["type"] for context in contexts} == {"RuntimeDefault"}
    policy = rendered.named("NetworkPolicy", "stable-diffusion-downloader")
    ports = [port for rule in policy["spec"]["egress"] for port in rule["ports"]]
    assert {"port": 5353, "protocol": "UDP"} in ports


@pytest.mark.parametrize("title", ["mig-values.yaml", "amd-values.yaml"])
def test_another_device_replaces_the_gpu(title: str) -> None:
    limits = render(values_of(title)).predictor_container["resources"]["limits"]

    assert "nvidia.com/gpu" not in limits
    assert [name for name in limits if "/" in name]


def test_the_users_of_the_volume_jobs_are_those_of_the_chart() -> None:
    user = render().downloader_container["securityContext"]["runAsUser"]
    group = render().downloader_pod["securityContext"]["fsGroup"]
    pods = [
        item["spec"]["template"]["spec"] if item["kind"] == "Job" else item["spec"]
        for item in manifests()
        if item["kind"] in {"Job", "Pod"}
    ]

    assert len(pods) == 2
    for pod in pods:
        assert pod["securityContext"]["runAsUser"] == user
        assert pod["securityContext"]["fsGroup"] == group
        if arguments := pod["containers"][0].get("args"):
            assert read_downloader_verb(arguments)
