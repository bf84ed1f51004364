"""What stands in deploy/: units that systemd takes, a manifest of which every field exists, and both as the docs say.

There is no cluster here. The schema below is the part of Kubernetes' API (v1.29, core/v1 and apps/v1) that the manifest
uses, written out, and anything else is refused: a misspelt field is silently dropped by a cluster in some modes.
"""

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from llmshield.cli import build_app
from llmshield.egress import environment
from llmshield.policy import loads

DEPLOY = Path(__file__).parents[1] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
MANIFEST = DEPLOY / "kubernetes" / "sidecar.yaml"


def closed(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def array(of: Any, least: int = 1) -> dict[str, Any]:
    return {"type": "array", "items": of, "minItems": least}


TEXT, NUMBER, BOOL = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "boolean"}
NAME = {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(m|Ki|Mi|Gi)?$"}
LABELS = {"type": "object", "additionalProperties": TEXT}
META = closed(("name",), name=NAME, labels=LABELS)
PROBE = closed(("exec",), exec=closed(("command",), command=array(TEXT)), periodSeconds=NUMBER, timeoutSeconds=NUMBER,
               failureThreshold=NUMBER)  # fmt: skip
SECURITY = closed(
    ("runAsUser", "runAsGroup", "runAsNonRoot", "allowPrivilegeEscalation", "capabilities"),
    runAsUser=NUMBER, runAsGroup=NUMBER, runAsNonRoot=BOOL, allowPrivilegeEscalation=BOOL, readOnlyRootFilesystem=BOOL,
    capabilities=closed(("drop",), drop=array(TEXT), add=array(TEXT)),
    seccompProfile=closed(("type",), type={"enum": ["RuntimeDefault", "Localhost", "Unconfined"]}),
)  # fmt: skip
CONTAINER = closed(
    ("name", "image", "securityContext"),
    name=NAME, image=TEXT, command=array(TEXT), env=array(closed(("name", "value"), name=TEXT, value=TEXT)),
    restartPolicy={"const": "Always"}, securityContext=SECURITY, startupProbe=PROBE, readinessProbe=PROBE,
    resources=closed((), requests=closed((), cpu=QUANTITY, memory=QUANTITY), limits=closed((), cpu=QUANTITY, memory=QUANTITY)),
    volumeMounts=array(closed(("name", "mountPath"), name=NAME, mountPath={"type": "string", "pattern": "^/"}, readOnly=BOOL)),
)  # fmt: skip
VOLUME = closed(
    ("name",), name=NAME, configMap=closed(("name",), name=NAME),
    emptyDir=closed((), medium={"const": "Memory"}, sizeLimit=QUANTITY),
)  # fmt: skip
POD = closed(
    ("containers",), automountServiceAccountToken=BOOL, terminationGracePeriodSeconds=NUMBER, volumes=array(VOLUME),
    initContainers=array(CONTAINER), containers=array(CONTAINER),
)  # fmt: skip
SCHEMAS = {
    "ConfigMap": closed(("apiVersion", "kind", "metadata"), apiVersion={"const": "v1"}, kind=TEXT, metadata=META, data=LABELS),
    "Deployment": closed(
        ("apiVersion", "kind", "metadata", "spec"), apiVersion={"const": "apps/v1"}, kind=TEXT, metadata=META,
        spec=closed(("selector", "template"), replicas=NUMBER, selector=closed(("matchLabels",), matchLabels=LABELS),
                    template=closed(("metadata", "spec"), metadata=closed((), labels=LABELS), spec=POD)),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    """The documents by their kind."""
    found = [*YAML(typ="safe").load_all(MANIFEST.read_text())]
    return {document["kind"]: document for document in found}


@pytest.fixture(scope="module")
def pod(manifest: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = manifest["Deployment"]["spec"]["template"]["spec"]
    return found


@pytest.fixture(scope="module")
def containers(pod: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each for each in (*pod["initContainers"], *pod["containers"])}


def test_every_field_of_the_manifest_exists(manifest: dict[str, Any]) -> None:
    assert set(manifest) == set(SCHEMAS)
    for kind, document in manifest.items():
        jsonschema.validate(document, SCHEMAS[kind])
    assert "&" not in MANIFEST.read_text().replace("&&", ""), "no anchors: some readers know none"


def test_names_in_the_manifest_lead_somewhere(manifest: dict[str, Any], pod: dict[str, Any]) -> None:
    volumes = {volume["name"] for volume in pod["volumes"]}
    spec = manifest["Deployment"]["spec"]

    used = {
        mount["name"]
        for each in (*pod["initContainers"], *pod["containers"])
        for mount in each["volumeMounts"]
    }
    assert used == volumes
    assert manifest["ConfigMap"]["metadata"]["name"] in {
        v.get("configMap", {}).get("name") for v in pod["volumes"]
    }
    assert spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items()


def test_authority_then_proxy_then_rules_then_the_service(
    pod: dict[str, Any], containers: dict[str, Any]
) -> None:
    assert [each["name"] for each in pod["initContainers"]] == [
        "llmshield-ca",
        "llmshield",
        "llmshield-rules",
    ]
    assert containers["llmshield"]["restartPolicy"] == "Always", "a native sidecar"
    assert "startupProbe" in containers["llmshield"], "rules wait for it"
    assert [each["name"] for each in pod["containers"]] == ["app"]


def test_who_has_which_rights(containers: dict[str, Any]) -> None:
    rights = {name: each["securityContext"] for name, each in containers.items()}

    assert {name for name, each in rights.items() if "add" in each["capabilities"]} == {"llmshield-rules"}
    assert rights["llmshield-rules"]["capabilities"]["add"] == ["NET_ADMIN"]
    assert all(each["capabilities"]["drop"] == ["ALL"] for each in rights.values())
    assert not any(each["allowPrivilegeEscalation"] for each in rights.values())
    proxy, app = rights["llmshield"], rights["app"]
    assert (proxy["runAsUser"], proxy["runAsGroup"]) == (1337, 1337)
    assert app["runAsUser"] != 1337
    assert app["runAsGroup"] != 1337
    assert {name for name, each in rights.items() if not each["runAsNonRoot"]} == {"llmshield-rules"}
    words = containers["llmshield-rules"]["command"]
    assert (words[words.index("--uid") + 1], words[words.index("--gid") + 1]) == ("1337", "1337")


def test_the_service_sees_public_files_only(pod: dict[str, Any], containers: dict[str, Any]) -> None:
    assert containers["app"]["volumeMounts"] == [
        {"name": "ca-public", "mountPath": "/etc/llmshield-trust", "readOnly": True}
    ]
    state = next(volume for volume in pod["volumes"] if volume["name"] == "state")
    assert state["emptyDir"]["medium"] == "Memory", "the key is on no disk"
    assert {
        name for name, each in containers.items() if any(m["name"] == "state" for m in each["volumeMounts"])
    } == {
        "llmshield-ca",
        "llmshield",
    }
    told = {each["name"]: each["value"] for each in containers["app"]["env"]}
    assert told == environment.trust_variables(Path("/etc/llmshield-trust"))


def test_the_policy_of_the_manifest_loads_and_says_the_same(manifest: dict[str, Any]) -> None:
    found = loads(manifest["ConfigMap"]["data"]["policy.yaml"])

    assert found.egress is not None
    assert found.egress.mode == "transparent"
    assert str(found.server.admin) in MANIFEST.read_text()
    assert found.egress.listen.host == "127.0.0.1"


def commands() -> list[list[str]]:
    """Every command of ours that stands in deploy/, comments of units included."""
    found = []
    for unit in UNITS:
        for line in unit.read_text().splitlines():
            if "/usr/bin/llmshield" in line and "=" in line:
                found.append(shlex.split(line.partition("/usr/bin/llmshield")[2]))
    for document in YAML(typ="safe").load_all(MANIFEST.read_text()):
        spec = document.get("spec", {}).get("template", {}).get("spec", {})
        for each in spec.get("initContainers", []):
            words = each["command"] if each["command"][0] != "sh" else shlex.split(each["command"][2])
            for at, word in enumerate(words):
                if word == "llmshield" and words[at + 1] == "egress":
                    end = words.index("&&", at) if "&&" in words[at:] else len(words)
                    found.append(words[at + 1 : end])
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_and_option_exists(words: list[str]) -> None:
    """Asked for help behind its options, a command is parsed whole and not run; an unknown option is said."""
    done = CliRunner().invoke(build_app(words[0]), [*words, "--help"])

    assert done.exit_code == 0, done.output
    options = [word for word in words if word.startswith("--")]
    assert [option for option in options if option not in done.output] == []


def test_there_are_commands() -> None:
    assert len(commands()) >= 9


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text().replace("/usr/bin/llmshield", shutil.which("true") or "/bin/true")
        (tmp_path / unit.name).write_text(text)

    words = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / unit.name) for unit in UNITS)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_units_say_who_and_what() -> None:
    sections = {}
    for unit in UNITS:
        parser = configparser.RawConfigParser(strict=False, interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read(unit)
        sections[unit.stem] = parser

    proxy, rules = sections["llmshield-egress"]["Service"], sections["llmshield-egress-rules"]["Service"]
    assert (proxy["User"], proxy["CapabilityBoundingSet"], proxy["NoNewPrivileges"]) == (
        "llmshield",
        "",
        "yes",
    )
    assert proxy["Restart"] == "always"
    assert "--uid llmshield --gid llmshield" in rules["ExecStart"]
    assert "ExecStop" in rules
    assert "Requires" not in sections["llmshield-egress-rules"]["Unit"], (
        "rules stay when the proxy is stopped"
    )
