"""``saeforge doctor``."""

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.cli.console import ExitCode, Json, command, emit, out
from orchestrator.doctor import Finding, examine
from orchestrator.settings import Settings, read_settings

_STYLES = {"ok": ("✔", "green"), "warning": ("!", "yellow"), "missing": ("✘", "red")}


def add_to(app: typer.Typer) -> None:
    """Register the command of this module."""
    app.command("doctor")(doctor)


@command
def doctor(json: Json = False) -> ExitCode:
    """Check this machine and say what is missing and what to do; exit code 1 if something required is."""
    findings = examine(read_settings(Settings))
    if json:
        emit(findings)
    else:
        out.print(_table(findings))
    lacking = any(finding.state == "missing" and finding.required for finding in findings)
    return ExitCode.JOB_FAILED if lacking else ExitCode.OK


def _table(findings: list[Finding]) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for finding in findings:
        icon, style = _STYLES[finding.state]
        said = finding.detail + (f"\n→ {finding.remedy}" if finding.remedy else "")
        table.add_row(Text(f"{icon} {finding.state}", style), finding.name, Text(said))
    return table
