"""What a recipe means in steps: how many there are, and the learning rate at each.

Source: DeepDistill 4.1: linear warm-up over the first 5 % of the steps, then cosine to zero.
"""

import math


def num_steps(num_rows: int, batch_rows: int) -> int:
    """Optimizer steps over rows of all epochs; the last batch may be smaller."""
    return math.ceil(num_rows / batch_rows)


def learning_rate_at(step: int, total_steps: int, peak: float, warmup_ratio: float, floor_ratio: float = 0.0) -> float:
    """Rate of step `step` (from 1): rises linearly to `peak`, then falls by a cosine to `peak * floor_ratio`.

    Example: with 100 steps and a warm-up of 0.05, step 5 has the peak rate and step 100 the floor.
    """
    warmup = max(1, round(total_steps * warmup_ratio))
    if step <= warmup:
        return peak * step / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    return peak * (floor_ratio + (1 - floor_ratio) * 0.5 * (1 + math.cos(math.pi * progress)))


def mean_of_tenth(losses: list[float], which: str) -> float | None:
    """Mean loss of the first or last tenth of the steps (at least one); None when any of them is not finite."""
    if not losses:
        return None
    count = max(1, len(losses) // 10)
    tenth = losses[:count] if which == "first" else losses[-count:]
    return sum(tenth) / count if all(math.isfinite(loss) for loss in tenth) else None
