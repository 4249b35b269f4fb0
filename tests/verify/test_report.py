"""What people and scripts are told."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bridge.verify.report import as_json, show
from bridge.verify.verdict import FINDINGS_SHOWN_MAX, TEXT_CHARS_MAX, Invariant, Verdict, joined, printable


def lines_of(verdict: Verdict) -> list[str]:
    out = io.StringIO()
    show(verdict, Console(file=out, width=120, soft_wrap=True))
    return out.getvalue().rstrip().split("\n")


def test_the_last_line_says_ok() -> None:
    assert lines_of(Verdict([Invariant.EXACT]))[-1] == "verify: ok"


@pytest.mark.parametrize(("count", "line"), [(1, "verify: BROKEN (1 finding)"), (25, "verify: BROKEN (25 findings)")])
def test_the_last_line_counts_findings(count: int, line: str) -> None:
    verdict = Verdict([Invariant.SEQUENCE])
    for number in range(count):
        verdict.add(Invariant.SEQUENCE, "missing", f"[b]number {number}[/b]")
    lines = lines_of(verdict)
    assert lines[-1] == line
    assert any("[b]number 0[/b]" in shown for shown in lines)  # what comes from outside is no markup
    assert any("and 5 more" in shown for shown in lines) == (count > FINDINGS_SHOWN_MAX)


def test_the_line_before_sums_up_for_consumers() -> None:
    verdict = Verdict([Invariant.SEQUENCE, Invariant.PROVIDER])
    assert lines_of(verdict)[-2:] == ["0 lost, 0 doubled, 0 out of order", "verify: ok"]
    verdict.add(Invariant.SEQUENCE, "missing", "numbers 2 to 4 are missing", 3)
    verdict.add(Invariant.PROVIDER, "provider_differs", "a customer differs")
    verdict.add(Invariant.SEQUENCE, "doubled", "number 5 is there twice")
    verdict.add(Invariant.SEQUENCE, "order", "number 6 comes after number 7")
    verdict.add(Invariant.ATOMIC, "documents", "the counters are wrong")
    lines = lines_of(verdict)
    assert lines[-2:] == ["4 lost, 1 doubled, 1 out of order", "verify: BROKEN (7 findings)"]
    assert not any("more" in line for line in lines)
    assert [as_json(verdict)[name] for name in ("lost", "doubled", "out_of_order")] == [4, 1, 1]


def test_json_has_everything() -> None:
    verdict = Verdict([Invariant.SEQUENCE, Invariant.CACHE], figures={"events": 3}, notes=["a note"])
    verdict.add(Invariant.SEQUENCE, "missing", "number 2 is missing")
    data = as_json(verdict)
    assert data["ok"] is False
    assert data["total"] == 1
    assert [row["broken"] for row in data["invariants"]] == [1, 0]
    assert data["findings"] == [{"invariant": "2", "kind": "missing", "text": "number 2 is missing"}]
    assert data["notes"] == ["a note"]


def test_verdicts_join() -> None:
    one, other = Verdict([Invariant.EXACT], figures={"keys": 1}), Verdict([Invariant.PROVIDER], figures={"keys": 2})
    other.add(Invariant.PROVIDER, "provider_less", "x")
    whole = joined([one, other])
    assert whole.checked == [Invariant.EXACT, Invariant.PROVIDER]
    assert whole.figures == {"keys": 3}
    assert whole.total == 1


@pytest.mark.parametrize("text", ["a\x1b[2J", "a\u202eb", "a\nb", "\u200b", "\x9b31m"])
def test_text_from_outside_cannot_steer_a_terminal(text: str) -> None:
    assert printable(text).isprintable()


def test_text_from_outside_is_bounded_and_else_unchanged() -> None:
    assert printable("Bjørn 日本") == "Bjørn 日本"
    assert len(printable("x" * 1000)) == TEXT_CHARS_MAX + 1
