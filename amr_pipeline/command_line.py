"""`amr`: what needs no UI. Everything heavier than an argument is imported inside its command.

Belongs here: arguments, messages, exit codes. Does not belong here: how a command does it (`assets.materialization`,
`assets.overview`, `verify_file`).
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


def _say(line: str) -> None:
    print(line, flush=True)


def _say_aside(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@app.command()
def demo() -> None:
    """Materialize everything the study owes, in a real Dagster instance, and print what came of it."""
    from amr_pipeline.assets.overview import print_overview
    from amr_pipeline.assets.session import Session

    with Session.open() as session:
        walked = session.materialize_owed(say=_say)
        print_overview(session.study, session.platform, walked, say=_say)
    _say("Look around: make dev opens the Dagster and MLflow pages.")


@app.command()
def status() -> None:
    """How many partitions each asset owes."""
    from amr_pipeline.assets.overview import status_table
    from amr_pipeline.assets.session import Session

    with Session.open(instance=False) as session:
        _say(status_table(session.study, session.platform))


@app.command()
def forecast(
    distillers: Annotated[list[str] | None, typer.Argument(help="row names of distillers; default: all")] = None,
) -> None:
    """What distillers owe: responses, tokens with an interval, GPU-hours and money; generates nothing."""
    from amr_pipeline.assets.forecast import forecast_text
    from amr_pipeline.assets.session import Session
    from amr_pipeline.studies.study import StudyError

    with Session.open(instance=False) as session:
        try:
            _say(forecast_text(session.study, session.platform, distillers or ()))
        except StudyError as error:
            raise typer.BadParameter(str(error)) from error


AsJson = Annotated[bool, typer.Option("--json", help="one JSON document, for machines")]


@app.command()
def owed(
    assets: Annotated[list[str] | None, typer.Argument(help="names of assets; default: all")] = None,
    as_json: AsJson = False,
) -> None:
    """Which partitions owe what, and why: responses and verdicts by cause, distiller and shard."""
    from amr_pipeline.assets.owed import UnknownAssetError, what_is_owed
    from amr_pipeline.assets.session import Session
    from amr_pipeline.report.owed_table import owed_text

    with Session.open(instance=False) as session:
        try:
            found = what_is_owed(session.study, session.platform.tables(), assets or ())
        except UnknownAssetError as error:
            raise typer.BadParameter(str(error)) from error
    _say(json.dumps(found.as_json(), indent=1) if as_json else owed_text(found))


@app.command()
def trace(
    row: Annotated[str, typer.Argument(metavar="ID", help="of a response or query, or RECIPE/ID for a subset's row")],
    as_json: AsJson = False,
) -> None:
    """Where a response or query came from, what was said of it, where it went; eight characters of an id suffice."""
    from amr_pipeline.assets.passport import RowGoneError, passport
    from amr_pipeline.assets.row_search import UnreadableIdError, find, read_asked
    from amr_pipeline.assets.session import Session
    from amr_pipeline.report.passport_text import match_text, passport_text
    from amr_pipeline.report.terminal_text import ascii_json

    with Session.open(instance=False) as session:
        study, store = session.study, session.platform.tables()
        try:
            asked = read_asked(row, study)
            matches = find(study, store, asked)
            found = passport(study, store, matches[0], asked.recipe) if len(matches) == 1 else None
        except UnreadableIdError as error:
            raise typer.BadParameter(str(error)) from error
        except RowGoneError as error:
            _say_aside(str(error))
            raise typer.Exit(1) from error
    listed = [match.as_json() for match in matches]
    if as_json:
        _say(ascii_json(json.dumps({"matches": listed, "passport": found}, indent=1)))
    elif found is not None:
        _say(passport_text(found))
    else:
        _say_aside(match_text(row, listed) if listed else f"nothing that is stored has the id {asked.beginning}")
    if found is None:
        raise typer.Exit(1)


@app.command()
def doctor(
    as_json: AsJson = False,
    run_memory: Annotated[
        float | None, typer.Option(help="GiB that a run has, where runs do not happen on this machine")
    ] = None,
) -> None:
    """Look at the deployment: what is broken, what was wanted, what to do; exit code 1 where anything is broken."""
    from amr_pipeline.assets.doctor import Doctor
    from amr_pipeline.report.findings import findings_json, findings_text, is_broken
    from amr_pipeline.report.terminal_text import ascii_json

    found = list(Doctor(os.environ, None if run_memory is None else int(run_memory * 2**30)).findings())
    _say(ascii_json(json.dumps(findings_json(found), indent=1)) if as_json else findings_text(found))
    if is_broken(found):
        raise typer.Exit(1)


@app.command()
def backfill(
    distiller: Annotated[str, typer.Argument(help="row name of the distiller")],
    yes: Annotated[
        bool, typer.Option("--yes", help="begin without asking; nobody is asked without a terminal")
    ] = False,
) -> None:
    """Forecast what a distiller owes, then generate it and everything that follows, to the release."""
    from amr_pipeline.assets.forecast import forecast_text
    from amr_pipeline.assets.session import Session
    from amr_pipeline.studies.study import StudyError

    with Session.open() as session:
        try:
            if not session.backfill_owes(distiller):
                _say(f"Nothing is owed by {distiller}, nor by what follows from it.")
                return
        except StudyError as error:
            raise typer.BadParameter(str(error)) from error
        _say(forecast_text(session.study, session.platform, [distiller]))
        if not yes and sys.stdin.isatty():
            typer.confirm("Begin?", abort=True)
        session.backfill(distiller, say=_say)


@app.command()
def regrade() -> None:
    """Judge what today's verifiers owe from stored responses, then difficulty and subsets; generates nothing."""
    from amr_pipeline.assets.session import Session

    with Session.open() as session:
        session.regrade(say=_say)


@app.command()
def pools(
    stop: Annotated[list[str] | None, typer.Option("--stop", help="end this pool; may be given more than once")] = None,
    stop_idle: Annotated[bool, typer.Option("--stop-idle", help="end every pool that nobody uses")] = False,
    also_used: Annotated[bool, typer.Option("--also-used", help="with --stop: end it though somebody uses it")] = False,
) -> None:
    """Pools of engines on the cluster of AMR_RAY_ADDRESS: list them, or end some with their engines."""
    from amr_pipeline.assets.deployment import deployment_from_environment
    from amr_pipeline.assets.pools import pools_text, stop_pools
    from amr_pipeline.assets.resources import Platform

    platform = Platform.of(deployment_from_environment())
    if not stop and not stop_idle:
        _say(pools_text(platform))
        return
    try:
        lines = stop_pools(platform, stop or (), also_used=also_used and bool(stop))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    for line in lines:
        _say(line)


@app.command("collect-garbage")
def collect_garbage(
    older_than_hours: Annotated[
        float, typer.Option(min=1.0, help="younger files may belong to a writer at work", show_default=True)
    ] = 24.0,
) -> None:
    """Delete files of tables that no commit refers to: what killed writers and superseded versions left behind."""
    from amr_pipeline.assets.deployment import deployment_from_environment
    from amr_pipeline.assets.resources import Platform

    store = Platform.of(deployment_from_environment()).tables()
    removed = store.collect_garbage(older_than_hours * 3600)
    _say(f"{removed:,} files removed under {store.root}")


@app.command()
def plan(
    study: Annotated[str, typer.Argument(help="module name or path of a study file")],
    queries: Annotated[int | None, typer.Option(help="queries expected after filters")] = None,
) -> None:
    """What a study would generate: responses, tokens, partitions."""
    from amr_pipeline.assets.deployment import deployment_from_environment
    from amr_pipeline.studies.loading import load_study
    from amr_pipeline.studies.plan import expected_queries
    from amr_pipeline.studies.plan import plan as plan_of

    deployment = deployment_from_environment()
    rows = load_study(study, deployment.study_parameters, deployment.storage_options)
    expected = expected_queries(rows) if queries is None else queries
    if expected is None:
        raise typer.BadParameter("this study does not say how many queries to expect; give --queries")
    _say(plan_of(rows, expected).text())


@app.command()
def verify(
    source: Annotated[str, typer.Argument(metavar="IN.jsonl", help="records to judge, - for standard input")],
    target: Annotated[str, typer.Argument(metavar="OUT.jsonl", help="verdicts, - for standard output")],
    study: Annotated[str | None, typer.Option(help="study whose verifiers judge; default: the built-in rows")] = None,
) -> None:
    """Judge records in the published data set's field names: one verdict per line, in order, whatever the input."""
    from amr_pipeline.assets.deployment import deployment_from_environment
    from amr_pipeline.assets.open_engines import close_engines
    from amr_pipeline.assets.resources import Platform
    from amr_pipeline.assets.verdicts import judge_of, reward_model_of
    from amr_pipeline.engines.verify_file import DEFAULT_ROWS, verify_file
    from amr_pipeline.report.summary import text_table
    from amr_pipeline.studies.loading import load_study

    deployment = deployment_from_environment()
    named = load_study(study, deployment.study_parameters, deployment.storage_options) if study else None
    rows = DEFAULT_ROWS if named is None else named.verifiers
    platform = Platform.of(deployment)
    try:
        counts = verify_file(
            source,
            target,
            rows,
            judge_of=lambda row: judge_of(platform, getattr(row, "judge", None)),
            reward_model_of=lambda row: reward_model_of(platform, getattr(row, "reward_model", None)),
            say=_say_aside,
        )
    finally:
        close_engines()
    _say_aside(text_table(["verdict", "lines"], sorted(counts.items())))


@app.command("audit-import")
def audit_import(
    lines: Annotated[
        typer.FileText,
        typer.Argument(
            metavar="FILE.jsonl",
            help="a filled-in audit.jsonl, - for standard input",
            encoding="utf-8",
            errors="replace",
        ),
    ],
) -> None:
    """Store a person's verdicts (response_id, human_verdict, note) and print their agreement with the verifiers."""
    from amr_pipeline.assets.audit import import_human_verdicts
    from amr_pipeline.assets.session import Session

    with Session.open(instance=False) as session:
        taken = import_human_verdicts(session.study, session.platform, lines, say=_say)
    if not taken:
        raise typer.Exit(1)


@app.command("make-micro-weights")
def make_micro_weights(
    out: Annotated[Path, typer.Argument(help="folder to write the five models to")],
) -> None:
    """Re-make the micro world's weights from nothing with the project's own training (about ten minutes)."""
    from amr_pipeline.engines.micro_weights import make_micro_weights as make

    make(out, say=_say)


def main() -> None:
    """Entry point that keeps third-party noise out of a person's way."""
    os.environ.setdefault("PYTHONWARNINGS", "ignore")
    app()


if __name__ == "__main__":
    main()
