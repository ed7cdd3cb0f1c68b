"""The block list in the predictor's pod, which follows changes of its ConfigMap."""

from __future__ import annotations

from .rendering import plain_env, render

LIST = {"blockList": {"configMap": "team-terms", "key": "terms.txt"}}


def test_there_is_no_list_without_a_config_map() -> None:
    predictor = render().predictor

    assert [volume["name"] for volume in predictor["volumes"]] == ["scratch"]
    assert "PREDICTOR_BLOCK_LIST_FILE" not in plain_env(render().predictor_container)


def test_the_config_map_is_mounted_so_that_changes_take_effect() -> None:
    rendered = render({"predictor": LIST})
    mounts = {mount["name"]: mount for mount in rendered.predictor_container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in rendered.predictor["volumes"]}

    # The kubelet updates a mounted folder, but never a file that is mounted by subPath.
    assert mounts["block-list"] == {
        "name": "block-list",
        "mountPath": "/etc/predictor",
        "readOnly": True,
    }
    # Not optional: the pod must not start without its list.
    assert volumes["block-list"] == {"name": "block-list", "configMap": {"name": "team-terms"}}
    file = plain_env(rendered.predictor_container)["PREDICTOR_BLOCK_LIST_FILE"]
    assert file == "/etc/predictor/terms.txt"


def test_a_model_can_have_its_own_list() -> None:
    models = [
        {"name": "first", "source": "hf://owner/first", "predictor": LIST},
        {"name": "second", "source": "hf://owner/second"},
    ]
    first, second = render({"models": models}).predictors.values()

    assert "block-list" in str(first["volumes"])
    assert "block-list" not in str(second["volumes"])
