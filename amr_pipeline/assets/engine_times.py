"""Engine time of one run on one table, on its way into the notes of the partitions that it was spent for.

Belongs here: which clock belongs to which partition and model. Does not belong here: the clock, and what notes look
like (`responses.cost`).
"""

from collections.abc import Mapping
from typing import Any

from amr_pipeline.assets.resources import Platform
from amr_pipeline.responses.cost import Cost, EngineTime, with_costs
from amr_pipeline.studies.study import Scorer, TrainingRecipe, VerifierRow


class EngineTimes:
    """Clocks of the engines that work for a table's partitions, a clock per partition and model.

    What failed attempts took is on no record, except in tables that are committed in parts.
    """

    def __init__(self, platform: Platform, table: str) -> None:
        self._platform, self._table = platform, table
        self._clocks: dict[tuple[str, Scorer | TrainingRecipe | None], EngineTime] = {}

    def clock(self, key: str, model: Scorer | TrainingRecipe | None) -> EngineTime:
        """The clock of one model's work for a partition; without a model it never has to run."""
        if (key, model) not in self._clocks:
            self._clocks[key, model] = EngineTime(lambda: 0.0 if model is None else self._platform.gpus_held(model))
        return self._clocks[key, model]

    def costs(self, key: str) -> dict[str, Cost]:
        """What a partition took in this run up to now, by category."""
        found: dict[str, Cost] = {}
        for (partition, _), clock in self._clocks.items():
            for category, cost in clock.costs().items() if partition == key else ():
                found[category] = found.get(category, Cost()) + cost
        return found

    def notes(self, key: str) -> dict[str, Any]:
        """Notes of a partition's next version: those of its newest one, with what this run took on top."""
        newest = self._platform.tables().latest_any(self._table, key)
        return self.on_top(key, newest.notes if newest else {})

    def on_top(self, key: str, found: Mapping[str, Any]) -> dict[str, Any]:
        """The same, on the notes that a writer went on from."""
        return with_costs(found, self.costs(key))


def model_of(row: VerifierRow) -> Scorer | None:
    """The model that a verifier asks, a judge or a reward model; None: it decides by rules."""
    judge = getattr(row, "judge", None)
    return judge.scorer if judge is not None else getattr(row, "reward_model", None)
