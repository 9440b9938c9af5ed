"""How busy this machine is, for whoever waits by the clock for what takes CPU time."""

import os

LONGEST = 10.0


def crowd() -> float:
    """How many times longer than on an idle machine something takes: 1 to 10, by the last minute's load per core."""
    return min(LONGEST, 1.0 + os.getloadavg()[0] / (os.cpu_count() or 1))
