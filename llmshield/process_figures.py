"""The process' own figures, under the names that Prometheus' client libraries use."""

from __future__ import annotations

import os
import time

from llmshield.series import Gauge


def process_gauges() -> list[Gauge]:
    """Start, CPU time, memory and open files; read when somebody asks."""
    started = time.time()
    cpu = Gauge("process_cpu_seconds_total", "User and system time.", read=time.process_time)
    cpu.kind = "counter"
    return [
        Gauge("process_start_time_seconds", "Start of the process.", read=lambda: started),
        cpu,
        Gauge("process_resident_memory_bytes", "Resident memory.", read=_resident_bytes),
        Gauge("process_open_fds", "Open files and sockets.", read=_open_files),
    ]


def _resident_bytes() -> float:
    """0 where the system has no /proc."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  read on each scrape
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def _open_files() -> float:
    """0 where the system has no /proc."""
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    except OSError:
        return 0
