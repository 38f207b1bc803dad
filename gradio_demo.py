"""The demo: drop a chest film, see findings, boxes, a heat map and the tree. Research use only. Not for clinical use.

python gradio_demo.py --bundle runs/nih_convnext/best
python gradio_demo.py --url http://127.0.0.1:8080 --key-file key_file.json

The same as `cxr-mtl demo`, for who looks for a file to run: the command line parses, `cxr_mtl/demo/app.py` builds and
launches.
"""

from __future__ import annotations

import sys

from cxr_mtl.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "demo")
    main()
