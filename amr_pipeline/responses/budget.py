"""The limit on what one run may spend on responses: reserved before a request goes out, settled when its answer came.

Over HTTP a request reserves the most that it may cost, so that nothing in flight overspends. An engine of one's own
reserves what a response is expected to take, because the most it may take, times all that is in flight, would leave
such an engine idle long before the budget ends, and what is in flight costs its GPUs in any case (`Allowance`).

Belongs here: what is reserved and spent, and who may ask. Does not belong here: asking (`assets.response_ledger`,
`engines.http_engine`).
"""

import threading
from dataclasses import dataclass

from amr_pipeline.responses.cost import Cost
from amr_pipeline.responses.prices import Prices
from amr_pipeline.studies.study import Distiller

PRIOR_RESPONSES = 30
"""Responses that what a row declares weighs as much as. The first to come are the short ones, and alone mislead."""


class BudgetSpent(Exception):
    """The next request does not fit, even where everything in flight turns out to cost nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """Tokens that are paid for, and money."""

    tokens: float = 0.0
    money: float = 0.0

    def __add__(self, other: "Amount") -> "Amount":
        """Both together."""
        return Amount(tokens=self.tokens + other.tokens, money=self.money + other.money)

    def __sub__(self, other: "Amount") -> "Amount":
        """What is left of it."""
        return Amount(tokens=self.tokens - other.tokens, money=self.money - other.money)


NOTHING = Amount()


class Budget:
    """What one run may spend, all of its distillers together; threads share it.

    Tokens are those that are paid for: what engines of one's own write, and prompts and responses over HTTP.

    Args:
        tokens, money: the limits; None for none.
        prices: what money is counted with.

    Attributes:
        spent: what was settled.
        has_refused: whether some request was refused for good, so that something may stay owed because of it.
    """

    def __init__(self, *, tokens: int | None = None, money: float | None = None, prices: Prices | None = None) -> None:
        self.tokens, self.money, self.prices = tokens, money, prices or Prices()
        self.spent, self.has_refused = NOTHING, False
        self._reserved, self._holds = NOTHING, 0
        self._changed = threading.Condition()

    @property
    def is_limited(self) -> bool:
        """Whether it may end before all is asked."""
        return self.tokens is not None or self.money is not None

    def require_prices(self, row: Distiller) -> None:
        """Make sure that a limit on money can be kept for a distiller.

        Raises:
            ValueError: money is limited and nothing says what the distiller costs.
        """
        missing = self.prices.why_unpriced(row) if self.money is not None else None
        if missing:
            raise ValueError(f"AMR_BUDGET_MONEY is set, and nothing says {missing}; set both, or a budget in tokens")

    def reserve(self, amount: Amount) -> bool:
        """Set an amount aside; False while what others hold may yet come back.

        Raises:
            BudgetSpent: it does not fit even when everything in flight turns out to cost nothing.
        """
        with self._changed:
            return self._reserve(amount)

    def wait(self, amount: Amount) -> None:
        """Set an amount aside as soon as it fits; for a thread that has nothing in flight itself.

        Raises:
            BudgetSpent: as `reserve`.
        """
        with self._changed:
            while not self._reserve(amount):
                self._changed.wait()

    def settle(self, reserved: Amount, used: Amount) -> None:
        """Pay what was used out of what was set aside; the rest is free again."""
        with self._changed:
            self._holds -= 1
            # Sums of fractions leave crumbs, and one would be waited for for ever.
            self._reserved = self._reserved - reserved if self._holds else NOTHING
            self.spent += used
            self._changed.notify_all()

    def _reserve(self, amount: Amount) -> bool:
        if not self._covers(self.spent, amount):
            self.has_refused = True
            raise BudgetSpent(f"{self.text()}, and the next response may take {self._said(amount)}")
        if not self._covers(self.spent, self._reserved, amount):
            return False
        self._reserved, self._holds = self._reserved + amount, self._holds + 1
        return True

    def _covers(self, *amounts: Amount) -> bool:
        is_within = self.tokens is None or sum(amount.tokens for amount in amounts) <= self.tokens
        return is_within and (self.money is None or sum(amount.money for amount in amounts) <= self.money)

    def _said(self, amount: Amount) -> str:
        parts = [f"{amount.tokens:,.0f} tokens"] if self.tokens is not None else []
        return " and ".join([*parts, *([f"{amount.money:,.4g} money"] if self.money is not None else [])])

    def text(self) -> str:
        """`spent 1,040 of 1,000 tokens (0 left)`, and the same of money where it is limited."""
        spent, said = self.spent, []
        if self.tokens is not None:
            left = max(0.0, self.tokens - spent.tokens)
            said.append(f"{spent.tokens:,.0f} of {self.tokens:,} tokens ({left:,.0f} left)")
        if self.money is not None:
            left = max(0.0, self.money - spent.money)
            said.append(f"{spent.money:,.2f} of {self.money:,.2f} money ({left:,.2f} left)")
        return f"spent {' and '.join(said) or f'{spent.tokens:,.0f} tokens'}"


class Allowance:
    """What one distiller's own engines draw from a run's budget.

    A request reserves what a response is expected to take: the mean of what records and this run say, together with
    what the row declares, or the most that it allows where it declares nothing, as if `PRIOR_RESPONSES` of that had
    been seen. Money is expected at the GPU time per token that was measured, none before anything was.

    A run may end above its budget by what the responses in flight at its end took beyond that expectation: in tokens
    at most `max_tokens` less the expectation for each of them.

    For one thread; `close` gives back what its requests hold where their answers do not come any more.
    """

    def __init__(self, budget: Budget, row: Distiller) -> None:
        self._budget, self._name = budget, row.name
        most = row.sampling.max_tokens
        self._prior = float(min(row.mean_response_tokens or most, most))
        self._responses, self._tokens, self._gpu_seconds = 0, 0, 0.0
        self._held: dict[str, Amount] = {}
        self._ready: Amount | None = None

    def know(self, cost: Cost) -> None:
        """Learn from what records say that responses took."""
        self._learn(cost.responses, cost.response_tokens, cost.gpu_seconds)

    def wait(self) -> bool:
        """Wait until the next request fits, with nothing of one's own in flight; False: none ever will."""
        likely = self._likely()
        if self._ready is None:
            try:
                self._budget.wait(likely)
            except BudgetSpent:
                return False
            self._ready = likely
        return True

    def reserve(self, identity: str) -> bool:
        """Whether a request may go out now; where not, its turn may come when nothing is in flight (`wait`)."""
        likely, is_granted = self._ready or self._likely(), self._ready is not None
        if not is_granted:
            try:
                is_granted = self._budget.reserve(likely)
            except BudgetSpent:
                return False
        if is_granted:
            self._held[identity], self._ready = likely, None
        return is_granted

    def settle(self, identity: str, tokens: int, gpu_seconds: float) -> None:
        """Pay for the answer to a request, and for the GPU time since the last one."""
        used = Amount(tokens=tokens, money=self._budget.prices.of_gpus(gpu_seconds, self._name) or 0.0)
        self._budget.settle(self._held.pop(identity), used)
        self._learn(1, tokens, gpu_seconds)

    def close(self) -> None:
        """Give back what is held for answers that do not come any more."""
        for held in [*self._held.values(), *([self._ready] if self._ready else [])]:
            self._budget.settle(held, NOTHING)
        self._held, self._ready = {}, None

    def _learn(self, responses: int, tokens: int, gpu_seconds: float) -> None:
        self._responses += responses
        self._tokens += tokens
        self._gpu_seconds += gpu_seconds

    def _likely(self) -> Amount:
        tokens = (PRIOR_RESPONSES * self._prior + self._tokens) / (PRIOR_RESPONSES + self._responses)
        seconds = self._gpu_seconds / self._tokens * tokens if self._tokens else 0.0
        return Amount(tokens=tokens, money=self._budget.prices.of_gpus(seconds, self._name) or 0.0)
