"""The diagnosis: each thing that can be wrong is found, and told with what to do. On files and sockets of the test's own."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmshield.egress import capturing, doctor, environment, firewall, seen, trust
from llmshield.egress.ca import Store
from llmshield.egress.firewall import Found
from llmshield.egress.rules import RulesError
from llmshield.policy import Policy, load

POLICY = """\
version: 1
server: {admin: null}
providers: {openai: {dialect: openai, api_key: "env://KEY"}}
routes: [{match: {any: true}, to: [openai]}]
egress: {hosts: {api.openai.com: openai}, listen: "127.0.0.1:PORT"MORE}
"""


class Room:
    """A machine on which all is well."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.store = Store(folder / "ca")
        self.store.init(["api.openai.com"])
        self.public = folder / "public"
        trust.export(self.store.roots(), trust.system_roots(), self.public)

    def policy(self, more: str = "") -> Policy:
        path = self.folder / "policy.yaml"
        path.write_text(POLICY.replace("PORT", str(self.port)).replace("MORE", more))
        return load(path)

    def patient(self, **more: str) -> doctor.Patient:
        trusted = environment.trust_variables(self.public)
        environ = trusted | environment.proxy_variables("127.0.0.1", self.port, trusted)
        return doctor.Patient(environ | more, 0)

    def examine(
        self, more: str = "", patient: doctor.Patient | None = None, chosen: tuple[str, ...] = ()
    ) -> doctor.Diagnosis:
        return doctor.examine(self.policy(more), self.store, patient or self.patient(), self.public, chosen)

    def bad(self, more: str = "", patient: doctor.Patient | None = None) -> list[tuple[str, str]]:
        return [
            (check.name, check.says) for check in self.examine(more, patient).checks if check.state == "bad"
        ]


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Room]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(
        firewall, "find", lambda: None
    )  # this machine's own rules are none of a test's business
    for parent in (tmp_path, *tmp_path.parents[:3]):
        if parent.stat().st_mode & 0o077 == 0:  # pytest's own folders
            parent.chmod(0o755)  # services of other users come by here
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        yield Room(tmp_path, proxy.getsockname()[1])


def test_where_all_is_well_nothing_is_wrong(room: Room) -> None:
    found = room.examine(chosen=("openai", "curl", "java"))

    assert [check for check in found.checks if check.state == "bad"] == []
    assert found.good
    assert {each.client for each in found.clients} == {"openai", "curl", "java"}


def test_a_client_that_was_asked_about_has_to_obey(room: Room) -> None:
    assert not room.examine(chosen=("node-fetch", "curl")).good
    assert room.examine().good, "others are told for information"


def test_what_is_wrong_with_the_authority(room: Room) -> None:
    assert room.bad(", unlisted: log") == []
    policy = room.policy()
    (room.store.folder / "current" / "key.pem").chmod(0o644)
    found = doctor.examine(policy, room.store, room.patient(), room.public)
    assert [(check.name, "chmod" in check.says) for check in found.checks if check.state == "bad"] == [
        ("authority", True)
    ]


def test_a_host_more_than_the_authority_may_sign_for(room: Room) -> None:
    path = room.folder / "policy.yaml"
    room.policy()
    path.write_text(
        path.read_text().replace("api.openai.com: openai", "api.openai.com: openai, new.example.com: openai")
    )

    found = doctor.examine(load(path), room.store, room.patient(), room.public)
    assert [
        ("new.example.com" in check.says, "ca rotate" in check.says)
        for check in found.checks
        if check.state == "bad"
    ] == [(True, True)]


def test_what_is_wrong_with_the_files(room: Room) -> None:
    bundle = room.public / "bundle.pem"
    whole = bundle.read_bytes()
    for data, said in (
        (b"", "roots of today"),
        ((room.public / "ca.crt").read_bytes(), "lacks the system's roots"),
        (whole + b"-----BEGIN PRIVATE KEY-----", "holds a private key"),
    ):
        bundle.write_bytes(data)
        names = dict(room.bad())
        assert said in names["files"]
    bundle.unlink()
    assert "No such file" in dict(room.bad())["files"]


def test_files_that_the_service_can_not_read(room: Room) -> None:
    room.public.chmod(0o700)
    patient = room.patient()

    bad = room.bad(patient=doctor.Patient(patient.environ, 12345))
    assert "can't be read by uid 12345" in dict(bad)["files"]


def test_a_rotation_that_is_under_way_is_no_fault_once_files_are_of_today(room: Room) -> None:
    room.store.rotate(["api.openai.com"])
    assert "roots of today" in dict(room.bad())["files"]
    trust.export(room.store.roots(), trust.system_roots(), room.public)

    found = room.examine()
    assert found.good
    assert "rotate --switch" in next(check.do for check in found.checks if check.name == "authority")


def test_a_proxy_that_is_not_there(room: Room) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        gone = other.getsockname()[1]

    found = doctor.examine(room.policy(), room.store, room.patient(), room.public, (), ("127.0.0.1", gone))
    assert "nobody listens" in next(check.says for check in found.checks if check.name == "proxy")
    assert not found.good


def test_the_admin_port_is_asked(room: Room) -> None:
    policy = room.policy()
    with socket.create_server(("127.0.0.1", 0)) as admin:
        port = admin.getsockname()[1]
        text = (room.folder / "policy.yaml").read_text().replace("admin: null", f'admin: "127.0.0.1:{port}"')
    (room.folder / "policy.yaml").write_text(text)
    policy = load(room.folder / "policy.yaml")

    found = doctor.examine(policy, room.store, room.patient(), room.public)
    assert "does not answer" in next(check.says for check in found.checks if check.name == "proxy")


@pytest.mark.parametrize(
    ("rules", "more", "uid", "said"),
    [
        (None, ", mode: transparent", 5, "there are none"),
        (Found("nft", (1337,), (), 9), "", 5, "they lead to port 9"),
        (Found("nft", (54321,), (), 0), "", 5, "come back to it"),
        (Found("nft", (-1,), (), 0), "", -1, "goes past the policy"),
        (Found("nft", (-1,), (), 0), "", 5, ""),
        (None, "", 5, ""),
    ],
)
def test_rules(
    room: Room, monkeypatch: pytest.MonkeyPatch, rules: Found | None, more: str, uid: int, said: str
) -> None:
    """-1 is whoever runs this test, and so the proxy; port 0 is the proxy's."""
    me = os.geteuid()
    if rules is not None:
        uids = tuple(me if each == -1 else each for each in rules.uids)
        rules = Found(rules.backend, uids, rules.gids, rules.port or room.port)
    monkeypatch.setattr(firewall, "find", lambda: rules)

    found = room.examine(more, doctor.Patient(room.patient().environ, me if uid == -1 else uid))
    bad = {check.name: check.says for check in found.checks if check.state == "bad"}
    if said:
        assert said in bad["rules"]
    else:
        assert "rules" not in bad


def test_with_rules_every_client_comes(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firewall, "find", lambda: Found("nft", (os.geteuid(),), (), room.port))
    trusted = environment.trust_variables(room.public)

    found = room.examine(patient=doctor.Patient(trusted, 5))
    assert {each.outcome for each in found.clients} == {"obeys"}


def test_rules_that_can_not_be_looked_at_are_no_fault(room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Found:
        raise RulesError("Rules need root")

    monkeypatch.setattr(firewall, "find", refuse)
    assert room.examine().good


def test_an_environment_in_which_nobody_obeys_is_a_fault(room: Room) -> None:
    assert "clients" in dict(room.bad(patient=doctor.Patient({}, 0)))


def test_clients_that_pin_are_named(room: Room) -> None:
    kept = seen.Seen()
    kept.add(
        [["distrusted", "api.openai.com", "10.0.0.7", 3], ["bypassed", "api.openai.com", "10.0.0.8", 1]], 1.0
    )
    kept.write()

    notes = {check.name: check.says for check in room.examine().checks if check.state == "note"}
    assert "10.0.0.7 to api.openai.com (3)" in notes["distrusted"]
    assert "10.0.0.8" in notes["bypassed"]


def test_another_process_is_read() -> None:
    environ = {**os.environ, "SSL_CERT_FILE": "/some where"}
    with subprocess.Popen(
        [sys.executable, "-c", "print(1, flush=True); input()"],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        patient = doctor.patient_of(process.pid)
        process.kill()

    assert patient.environ["SSL_CERT_FILE"] == "/some where"
    assert (patient.uid, patient.pid, "python" in patient.program) == (os.geteuid(), process.pid, True)
    with pytest.raises(OSError, match="No such"):
        doctor.patient_of(process.pid)


def test_of_a_process_only_its_kinds_are_told(room: Room) -> None:
    environ = room.patient().environ

    found = room.examine(patient=doctor.Patient(environ, 0, "node", 7))
    assert {each.client for each in found.clients} == {"node-fetch", "openai-node", "anthropic-node"}
    assert not found.good, "none of them comes"


def test_both_forms_say_the_same(room: Room) -> None:
    found = room.examine(patient=doctor.Patient({}, 0))
    text, data = doctor.as_text(found), json.loads(doctor.as_json(found))

    assert data["good"] is False
    assert all(check["says"] in text for check in data["checks"])
    assert all(each["says"] in text for each in data["clients"])
    assert "export SSL_CERT_FILE=" in text


@pytest.mark.parametrize("why", [None, "There is no sudo on the PATH."])
def test_local_capture(room: Room, monkeypatch: pytest.MonkeyPatch, why: str | None) -> None:
    monkeypatch.setattr(capturing, "trouble", lambda: why)
    found = room.examine(", mode: local")
    (check,) = [check for check in found.checks if check.name == "capture"]

    assert check.state == ("good" if why is None else "bad")
    assert why is None or why in check.says
    if why is None:
        assert {each.outcome for each in found.clients} == {"obeys"}
        assert all("by local capture" in each.says for each in found.clients)
