"""One process's work on a study: its definitions, its Dagster instance and its engines, opened and closed together."""

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from amr_pipeline.assets.assembly import assemble
from amr_pipeline.assets.deployment import Deployment, deployment_from_environment, study_of
from amr_pipeline.assets.materialization import (
    AFTER_RESPONSES,
    AFTER_VERDICTS,
    ORDER,
    Walked,
    materialize_owed,
    owes_anything,
)
from amr_pipeline.assets.open_engines import close_engines
from amr_pipeline.assets.partitions import response_partition
from amr_pipeline.assets.publication import progress_log
from amr_pipeline.assets.resources import Platform
from amr_pipeline.assets.verdicts import flips_since, judged_now
from amr_pipeline.report.summary import flip_lines
from amr_pipeline.studies.study import Study, StudyError

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Session:
    """A study with everything needed to materialize it."""

    study: Study
    platform: Platform
    definitions: dg.Definitions
    instance: dg.DagsterInstance | None

    @classmethod
    @contextmanager
    def open(
        cls, deployment: Deployment | None = None, study: Study | None = None, *, instance: bool = True
    ) -> Iterator["Session"]:
        """The session of the environment's deployment; engines end when it closes."""
        warnings.filterwarnings("ignore", category=dg.BetaWarning)
        _print_progress()
        deployment = deployment or deployment_from_environment()
        study = study or study_of(deployment)
        opened = _instance(deployment) if instance else None
        try:
            yield cls(
                study=study,
                platform=Platform.of(deployment),
                definitions=assemble(deployment, study),
                instance=opened,
            )
        finally:
            close_engines()
            if opened is not None:
                opened.dispose()

    def materialize_owed(
        self, *, say: Say, assets: Sequence[str] = ORDER, only: Sequence[str] | None = None
    ) -> list[Walked]:
        """Run what `assets` owe; `only` restricts partitions of distiller x shard assets."""
        assert self.instance is not None, "a session without an instance only looks"
        return materialize_owed(
            self.definitions, self.study, self.platform, self.instance, assets=assets, only=only, say=say
        )

    def backfill(self, distiller: str, *, say: Say) -> list[Walked]:
        """Everything a distiller owes, and what follows from it.

        Raises:
            StudyError: the study has no such distiller.
        """
        return self.materialize_owed(say=say, assets=AFTER_RESPONSES, only=self._partitions(distiller))

    def backfill_owes(self, distiller: str) -> bool:
        """Whether `backfill` would run anything; raises what it raises."""
        keys = self._partitions(distiller)
        return owes_anything(self.definitions, self.study, self.platform, assets=AFTER_RESPONSES, only=keys)

    def _partitions(self, distiller: str) -> list[str]:
        if distiller not in {row.name for row in self.study.distillers}:
            raise StudyError(f"study {self.study.name!r} has no distiller {distiller!r}; add its row first")
        return [response_partition(distiller, shard) for shard in self.study.shards]

    def regrade(self, *, say: Say) -> list[Walked]:
        """Verdicts owed, and what follows from them; says which decided verdicts flipped."""
        store = self.platform.tables()
        before = judged_now(self.study, store)
        walked = self.materialize_owed(say=say, assets=AFTER_VERDICTS)
        for line in flip_lines(flips_since(self.study, store, before)):
            say(line)
        return walked


def _print_progress() -> None:
    """Let progress lines reach whoever started the command."""
    if not progress_log.handlers:
        handler = logging.StreamHandler(sys.stdout)
        handler.setFormatter(logging.Formatter("        %(message)s"))
        progress_log.addHandler(handler)
        progress_log.setLevel(logging.INFO)


def _instance(deployment: Deployment) -> dg.DagsterInstance:
    """The Dagster instance of DAGSTER_HOME, by default one under the deployment's home."""
    home = Path(os.environ.get("DAGSTER_HOME") or deployment.home / "dagster_home").absolute()
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    shipped = Path("dagster.yaml")
    if not settings.exists() and shipped.exists():
        shutil.copy(shipped, settings)
    os.environ["DAGSTER_HOME"] = str(home)
    return dg.DagsterInstance.from_config(str(home))
