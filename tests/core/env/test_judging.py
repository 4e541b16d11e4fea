"""From findings to verdicts: a role is only touched by what it needs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from core.contract import Finding, Severity
from core.env.capability import Check, Context
from core.env.judging import probe_findings, relate, touched, verdicts
from core.env.probe import Reading
from core.env.roles import Role, RoleVerdict

NO_CUDA = Finding(code="cuda", severity=Severity.ERROR, where="GPU", evidence="none", cause="none", remedy="buy one")
CUDA = Check(code="cuda", blocks=frozenset({Role.TRAINER}), warns=frozenset({Role.LABELER}))
Contexts = Callable[..., Context]


def test_a_board_without_cuda_is_healthy_and_a_trainer_is_blocked(context: Contexts) -> None:
    roles = (Role.BOARD, Role.LABELER, Role.TRAINER)
    judged = relate(NO_CUDA, CUDA, context(roles))

    assert judged is not None
    assert judged.finding.severity is Severity.ERROR
    assert judged.finding.roles == ("labeler", "trainer")
    assert verdicts(roles, [judged]) == {
        Role.LABELER: RoleVerdict.WARNINGS,
        Role.TRAINER: RoleVerdict.BLOCKED,
        Role.BOARD: RoleVerdict.HEALTHY,
    }


def test_an_error_is_a_warning_where_only_roles_that_can_do_without_are_judged(context: Contexts) -> None:
    judged = relate(NO_CUDA, CUDA, context((Role.LABELER,)))

    assert judged is not None
    assert judged.finding.severity is Severity.WARNING
    assert relate(NO_CUDA, CUDA, context((Role.BOARD, Role.SERVER))) is None


def test_a_finding_may_narrow_its_checks_roles(context: Contexts) -> None:
    narrow = NO_CUDA.model_copy(update={"roles": ("labeler",)})

    judged = relate(narrow, CUDA, context((Role.LABELER, Role.TRAINER)))

    assert judged is not None
    assert set(judged.severities) == {Role.LABELER}


def test_this_machine_is_not_judged_as_the_board_that_lies_elsewhere(context: Contexts) -> None:
    here, there = Check(code="ram"), Check(code="ram", remote=True)
    little = NO_CUDA.model_copy(update={"code": "ram"})
    roles = (Role.TRAINER, Role.BOARD)

    assert relate(little, here, context(roles, ssh_host="pi")).finding.roles == ("trainer",)  # type: ignore[union-attr]
    assert relate(little, here, context((Role.BOARD,), ssh_host="pi")) is None
    assert touched(there, context(roles, ssh_host="pi")) == {Role.TRAINER, Role.BOARD}
    assert relate(little, there, context((Role.BOARD,), ssh_host="pi")) is not None
    assert relate(little, here, context(roles)).finding.roles == ("trainer", "board")  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        ("python3 ran > 10 s and was stopped", "hangs"),
        ("python3 ended with signal SIGSEGV", "crashed"),
        ("PermissionError: [Errno 13] Permission denied: '/dev/mem'", "rights"),
        ("its result is garbage: b'<html>'", "not as it should be"),
    ],
)
def test_a_probe_that_failed_is_a_warning_with_its_evidence(error: str, cause: str) -> None:
    failed = Reading(name="machine.disk", value=None, error=error, seconds=1.0)
    well = Reading(name="machine.well", value={}, error=None, seconds=1.0)

    (finding,) = probe_findings({"machine.disk": failed, "machine.well": well}, [])

    assert (finding.where, finding.evidence, finding.severity) == ("machine.disk", error, Severity.WARNING)
    assert cause in finding.cause
    told = NO_CUDA.model_copy(update={"evidence": f"torch cannot be imported: {error}"})
    assert probe_findings({"machine.disk": failed}, [told]) == []
