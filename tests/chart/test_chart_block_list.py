"""The block list in the predictor's pod: from a ConfigMap, and changed with it."""

from __future__ import annotations

from .rendering import plain_env, render

LIST = {"blockList": {"configMap": "team-terms", "key": "terms.txt"}}


def test_without_a_config_map_there_is_no_list() -> None:
    predictor = render().predictor

    assert [volume["name"] for volume in predictor["volumes"]] == ["scratch"]
    assert "PREDICTOR_BLOCK_LIST_FILE" not in plain_env(render().predictor_container)


def test_the_config_map_is_mounted_so_that_its_changes_arrive() -> None:
    rendered = render({"predictor": LIST})
    mounts = {mount["name"]: mount for mount in rendered.predictor_container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in rendered.predictor["volumes"]}

    # The kubelet renews a mounted folder, and never a file mounted by subPath.
    assert mounts["block-list"] == {
        "name": "block-list",
        "mountPath": "/etc/predictor",
        "readOnly": True,
    }
    # Not optional: without its list the pod does not start.
    assert volumes["block-list"] == {"name": "block-list", "configMap": {"name": "team-terms"}}
    file = plain_env(rendered.predictor_container)["PREDICTOR_BLOCK_LIST_FILE"]
    assert file == "/etc/predictor/terms.txt"


def test_one_model_may_have_a_list_of_its_own() -> None:
    models = [
        {"name": "first", "source": "hf://owner/first", "predictor": LIST},
        {"name": "second", "source": "hf://owner/second"},
    ]
    first, second = render({"models": models}).predictors.values()

    assert "block-list" in str(first["volumes"])
    assert "block-list" not in str(second["volumes"])
