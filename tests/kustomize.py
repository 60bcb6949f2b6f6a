"""What `kustomize build` makes of deploy/kubernetes, as far as these files use it.

Names of generated ConfigMaps stay without the digest that kustomize appends. What is not known here is an error, so a
file that uses more of kustomize cannot pass for checked.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import yaml

Resource: TypeAlias = dict[str, Any]

CLUSTER_WIDE = ("Namespace",)
KNOWN = {
    *("apiVersion", "kind", "namespace", "resources", "components"),
    *("configMapGenerator", "patches", "images", "replicas"),
}
MERGE_KEYS = {"containers": "name", "env": "name", "volumes": "name", "volumeMounts": "mountPath"}
"""Lists whose entries are merged by this field; others are replaced, as Kubernetes says in its schemas."""


def build(folder: Path) -> list[Resource]:
    """All resources of a kustomization."""
    resources: list[Resource] = []
    _add(folder, resources)
    return resources


def _add(folder: Path, resources: list[Resource]) -> None:
    made: dict[str, Any] = yaml.safe_load((folder / "kustomization.yaml").read_text())
    unknown = made.keys() - KNOWN
    assert not unknown, f"{folder}: {unknown} is not known to tests/kustomize.py"
    own: list[Resource] = [] if made["kind"] == "Kustomization" else resources
    for name in made.get("resources", []):
        if (folder / name).is_dir():
            _add((folder / name).resolve(), own)
        else:
            own += _documents(folder / name)
    for name in made.get("components", []):
        _add((folder / name).resolve(), own)
    for generator in made.get("configMapGenerator", []):
        _generate(generator, own)
    for patch in made.get("patches", []):
        for document in _documents(folder / patch["path"]):
            _patch(document, own)
    for image in made.get("images", []):
        for container in containers(own):
            if container["image"] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
    for replicas in made.get("replicas", []):
        found = [each for each in own if each["metadata"]["name"] == replicas["name"] and "replicas" in each["spec"]]
        assert len(found) == 1, f"{folder}: {len(found)} resources have replicas and the name {replicas['name']}"
        found[0]["spec"]["replicas"] = replicas["count"]
    for each in own:
        if "namespace" in made and each["kind"] not in CLUSTER_WIDE:
            each["metadata"]["namespace"] = made["namespace"]
    if own is not resources:
        resources += own


def containers(resources: list[Resource]) -> Iterator[dict[str, Any]]:
    """Every container of every pod."""
    for each in resources:
        yield from each.get("spec", {}).get("template", {}).get("spec", {}).get("containers", [])


def _documents(path: Path) -> list[Resource]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


def _generate(generator: dict[str, Any], resources: list[Resource]) -> None:
    data = dict(literal.split("=", 1) for literal in generator["literals"])
    there = [each for each in resources if each["kind"] == "ConfigMap" and _name(each) == generator["name"]]
    if generator.get("behavior") == "merge":
        assert len(there) == 1, f"{generator['name']} is merged into {len(there)} maps"
        there[0]["data"] |= data
    else:
        assert not there, f"{generator['name']} is made twice"
        resources.append(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}
        )


def _patch(patch: Resource, resources: list[Resource]) -> None:
    found = [each for each in resources if (each["kind"], _name(each)) == (patch["kind"], _name(patch))]
    assert len(found) == 1, f"{patch['kind']} {_name(patch)} is there {len(found)} times"
    merged = _merged(found[0], patch, "")
    found[0].clear()
    found[0].update(merged)


def _merged(old: Any, new: Any, field: str) -> Any:
    """What a strategic merge makes of the two; what is null in the new one is gone."""
    if isinstance(old, dict) and isinstance(new, dict):
        merged = old | {key: _merged(old.get(key), value, key) for key, value in new.items()}
        return {key: value for key, value in merged.items() if value is not None}
    if isinstance(old, list) and isinstance(new, list) and field in MERGE_KEYS:
        key = MERGE_KEYS[field]
        result = {each[key]: copy.deepcopy(each) for each in old}
        for each in new:
            result[each[key]] = _merged(result.get(each[key]), each, "")
        return list(result.values())
    return copy.deepcopy(new)


def _name(resource: Resource) -> str:
    return str(resource["metadata"]["name"])
