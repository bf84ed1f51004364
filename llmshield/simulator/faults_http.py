"""Faults of the connection and of the HTTP head and framing."""

from __future__ import annotations

from collections.abc import Iterator

from llmshield.simulator.plan import Fin, Hang, Pause, Plan, Reset, Step, Wire, flat
from llmshield.simulator.table import Case, before, on_plan

LONG = 30.0
"""Seconds that slow faults wait unless `pause` says otherwise."""


@before("drop", "read the request, then close without a byte")
def _drop(case: Case) -> Plan:
    return Plan(before=(Fin(),))


@before("reset", "read the request, then TCP RST without a byte")
def _reset(case: Case) -> Plan:
    return Plan(before=(Reset(),))


@before("refuse", "as reset: the nearest to a refused connection that a request can ask for")
def _refuse(case: Case) -> Plan:
    return Plan(before=(Reset(),))


@before("silence", "read the request, then nothing, for ever")
def _silence(case: Case) -> Plan:
    return Plan(before=(Hang(),))


@before("not_http", "an answer that is not HTTP")
def _not_http(case: Case) -> Plan:
    return Plan(before=(Wire(b"\x16\x03\x01\x02 this is not HTTP\r\n\r\n"), Fin()))


@on_plan("slow_head", "no head for `pause` seconds (30)")
def _slow_head(case: Case, plan: Plan) -> Plan:
    plan.before = (Pause(LONG if case.want.pause is None else case.want.pause), *plan.before)
    return plan


@on_plan("storm_1xx", "a hundred interim answers ahead of the real one")
def _storm(case: Case, plan: Plan) -> Plan:
    interim = b"HTTP/1.1 103 Early Hints\r\nlink: </style.css>; rel=preload\r\n\r\n"
    plan.before = (Wire(interim * 100), *plan.before)
    return plan


@on_plan("short_length", "content-length is half of the body")
def _short(case: Case, plan: Plan) -> Plan:
    plan.body, plan.framing = flat(plan), "length"
    plan.length = len(plan.body) // 2
    plan.body = (plan.body, Fin())
    return plan


@on_plan("long_length", "content-length is 64 more than the body, then FIN")
def _long(case: Case, plan: Plan) -> Plan:
    plan.body, plan.framing = flat(plan), "length"
    plan.length = len(plan.body) + 64
    plan.body = (plan.body, Fin())
    return plan


@on_plan("two_lengths", "two content-length headers that differ")
def _two(case: Case, plan: Plan) -> Plan:
    plan.body, plan.framing = flat(plan), "length"
    plan.headers.append(("content-length", str(len(plan.body) + 7)))
    return plan


@on_plan("bad_chunk", "a chunk size that is no number, behind the first piece")
def _bad_chunk(case: Case, plan: Plan) -> Plan:
    def broken(steps: Iterator[Step]) -> Iterator[Step]:
        for step in steps:
            yield step
            if isinstance(step, bytes):
                yield Wire(b"ZZ\r\nnot a chunk\r\n")
                yield Fin()

    plan.body, plan.framing = broken(plan.steps()), "chunked"
    return plan


@on_plan("http10", "an HTTP/1.0 answer that ends with the connection")
def _http10(case: Case, plan: Plan) -> Plan:
    plan.http10, plan.framing = True, "close"
    return plan


@on_plan("trailers", "trailers with an authorization, a content-length and a header of our own")
def _trailers(case: Case, plan: Plan) -> Plan:
    plan.body, plan.framing = plan.steps(), "chunked"
    plan.trailers = (("authorization", "Bearer trailer"), ("content-length", "0"), ("x-trailer", "late"))
    return plan


@on_plan("big_head", "a header of `size` bytes (1 MiB)")
def _big_head(case: Case, plan: Plan) -> Plan:
    plan.headers.append(("x-padding", "p" * (case.want.size or 1 << 20)))
    return plan


@on_plan("wrong_type", "a content-type that does not say what the body is")
def _wrong_type(case: Case, plan: Plan) -> Plan:
    plan.set_header("content-type", "application/json" if case.streamed else "text/plain; charset=latin-1")
    return plan
