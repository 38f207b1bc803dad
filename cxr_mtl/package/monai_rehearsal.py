"""A MONAI bundle is looked at by MONAI and run: by path, in a process of its own, in the bundle's folder.

    python -I monai_rehearsal.py BUNDLE_FOLDER FILMS_FOLDER OUT_FOLDER

It imports nothing of cxr_mtl, and fails if what MONAI runs does.
"""

import os
import sys
import warnings
from pathlib import Path


def main(bundle: Path, films: Path, out: Path) -> None:
    """What the commands of the bundle's README do."""
    os.chdir(bundle)
    warnings.simplefilter("ignore")
    from monai.bundle.scripts import run, verify_net_in_out

    verify_net_in_out(
        net_id="network_def", meta_file="configs/metadata.json", config_file="configs/inference.json", device="cpu"
    )
    device = "$torch.device('cpu')"  # where the bundle's own answers come from
    run(config_file="configs/inference.json", dataset_dir=str(films), output_dir=str(out), device=device)
    if "cxr_mtl" in sys.modules:
        raise RuntimeError("the bundle runs code of cxr_mtl, which its users need not have")


if __name__ == "__main__":
    main(*(Path(argument).resolve() for argument in sys.argv[1:4]))
