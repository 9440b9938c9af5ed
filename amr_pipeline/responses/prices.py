"""What GPU time and tokens cost, in whatever money the deployment counts in.

Belongs here: time and tokens into money. Does not belong here: what was used (`responses.cost`), limits on it
(`responses.budget`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from amr_pipeline.studies.study import Distiller


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPrice:
    """What a server bills for a million tokens that it reads, and for a million that it writes."""

    prompts: float
    responses: float

    def of(self, prompt_tokens: float, response_tokens: float) -> float:
        """The bill for so many tokens."""
        return (prompt_tokens * self.prompts + response_tokens * self.responses) / 1e6


@dataclass(frozen=True, kw_only=True, slots=True)
class Prices:
    """All that a deployment says about prices.

    Attributes:
        gpu_hours: what one GPU costs an hour, by the distiller that runs on it; "" stands for all else that does.
        tokens: of distillers behind a server, by name; one without an entry has no price.
        servers: names of the distillers that cost tokens instead of GPU time (`of_study`).
    """

    gpu_hours: Mapping[str, float] = field(default_factory=dict)
    tokens: Mapping[str, TokenPrice] = field(default_factory=dict)
    servers: frozenset[str] = frozenset()

    def of_study(self, rows: Iterable[Distiller]) -> "Prices":
        """The same prices, knowing which of a study's distillers are behind a server."""
        return replace(self, servers=frozenset(row.name for row in rows if row.engine == "http"))

    def gpu_hour(self, name: str = "") -> float | None:
        """What a distiller's GPU costs an hour, or that of a model without a name; None where nobody said."""
        return self.gpu_hours.get(name, self.gpu_hours.get(""))

    def of_gpus(self, gpu_seconds: float | None, name: str = "") -> float | None:
        """Price of some GPU time; None where either is unknown, and no time costs nothing at any price."""
        price = self.gpu_hour(name)
        if gpu_seconds is None or (gpu_seconds > 0 and price is None):
            return None
        return gpu_seconds / 3600 * (price or 0.0)

    def why_unpriced(self, row: Distiller) -> str | None:
        """What has to be said before a distiller's responses have a price; None where nothing has to.

        An engine of one's own that asks for no GPU costs nothing, and neither do responses that exist already.
        """
        if row.engine == "http" and row.name not in self.tokens:
            return (
                f"what the tokens of {row.name!r} cost: AMR_PRICE_PER_MILLION_TOKENS={row.name}=PROMPTS/RESPONSES "
                "(0/0 where nobody bills them)"
            )
        if row.engine in ("vllm", "transformers") and row.gpus_per_replica > 0 and self.gpu_hour(row.name) is None:
            return "what a GPU-hour costs: AMR_PRICE_PER_GPU_HOUR"
        return None
