"""What a long step shows of itself on its asset's page while it runs.

An observation a minute, written to the instance at once: what an asset's own context is given is stored when the step
has ended, which for a backfill is days too late.
"""

import time
from collections.abc import Callable
from typing import Any

import dagster as dg

from amr_pipeline.responses.progress import Progress

SECONDS_BETWEEN_NOTES = 60.0


class LiveNotes:
    """Observations of one asset, about one distiller.

    Args:
        instance: where they are written.
        asset: the asset's name.
        distiller: whose work it is.
        engines: how full its engines are, as text; "" where nobody can say.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        asset: str,
        distiller: str,
        engines: Callable[[], str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._instance, self._asset, self._distiller, self._engines = instance, asset, distiller, engines
        self._clock, self._noted = clock, clock()

    def note(self, progress: Progress) -> None:
        """Write an observation, unless there was one within the last minute."""
        now = self._clock()
        if now - self._noted < SECONDS_BETWEEN_NOTES:
            return
        self._noted = now
        rate, tokens, left = progress.rates()
        metadata: dict[str, Any] = {
            "distiller": self._distiller,
            "responses so far": progress.done,
            "responses owed": max(0, progress.total - progress.done),
            "responses per second": round(rate, 2),
            "tokens per second": round(tokens, 1),
        }
        if left is not None:
            metadata["seconds left"] = round(left)
        if engines := self._engines():
            metadata["engines"] = engines
        self._instance.report_runless_asset_event(
            dg.AssetObservation(asset_key=self._asset, description=progress.line(), metadata=metadata)
        )
