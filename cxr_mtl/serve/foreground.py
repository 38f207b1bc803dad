"""A server that stays in front, as containers and systemd want it: each ends when the other does."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from cxr_mtl.errors import ServeError
from cxr_mtl.serve import torchserve
from cxr_mtl.serve.command import serve
from cxr_mtl.serve.state import load_state
from cxr_mtl.serve.tls import Tls

_LOOK = 1.0  # seconds between two looks at whether it still runs


def serve_in_front(
    model_store: Path, *, tell: Callable[[str], None], port: int, state_dir: Path | None, host: str, tls: Tls | None
) -> None:
    """Starts the server, tells of it and waits until SIGTERM or SIGINT, which end it in order.

    Raises:
        ServeError: it did not start, or it ended by itself; nothing of it is left running.
    """
    state_dir = state_dir or torchserve.state_dir_of(model_store)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        lines, _ = serve(model_store, port=port, stop=False, status=False, state_dir=state_dir, host=host, tls=tls)
        tell("\n".join(lines))
        while (state := load_state(state_dir)) is not None and state.process() is not None:
            time.sleep(_LOOK)
        raise ServeError("TorchServe ended by itself.", hint=f"See {state_dir / 'logs'}.")
    except KeyboardInterrupt:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # What it has taken is answered, however often we are told.
        torchserve.stop(state_dir)
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: object) -> None:
    """While it starts too: whoever waits there cleans up after a Ctrl-C."""
    raise KeyboardInterrupt
