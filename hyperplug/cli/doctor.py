"""`hyperplug doctor`: what is at hand, what is not, and what to do about it."""

from __future__ import annotations

import click

from hyperplug.cli.context import (
    Globals,
    json_option,
    model_options,
    pass_globals,
    registry_options,
)
from hyperplug.cli.output import print_json, say


@click.command("doctor")
@registry_options
@model_options
@json_option
@pass_globals
def doctor(shared: Globals, as_json: bool) -> int:
    """Check the installation, with remedies.

    Versions, registry, base model, encoder, hypernetwork and vLLM are looked at.
    Every finding comes with a remedy; exit status 1 if something is broken.
    """
    from hyperplug.cli.checks import Outcome, run_checks

    findings = []
    for finding in run_checks(shared.settings()):
        findings.append(finding)
        if not as_json:
            click.echo(f"{finding.outcome:<5} {finding.name:<12} {finding.detail}")
            if finding.remedy:
                click.echo(f"{'':<18} -> {finding.remedy}")
    if as_json:
        print_json(findings)
    broken = [finding for finding in findings if finding.outcome is Outcome.FAIL]
    if broken:
        say(f"{len(broken)} of {len(findings)} checks failed.")
        return 1
    say(f"All {len(findings)} checks passed.")
    return 0
