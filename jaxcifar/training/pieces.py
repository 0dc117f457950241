"""A pass in pieces: between two of them a progress bar moves and the run may stop."""

import time
from collections.abc import Callable

import jax

from jaxcifar.step.metrics import Metrics

OnPiece = Callable[[int, Metrics], None]  # (examples just done, sums so far)
# (steps of the next piece) -> how many of them to do now, 0 to stop. See `in_pieces`.
Allow = Callable[[int], int]
# Each call of a program takes its temporary memory from the system anew. On the CPU ResNet-18 paid
# 0.1 s of page faults for it: pieces of one or two steps (0.5 s) trained 30 % slower than the whole
# epoch in one call.
SECONDS_PER_PIECE = 3.0


def always(count: int) -> int:
    """The `Allow` that never stops."""
    return count


def in_pieces(
    advance: Callable[[int], Metrics],
    total: int,
    batch_size: int,
    on_piece: OnPiece | None,
    *,
    allow: Allow = always,
    limit: Callable[[int], int] | None = None,
    spoiled: Callable[[Metrics], bool] | None = None,
) -> bool:
    """Call `advance` in pieces that add up to `total` steps, and report each when it is done.

    The next piece is handed to the device before the last one's numbers are waited for, so the
    device never idles. Without `on_piece` it is one piece.

    Args:
        allow: gets the size of the next piece and returns the size it may have, 0 to stop.
        limit: the largest piece possible after this many steps.
        spoiled: whether nothing that follows a piece counts any more, by the sums after it; the
            piece that was handed over meanwhile is the last one then.

    Returns:
        Whether all steps were done.
    """
    piece, done = 1, 0
    pending: tuple[int, Metrics] | None = None
    last = time.perf_counter()
    while done < total:
        count = total - done if on_piece is None else min(piece, total - done)
        count = allow(count if limit is None else min(count, limit(done)))
        if count == 0:
            break
        current = (count * batch_size, advance(count))
        done += count
        if on_piece is None and spoiled is None:
            continue
        if pending is not None:
            jax.block_until_ready(pending[1])
            if on_piece is not None:
                on_piece(*pending)
            if spoiled is not None and spoiled(pending[1]):
                return False
            now = time.perf_counter()
            fitting = round(pending[0] / batch_size * SECONDS_PER_PIECE / max(now - last, 1e-6))
            piece, last = max(1, min(2 * piece, fitting)), now
        pending = current
    if pending is not None and on_piece is not None:
        jax.block_until_ready(pending[1])
        on_piece(*pending)
    return done == total
