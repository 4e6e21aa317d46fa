"""When a loss jumps: worth a word, since the run may go astray, but no reason to stop it.

Losses of steps differ by their examples, so a jump is one that stands far out of the spread of the
steps before. A pure function of the last losses: a run that goes on after a stop sees the same.
"""

import math
import statistics
from collections.abc import Sequence

WINDOW = 24
# fewer steps before say little of what is usual; the first ones fall steeply anyway
FEWEST = 16
# of normal losses one in a billion lies so far out; those of small batches have longer tails
SPREADS = 6.0
# 1.4826 times the median distance from the median is a standard deviation of normal numbers
TO_DEVIATION = 1.4826
TIMES = 1.5


def describe_jump(before: Sequence[float], loss: float) -> str | None:
    """Say by how much a loss jumped, None where it did not; a jump that lasts is told once."""
    if len(before) < FEWEST or not math.isfinite(loss):
        return None
    usual = statistics.median(before)
    spread = TO_DEVIATION * statistics.median(abs(one - usual) for one in before)
    limit = max(usual + SPREADS * spread, TIMES * usual)
    if loss <= limit or before[-1] > limit:
        return None
    return (
        f"the loss jumped to {loss:.3f}, {loss / usual:.1f} times the usual {usual:.3f} "
        f"of the {len(before)} steps before"
    )
