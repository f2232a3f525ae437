"""The Helm chart renders, by Helm's own library, to what Kubernetes takes and what is promised."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from api import __version__
from tests.acceptance.process import ROOT
from tests.deploy.conftest import tool

CHART = ROOT / "deploy/helm/threadwell"
#: The oldest that the chart asks for, and the newest that the tool knows.
KUBERNETES = ("1.29", "1.37")
SECRET = {"existingSecret": "of-mine"}


def render(version: str = KUBERNETES[-1], **values: Any) -> Any:
    command = [tool("python"), str(Path(__file__).parent / "validate.py"), "helm", str(CHART)]
    done = subprocess.run(
        command,
        input=json.dumps({"kubernetesVersion": version, **values}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(done.stderr)
    return json.loads(done.stdout)


def found(rendered: Any, kind: str, name: str = "") -> Any:
    [one] = [
        manifest
        for manifest in rendered["manifests"]
        if manifest["kind"] == kind and manifest["metadata"]["name"].endswith(name)
    ]
    return one


@pytest.mark.parametrize("version", KUBERNETES)
def test_everything_that_can_be_set_renders_to_valid_manifests(version: str) -> None:
    whole = {
        **SECRET,
        "imagePullSecrets": [{"name": "pull"}],
        "image": {"repository": "registry.example/threadwell", "tag": "1"},
        "worker": {"replicas": 3, "podAnnotations": {"a": "b"}},
        "ingress": {"enabled": True, "host": "chat.example", "tlsSecret": "tls"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "environment": {"LOG_LEVEL": "debug", "N_JOBS_PER_WORKER": "10"},
    }

    rendered = render(version, **whole)

    assert rendered["lint"] == []
    assert sorted(manifest["kind"] for manifest in rendered["manifests"]) == [
        "Deployment", "Deployment", "Ingress", "Job", "PodDisruptionBudget", "Service",
    ]  # fmt: skip
    [server] = found(rendered, "Deployment", "-server")["spec"]["template"]["spec"]["containers"]
    assert server["args"] == ["serve", "--workers", "0"]
    assert {"name": "LOG_LEVEL", "value": "debug"} in server["env"]
    assert server["image"] == "registry.example/threadwell:1"


def test_a_process_is_replaced_after_the_next_one_is_ready_and_has_time_to_drain() -> None:
    rendered = render(**SECRET, graceSeconds=100)
    spec = found(rendered, "Deployment", "-server")["spec"]
    pod = spec["template"]["spec"]
    [container] = pod["containers"]

    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"
    assert container["livenessProbe"]["httpGet"]["path"] == "/ok"
    assert {"name": "BG_JOB_SHUTDOWN_GRACE_PERIOD_SECS", "value": "100"} in container["env"]
    assert pod["terminationGracePeriodSeconds"] == 130
    hook = found(rendered, "Job", "-migrate")["metadata"]["annotations"]
    assert hook["helm.sh/hook"] == "pre-install,pre-upgrade"


def test_no_container_is_root_or_can_become_it_or_writes_to_its_image() -> None:
    rendered = render(**SECRET, worker={"replicas": 1})
    pods = [
        manifest["spec"]["template"]["spec"]
        for manifest in rendered["manifests"]
        if manifest["kind"] in ("Deployment", "Job")
    ]

    assert len(pods) == 3
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        [container] = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["envFrom"] == [{"secretRef": {"name": "of-mine"}}]
        assert container["image"] == f"threadwell:{__version__}"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "existingSecret"),
        ({**SECRET, "server": {"replicas": -1}}, "replicas"),
        ({**SECRET, "environment": {"LOG_JSON": True}}, "LOG_JSON"),
        ({**SECRET, "sever": {}}, "sever"),
        ({**SECRET, "ingress": {"enabled": True}}, "ingress.host is needed"),
    ],
)
def test_wrong_values_are_refused_in_words(values: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        render(**values)


def test_the_selectors_find_the_pods() -> None:
    rendered = render(**SECRET, worker={"replicas": 1})
    server, worker = (found(rendered, "Deployment", name) for name in ("-server", "-worker"))
    selector = found(rendered, "Service")["spec"]["selector"].items()

    assert selector <= server["spec"]["template"]["metadata"]["labels"].items()
    assert not selector <= worker["spec"]["template"]["metadata"]["labels"].items()
    for one in (server, worker):
        matched = one["spec"]["selector"]["matchLabels"].items()
        assert matched <= one["spec"]["template"]["metadata"]["labels"].items()


def test_what_the_page_sets_is_a_value_of_the_chart() -> None:
    page = (ROOT / "docs/deployment.md").read_text("utf-8")
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    [command] = re.findall(r"^helm install .*$", page, re.MULTILINE)
    named = re.findall(r"--set ([\w.]+)=", command)

    # Without a tag it would be the chart's version, which nobody builds by the page's commands.
    assert {"existingSecret", "image.repository", "image.tag"} <= set(named)
    for name in named:
        section, _, key = name.partition(".")
        assert key in values[section] if key else section in values, name
