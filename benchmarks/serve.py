"""Requests a second of TorchServe with our archive: against its stock handler, four other servers and no server at all.

    python benchmarks/serve.py [--quick] [--json FILE] [--bundle DIR] [--films DIR] [--rivals PYTHON] [--rounds N]
                               [--servers NAME ...]

One run on two cores. Every server starts, is warmed, is asked for one window by 1, by 4 and by 16 callers, and ends;
then the next; several rounds. Callers post grey PNGs of 1024 px and post the next when they have the answer. All serve
the same three-head network (without --bundle convnext_tiny at 224 px of random weights), and every answer is compared
with that of fp32 eager in this process: probabilities within a bound (0.001, bfloat16 0.05), and of ours all calls at
the operating point, which must be the same. It ends with 1 where one is wrong or refused, or a server did not run.

Settings read w2 t1 b4: two workers of one torch thread, at most four films in a forward pass. Rivals run with each of
three settings and count with the best at each number of callers; ours counts as `cxr-mtl package` and `cxr-mtl serve`
make it. TorchServe's stock image_classifier runs at its defaults, with grey transforms, because its own fail on a
picture of one channel. Rivals and stock do less than ours for a film: they decode, resize, run the network and give
probabilities; ours also checks what was sent, and finds boxes, the tree and calibrated probabilities. The limit is a
process without a server, of one worker with two threads or two with one, at the best number of films at once: the
forward pass alone, and all from a file's bytes to the answer's.

Rivals have an environment of their own, which sees this one's torch and timm behind its own packages:

    python -m venv RIVALS
    RIVALS/bin/pip install litserve==0.2.19 bentoml==1.4.40 'ray[serve]==2.60.0' fastapi==0.165.0 uvicorn==0.54.0
    python -c 'import site; print(site.getsitepackages()[0])' > RIVALS/lib/python3.11/site-packages/project.pth
    python benchmarks/serve.py --rivals RIVALS/bin/python
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import sys
from pathlib import Path

from parts.serve_peer import RIVALS

from cxr_mtl.errors import CxrError
from cxr_mtl.serve.java import find_java

CORES = 2


def main() -> None:
    arguments = parse()
    skip_where_nothing_runs()
    # A larger machine is made as small; a setting of threads from outside would be nobody's default.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    os.environ.pop("OMP_NUM_THREADS", None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server outlives the benchmark
    from parts.serve_run import run  # what it imports is not here without TorchServe

    run(arguments)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a toy network and short windows: shows that it runs")
    parser.add_argument("--json", type=Path, help="write the figures here, after every round")
    parser.add_argument("--bundle", type=Path, help="a trained one; random weights without")
    parser.add_argument("--manifest", type=Path, help="of labelled films that prove our bfloat16 on the trained bundle")
    parser.add_argument("--films", type=Path, default=Path("../shared/data/nih"), help="holds native_1024/; else drawn")
    parser.add_argument("--rivals", default=sys.executable, help="the interpreter that runs the rivals")
    parser.add_argument("--rounds", type=int, help="turns of each server; 3, quick 1")
    names = ["stock", "ours", *RIVALS]
    parser.add_argument("--servers", nargs="*", choices=names, default=names, help="which; all by default")
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 3)
    return arguments


def skip_where_nothing_runs() -> None:
    """Without TorchServe there is nothing to compare with anything."""
    lacking = [name for name in ("ts", "model_archiver", "psutil") if importlib.util.find_spec(name) is None]
    try:
        find_java()
    except CxrError:
        lacking.append("Java")
    if lacking:
        print(f"serve skipped, for want of {', '.join(lacking)}. Run `pip install 'cxr-mtl[serve]'`.")
        sys.exit(0)


if __name__ == "__main__":
    main()
