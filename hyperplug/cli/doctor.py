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
from hyperplug.cli.output import print_json, say, working


@click.command("doctor")
@click.option("--deep", is_flag=True, help="Look at every row and file of the registry.")
@click.option("--repair", is_flag=True, help="With --deep: make again what can be made again.")
@registry_options
@model_options
@json_option
@pass_globals
def doctor(shared: Globals, deep: bool, repair: bool, as_json: bool) -> int:
    """Check the installation, with remedies.

    Versions, registry, base model, encoder, hypernetwork and vLLM are looked at.
    Every finding comes with a remedy; exit status 1 if something is broken.

    With --deep, the registry itself: the digest of every adapter, the folders of those that
    are published, the vector of every task.
    """
    if repair and not deep:
        raise click.UsageError("--repair goes with --deep.")
    if deep:
        return _examine(shared, repair=repair, as_json=as_json)
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


def _examine(shared: Globals, *, repair: bool, as_json: bool) -> int:
    looked_at = 0
    damages = []
    with shared.open() as registry, working("Examining the registry"):
        for damage in registry.examine(repair=repair):
            looked_at += 1
            if damage is not None:
                damages.append(damage)
                if not as_json:
                    mark = "fixed" if damage.repaired else "FAIL"
                    click.echo(f"{mark:<5} {damage.what}: {damage.detail}")
    if as_json:
        print_json(damages)
    left = sum(not damage.repaired for damage in damages)
    say(f"{looked_at:,} rows and files looked at, {len(damages):,} damaged, {left:,} still so.")
    if left and not repair:
        say("Hint: repair what can be repaired with: hyperplug doctor --deep --repair")
    return 1 if left else 0
