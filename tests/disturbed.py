"""The command line, disturbed: started by a launcher in place of ``-m cxr_mtl``.

PAUSE_AT=step  and  PAUSE_MARK=file   the first rank stops for good before that step, and leaves the file
NAN_AT=step                           a gradient of that step is no number, though the loss is; on the last rank alone
LIMIT_RANK=rank  and  LIMIT=bytes     that rank cannot write longer files, as on a full disk
"""

import os
import resource
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from cxr_mtl.cli import main
from cxr_mtl.engine.engine import Engine

plain = Engine.backward_and_step


def step(self: Engine, loss: Tensor) -> Any:
    number = str(self.steps + 1)
    if os.environ["RANK"] == "0" and number == os.environ.get("PAUSE_AT"):
        Path(os.environ["PAUSE_MARK"]).touch()
        time.sleep(3600)
    if int(os.environ["RANK"]) + 1 == int(os.environ["WORLD_SIZE"]) and number == os.environ.get("NAN_AT"):
        next(self.module.parameters()).register_hook(lambda gradient: gradient * float("nan"))
    return plain(self, loss)


if __name__ == "__main__":
    if os.environ.keys() & {"PAUSE_AT", "NAN_AT"}:
        Engine.backward_and_step = step  # type: ignore[method-assign]
    if os.environ.get("RANK", "0") == os.environ.get("LIMIT_RANK"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(os.environ["LIMIT"]),) * 2)
    main()
