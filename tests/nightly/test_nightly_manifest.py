"""The Kubernetes manifest: known field names, and pods that fit the pool that the job asks for."""

from __future__ import annotations

import copy
import re
import shlex
from typing import Any

import jsonschema
import pytest
import yaml

from cambox.config import EngineSettings
from cambox.config_file import load_config
from cambox.engines.sizing import Pool, size_pool
from makers import ROOT

REPOSITORY = ROOT
# What the excerpt cannot check is said at its head.
SCHEMA = yaml.safe_load((REPOSITORY / "tests/schemas/raycronjob-v1.yaml").read_text())


@pytest.fixture
def manifest() -> dict[str, Any]:
    document = yaml.safe_load((REPOSITORY / "configs/kubernetes/nightly.yaml").read_text())
    assert isinstance(document, dict)
    return document


def test_the_manifest_has_only_published_fields(manifest: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.Draft202012Validator(SCHEMA).validate(manifest)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "concurrencyPolicy"], "Forbid"),
        (["spec", "jobTemplate", "spec"], {}),
        (["spec", "jobTemplate", "backoffLimit"], "1"),
        (["spec", "jobTemplate", "rayClusterSpec", "headGroupSpec", "rayStartParams"], {"a": 1}),
        (["spec", "jobTemplate", "rayClusterSpec", "workerGroupSpecs", 0, "replica"], 4),
        (["spec", "jobTemplate", "rayClusterSpec", "authOptions", "mode"], "password"),
    ],
)
def test_the_schema_refuses_what_the_operator_does_not_know(
    manifest: dict[str, Any], path: list[Any], value: object
) -> None:
    wrong = copy.deepcopy(manifest)
    place: Any = wrong
    for part in path[:-1]:
        place = place[part]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, SCHEMA)


def test_the_pods_fit_the_pool_that_the_job_asks_for(manifest: dict[str, Any]) -> None:
    job = manifest["spec"]["jobTemplate"]
    cluster = job["rayClusterSpec"]
    head = {"CPU": float(cluster["headGroupSpec"]["rayStartParams"]["num-cpus"])}
    (group,) = cluster["workerGroupSpecs"]
    (worker,) = group["template"]["spec"]["containers"]
    resources = worker["resources"]
    assert resources["requests"] == resources["limits"]
    pod = {
        "CPU": float(resources["limits"]["cpu"]),
        "GPU": float(resources["limits"]["nvidia.com/gpu"]),
        # Of what a node has Ray offers a part.
        "memory": 0.7 * float(resources["limits"]["memory"].removesuffix("Gi")) * 2**30,
    }
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    nodes = [
        {"NodeID": str(number), "Alive": True, "Resources": node}
        for number, node in enumerate([head, *[pod] * group["replicas"]])
    ]
    # The driver has taken its own CPU from the head before the pool is sized.
    free = sum(node["Resources"]["CPU"] for node in nodes) - job["entrypointNumCpus"]

    settings = load_config(REPOSITORY / "configs/nightly.yaml", overrides(job["entrypoint"])).engine
    assert settings.name == "ray"
    # Four on each GPU, which share its pod's eight CPUs.
    assert (pod["GPU"], pod["CPU"]) == (1.0, 8.0)
    expected = Pool.of_one_size(4 * group["replicas"], 0.25, 2.0, 2)
    assert size_pool(settings, nodes, {"CPU": free}) == expected
    # What is said in the entrypoint is what the pool would be anyway once all pods are there ...
    assert size_pool(EngineSettings(name="ray"), nodes, {"CPU": free}) == expected
    # ... and stays so when they are not.
    assert size_pool(settings, nodes[:1], {"CPU": 0.0}) == expected
    assert head["CPU"] - job["entrypointNumCpus"] < expected.spare.cpus


def overrides(entrypoint: str) -> list[str]:
    """The --set values of the command; the config map holds configs/nightly.yaml under its name."""
    words = shlex.split(entrypoint)
    assert words[:3] == ["cambox", "nightly", "/etc/cambox/nightly.yaml"]
    assert words[3::2] == ["--set"] * (len(words[3:]) // 2)
    return words[4::2]


def test_the_manifest_agrees_with_the_repository(manifest: dict[str, Any]) -> None:
    job = manifest["spec"]["jobTemplate"]
    (pinned,) = re.findall(r"^ray==(.+)$", (REPOSITORY / "constraints.txt").read_text(), re.M)
    assert job["rayClusterSpec"]["rayVersion"] == pinned
    head = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (volume,) = head["volumes"]
    (mount,) = head["containers"][0]["volumeMounts"]
    assert (mount["name"], mount["mountPath"]) == (volume["name"], "/etc/cambox")
    text = (REPOSITORY / "configs/kubernetes/nightly.yaml").read_text()
    assert (
        f"create configmap {volume['configMap']['name']} --from-file=configs/nightly.yaml" in text
    )
    # RayCronJob starts the next night whether or not this one has ended.
    assert job["activeDeadlineSeconds"] < 24 * 60 * 60
    assert job["shutdownAfterJobFinishes"] is True
