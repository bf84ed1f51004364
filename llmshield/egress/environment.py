"""The variables by which clients find the proxy and trust it, and how each shell writes them.

Which client reads which variable was measured (docs/mounts/egress-clients.md); none reads all of them, so all are set.
`SSL_CERT_FILE` and its kin replace a client's roots: they name the bundle, in which the system's roots are too.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import orjson

from llmshield.egress.trust import BUNDLE, CA, PASSWORD, TRUSTSTORE

REPLACE = (
    "SSL_CERT_FILE",  # OpenSSL, Python's ssl, httpx, openai, anthropic, google-genai, Go, rustls-native-certs
    "REQUESTS_CA_BUNDLE",  # requests
    "CURL_CA_BUNDLE",  # curl, requests
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",  # gRPC
    "AWS_CA_BUNDLE",  # AWS command line and SDKs
    "GIT_SSL_CAINFO",
    "PIP_CERT",
)
"""Variables whose file takes the place of the client's roots."""

ADD = ("NODE_EXTRA_CA_CERTS", "DENO_CERT")
"""Variables whose file is added to the client's roots."""

JAVA = "JAVA_TOOL_OPTIONS"
PROXY = ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy")

_OURS_IN_JAVA = re.compile(
    r"\s*-D(?:javax\.net\.ssl\.trustStore(?:Password|Type)?|https?\.proxy(?:Host|Port)|http\.nonProxyHosts)=\S*"
)


def trust_variables(folder: Path, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What has a client trust the proxy. `folder` is one that `trust.export` wrote; paths come out absolute.

    Options for Java that `environ` has already are kept, without older ones of ours.
    """
    folder = folder.absolute()
    found: dict[str, str] = dict.fromkeys(REPLACE, str(folder / BUNDLE))
    found |= dict.fromkeys(ADD, str(folder / CA))
    found[JAVA] = _java(
        environ or {},
        f"-Djavax.net.ssl.trustStore={folder / TRUSTSTORE}",
        f"-Djavax.net.ssl.trustStorePassword={PASSWORD}",
        "-Djavax.net.ssl.trustStoreType=PKCS12",
    )
    return found


def proxy_variables(host: str, port: int, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What sends a client through a proxy, as far as clients ask for it; this machine itself is left out.

    `environ` may hold options for Java, such as those of `trust_variables`: they are kept.
    """
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    found: dict[str, str] = dict.fromkeys(PROXY, url)
    found |= dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1,::1")
    found["NODE_USE_ENV_PROXY"] = "1"  # Node 22.21 and 24 obey it; Node 20 has no such thing
    ours = [
        f"-D{scheme}.proxy{word}" for scheme in ("https", "http") for word in (f"Host={host}", f"Port={port}")
    ]
    kept = (environ or {}).get(JAVA, "")
    found[JAVA] = " ".join([*kept.split(), *(option for option in ours if option not in kept.split())])
    return found


def _java(environ: Mapping[str, str], *ours: str) -> str:
    kept = _OURS_IN_JAVA.sub("", environ.get(JAVA, "")).split()
    return " ".join([*kept, *ours])


def render(variables: Mapping[str, str], form: str) -> str:
    """The variables as `form` (a key of FORMS) writes them, one in a line."""
    return (
        "".join(FORMS[form](name, value) for name, value in variables.items())
        if form != "json"
        else (orjson.dumps(dict(variables), option=orjson.OPT_INDENT_2).decode() + "\n")
    )


def _powershell(name: str, value: str) -> str:
    return "$env:{} = '{}'\n".format(name, value.replace("'", "''"))


def _fish(name: str, value: str) -> str:
    return "set -gx {} '{}'\n".format(name, value.replace("\\", "\\\\").replace("'", "\\'"))


FORMS: dict[str, Callable[[str, str], str]] = {
    "sh": lambda name, value: f"export {name}={shlex.quote(value)}\n",
    "fish": _fish,
    "powershell": _powershell,
    "docker": lambda name, value: f"--env {shlex.quote(f'{name}={value}')}\n",
    "env-file": lambda name, value: f"{name}={value}\n",
    "systemd": lambda name, value: 'Environment="{}={}"\n'.format(
        name, value.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    ),
    "json": lambda name, value: "",
}
"""How each reader wants a variable. `docker` are arguments of `docker run`; `env-file` is read by docker and systemd."""


def merged(base: Mapping[str, str] | None = None, *more: Mapping[str, str]) -> dict[str, str]:
    """An environment with these variables added; the later one wins."""
    found = dict(os.environ if base is None else base)
    for variables in more:
        found |= variables
    return found
