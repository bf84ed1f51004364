"""`make bench`: what the sidecar costs beside a bare proxy on the same stack, both on one core, in alternation.

    python tests/bench/run.py [--rounds N] [--seconds S] [--json FILE] [--profile FILE] [--policy FILE] [--only WHAT]

A native provider and a native load generator (C, compiled here) share the other core. CPU time comes from
/proc/PID/stat of the process under test, all threads; wall time is only used for latency. Figures are medians
over the rounds. `--profile` records the sidecar's stacks under load with py-spy and prints the hottest frames.
"""

import argparse
import collections
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
TICK = os.sysconf("SC_CLK_TCK")
EVENTS = 200
PACE_US = 5_000
MODEL = "gpt-4o-mini"
PROMPT = (
    "Please write a short and friendly note to the neighbours about the summer party next week: it starts at six in "
    "the evening, everybody brings something to eat, and music ends before ten."
).ljust(200, "!")

GOALS = {
    "cpu_ratio": ("CPU per small call, against bare", 2.0),
    "event_ratio": ("CPU per stream event, against bare", 1.5),
    "added_ms": ("added latency at one connection, p50, ms", 0.6),
    "rss_mb": ("resident memory under load, MB", 200.0),
    "start_s": ("start to ready, s", 1.5),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of one run under load")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument(
        "--profile", type=Path, help="record stacks there (folded lines) instead of measuring"
    )
    parser.add_argument(
        "--stream", action="store_true", help="with --profile: streams instead of whole replies"
    )
    parser.add_argument("--policy", type=Path, default=HERE / "policy.yaml")
    options = parser.parse_args()
    if shutil.which("cc") is None:
        sys.exit("bench: needs a C compiler (cc) for the provider and the load generator")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        Bench(Path(folder), stack, options).run()


class Bench:
    def __init__(self, folder, stack, options):
        self.folder, self.stack, self.options = folder, stack, options
        subprocess.run(
            [
                sys.executable,
                "-m",
                "compileall",
                "-q",
                *(HERE.parents[1] / name for name in ("llmshield", "plugins")),
            ],
            check=True,
        )
        cores = sorted(os.sched_getaffinity(0))
        self.core, self.other = cores[0], cores[-1]
        for name in ("mock", "load"):
            subprocess.run(["cc", "-O2", "-o", folder / name, HERE / f"{name}.c"], check=True)
        self.quick, self.paced = free_port(), free_port()
        self.spawn([folder / "mock", self.quick, EVENTS, 0], self.other)
        self.spawn([folder / "mock", self.paced, EVENTS, PACE_US], self.other)
        for port in (self.quick, self.paced):
            wait_for_port(port)

    def run(self):
        if self.options.profile:
            self.profile()
            return
        figures = {}
        bare, _, _ = self.bare(self.quick)
        shield, port, figures["start_s"] = self.shield(self.quick)
        starts = [figures["start_s"]]
        for _ in range(2):
            with contextlib.ExitStack() as again:
                starts.append(self.shield(self.quick, again)[2])
        figures["start_s"] = statistics.median(starts)
        ports = {"bare": (bare.pid, bare.port), "shield": (shield.pid, port)}

        calls = {name: [] for name in ports}
        whole = self.request("whole", stream=False)
        for name in ports:  # warm
            self.load(ports[name][1], self.options.connections, 1.0, whole)
        for _ in range(self.options.rounds):
            for name, (pid, where) in ports.items():
                calls[name].append(self.cpu_per(pid, where, self.options.connections, whole, "replies"))
        figures["rss_mb"] = rss_mb(shield.pid)

        single = {"direct": [], "bare": [], "shield": []}
        for _ in range(self.options.rounds):
            for name, where in [("direct", self.quick), ("bare", bare.port), ("shield", port)]:
                single[name].append(self.load(where, 1, self.options.seconds / 2, whole)["p50_us"])

        streams, bursts = {name: [] for name in ports}, {name: [] for name in ports}
        ask = self.request("stream", stream=True)
        for _ in range(self.options.rounds):
            for name, (pid, where) in ports.items():
                bursts[name].append(self.cpu_per(pid, where, 8, ask, "events"))
        paced_bare, _, _ = self.bare(self.paced)
        paced_shield, paced_port, _ = self.shield(self.paced)
        paced = {"bare": (paced_bare.pid, paced_bare.port), "shield": (paced_shield.pid, paced_port)}
        for _ in range(self.options.rounds):
            for name, (pid, where) in paced.items():
                streams[name].append(
                    self.cpu_per(pid, where, 16, ask, "events", seconds=max(4.0, self.options.seconds))
                )

        for name in ports:
            figures[f"{name}_call_us"] = statistics.median(calls[name])
            figures[f"{name}_event_us"] = statistics.median(streams[name])
            figures[f"{name}_burst_event_us"] = statistics.median(bursts[name])
        for name, values in single.items():
            figures[f"{name}_p50_us"] = statistics.median(values)
        figures["cpu_ratio"] = statistics.median(
            s / b for s, b in zip(calls["shield"], calls["bare"], strict=True)
        )
        figures["event_ratio"] = statistics.median(
            s / b for s, b in zip(streams["shield"], streams["bare"], strict=True)
        )
        figures["burst_event_ratio"] = figures["shield_burst_event_us"] / figures["bare_burst_event_us"]
        figures["added_ms"] = (figures["shield_p50_us"] - figures["direct_p50_us"]) / 1000
        report(figures)
        if self.options.json:
            self.options.json.write_text(json.dumps(figures, indent=2) + "\n")

    def profile(self):
        upstream = self.paced if self.options.stream else self.quick
        shield, port, _ = self.shield(upstream)
        ask = self.request("ask", stream=self.options.stream)
        spy = Path(sys.executable).with_name("py-spy")
        seconds = max(5, int(self.options.seconds))
        recorder = subprocess.Popen(
            [spy, "record", "-p", str(shield.pid), "-d", str(seconds), "-r", "500", "-f", "raw", "-o",
             self.options.profile, "--nonblocking"],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        print(self.load(port, 16 if self.options.stream else self.options.connections, seconds + 1, ask))
        recorder.wait()
        own, within, files = collections.Counter(), collections.Counter(), collections.Counter()
        for line in self.options.profile.read_text().splitlines():
            stack, count = line.rsplit(" ", 1)
            frames = stack.split(";")
            if "Thread.run" in stack:  # the audit's writer and other threads wait most of the time
                continue
            own[frames[-1]] += int(count)
            files[frames[-1].partition("(")[2].rsplit(":", 1)[0]] += int(count)
            for frame in set(frames):
                within[frame] += int(count)
        total = sum(own.values())
        for title, counter in (("own, by file", files), ("own", own), ("with callees", within)):
            print(f"\n{title}, % of samples")
            for frame, count in counter.most_common(45):
                print(f"{100 * count / total:6.1f}  {frame}")

    # -- processes ---------------------------------------------------------------------------------------------

    def bare(self, upstream):
        port = free_port()
        process = self.spawn(
            [sys.executable, HERE / "bare.py", port, f"http://127.0.0.1:{upstream}"], self.core
        )
        process.port = port
        return process, port, wait_for_port(port)

    def shield(self, upstream, stack=None):
        """Start a sidecar; with its data port and the seconds until /readyz said 200."""
        port, admin = free_port(), free_port()
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        policy = folder / "policy.yaml"
        text = self.options.policy.read_text()
        policy.write_text(text.replace("127.0.0.1:9/", f"127.0.0.1:{upstream}/"))
        command = [
            Path(sys.executable).with_name("llmshield"), "serve", "--policy", policy,
            "--listen", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}",
        ]  # fmt: skip
        started = time.monotonic()
        log = (folder / "log").open("wb")
        process = self.spawn(command, self.core, stack, stderr=log, stdout=log, cwd=folder)
        while True:
            with contextlib.suppress(OSError):
                if urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz").status == 200:
                    break
            if process.poll() is not None or time.monotonic() - started > 60:
                sys.exit(f"bench: the sidecar did not start:\n{(folder / 'log').read_text()}")
            time.sleep(0.01)
        return process, port, time.monotonic() - started

    def spawn(self, command, core, stack=None, **more):
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *map(str, command)],
            env={**os.environ, "BENCH_KEY": "sk-bench-0123456789"},
            **more,
        )

        def stop():
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

        (stack or self.stack).callback(stop)
        return process

    # -- measuring ---------------------------------------------------------------------------------------------

    def request(self, name, stream):
        body = {"model": MODEL, "messages": [
            {"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": PROMPT}
        ], "max_tokens": 1000, "temperature": 0.7}  # fmt: skip
        if stream:
            body |= {"stream": True}
        data = json.dumps(body, separators=(",", ":")).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            "Accept: application/json\r\nAuthorization: Bearer sk-client-000000\r\nUser-Agent: OpenAI/Python 3.51.0\r\n"
            "X-Stainless-Lang: python\r\nX-Stainless-Package-Version: 3.51.0\r\nX-Stainless-OS: Linux\r\n"
            "X-Stainless-Arch: x64\r\nX-Stainless-Runtime: CPython\r\nX-Stainless-Async: false\r\n"
            f"X-Stainless-Retry-Count: 0\r\nContent-Length: {len(data)}\r\n\r\n"
        )
        path = self.folder / name
        path.write_bytes(head.encode() + data)
        return path

    def load(self, port, connections, seconds, request):
        command = [
            "taskset",
            "-c",
            str(self.other),
            self.folder / "load",
            port,
            connections,
            seconds,
            request,
        ]
        result = subprocess.run(list(map(str, command)), check=False, capture_output=True)
        if result.returncode:
            sys.exit(f"bench: {result.stderr.decode().strip()} (port {port}, {request.name})")
        figures = json.loads(result.stdout)
        if figures["errors"]:
            sys.exit(f"bench: {figures['errors']} of {figures['replies']} replies were not 200")
        return figures

    def cpu_per(self, pid, port, connections, request, what, seconds=None):
        """CPU microseconds of the process for each reply or event."""
        before = cpu_s(pid)
        figures = self.load(port, connections, seconds or self.options.seconds, request)
        spent = cpu_s(pid) - before
        return spent * 1e6 / max(1, figures[what])


def report(figures):
    print(f"""
                                   bare      shield
CPU per small call, us      {figures["bare_call_us"]:11.1f} {figures["shield_call_us"]:11.1f}
CPU per paced event, us     {figures["bare_event_us"]:11.1f} {figures["shield_event_us"]:11.1f}
CPU per burst event, us     {figures["bare_burst_event_us"]:11.1f} {figures["shield_burst_event_us"]:11.1f}
p50 at one connection, us   {figures["bare_p50_us"]:11.0f} {figures["shield_p50_us"]:11.0f}   (provider alone {figures["direct_p50_us"]:.0f})
""")
    for name, (what, goal) in GOALS.items():
        word = "ok  " if figures[name] <= goal else "MISS"
        print(f"{word} {what}: {figures[name]:.2f} (goal {goal})")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for_port(port):
    started = time.monotonic()
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return time.monotonic() - started
        if time.monotonic() - started > 30:
            sys.exit(f"bench: nothing listens on port {port}")
        time.sleep(0.02)


def cpu_s(pid):
    """User and system seconds of a process and its threads (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def rss_mb(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()
