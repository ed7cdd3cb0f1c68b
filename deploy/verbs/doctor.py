"""``doctor``: check the cluster before anything is applied."""

from __future__ import annotations

from collections.abc import Sequence

from deploy.checks import Finding, examine
from deploy.console import Reporter
from deploy.errors import NotPreparedError
from deploy.session import Session
from deploy.settings import Doctor


def run(flags: Doctor, reporter: Reporter) -> None:
    """Print every finding.

    Raises:
        NotPreparedError: one of them would stop the deployment.
    """
    session = Session.open(flags, flags.folder)
    findings = []
    for finding in examine(session.cluster, session.objects, flags.skip):
        findings.append(finding)
        reporter.finding(finding.level, finding.what, finding.advice)
    refuse(findings)


def check_before(session: Session, skip: Sequence[str], reporter: Reporter) -> None:
    """Run the checks for `up`, and print only warnings and failures."""
    findings = list(examine(session.cluster, session.objects, skip))
    passed = [one for one in findings if one.level == "ok"]
    reporter.finding("ok", f"{len(passed)} of {len(findings)} checks of the cluster passed")
    for finding in findings:
        if finding.level != "ok":
            reporter.finding(finding.level, finding.what, finding.advice)
    refuse(findings)


def refuse(findings: list[Finding]) -> None:
    """Raise NotPreparedError where a finding is a failure."""
    failures = [one.what for one in findings if one.level == "fail"]
    if failures:
        count = "one problem" if len(failures) == 1 else f"{len(failures)} problems"
        raise NotPreparedError(f"fix {count} first: {'; '.join(failures)}")
