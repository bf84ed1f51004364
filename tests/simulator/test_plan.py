"""Plans."""

from llmshield.simulator.plan import Fin, Plan, flat


def test_steps_are_those_of_the_moment():
    plan = Plan(body=b"abc")
    before = plan.steps()
    plan.body = (b"wrapped", *before, Fin())

    assert list(plan.steps()) == [b"wrapped", b"abc", Fin()]
    assert flat(plan) == b"wrappedabc"
    assert list(Plan().steps()) == []


def test_headers_are_replaced_whatever_their_case():
    plan = Plan(headers=[("Content-Type", "a"), ("x", "1"), ("content-type", "b")])
    plan.set_header("content-type", "c")

    assert plan.headers == [("x", "1"), ("content-type", "c")]
