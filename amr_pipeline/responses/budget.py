"""A limit on what one run may spend on responses.

Belongs here: what is spent, and whether that is all. Does not belong here: who stops asking (`assets.response_ledger`).
"""

import threading

from amr_pipeline.responses.cost import money as money_of


class Budget:
    """Response tokens, and money at a price, that one run may spend; all of its distillers together.

    What is in flight when the budget is reached is taken, because it is paid for: a run ends above its budget by that
    much at most. Threads may share it.

    Args:
        tokens, money: the limits; None for none.
        price_per_gpu_hour: what a limit on money is counted with.

    Raises:
        ValueError: money is limited and nothing says what a GPU-hour costs.
    """

    def __init__(
        self, *, tokens: int | None = None, money: float | None = None, price_per_gpu_hour: float | None = None
    ) -> None:
        if money is not None and price_per_gpu_hour is None:
            raise ValueError("a budget in money needs the price of a GPU-hour (AMR_PRICE_PER_GPU_HOUR)")
        self.tokens, self.money, self._price = tokens, money, price_per_gpu_hour
        self.spent_tokens, self._gpu_seconds = 0, 0.0
        self._turn = threading.Lock()

    def spend(self, *, tokens: int = 0, gpu_seconds: float = 0.0) -> None:
        """Count what came."""
        with self._turn:
            self.spent_tokens += tokens
            self._gpu_seconds += gpu_seconds

    @property
    def spent_money(self) -> float | None:
        """Money spent on the GPUs that were held; None without a price."""
        return money_of(self._gpu_seconds, self._price)

    @property
    def is_spent(self) -> bool:
        """Whether nothing more may be asked."""
        if self.tokens is not None and self.spent_tokens >= self.tokens:
            return True
        return self.money is not None and self._gpu_seconds / 3600 * (self._price or 0.0) >= self.money

    def text(self) -> str:
        """`spent 1,040 of 1,000 tokens (0 left)`, and the same of money where it is limited."""
        said = []
        if self.tokens is not None:
            left = max(0, self.tokens - self.spent_tokens)
            said.append(f"{self.spent_tokens:,} of {self.tokens:,} tokens ({left:,} left)")
        if self.money is not None:
            spent = self.spent_money or 0.0
            said.append(f"{spent:,.2f} of {self.money:,.2f} money ({max(0.0, self.money - spent):,.2f} left)")
        return f"spent {' and '.join(said) or f'{self.spent_tokens:,} tokens'}"
