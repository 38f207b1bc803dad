"""What every rival of benchmarks/serve.py does with a film, and how each is told its setting.

The least that an honest server can do: decode, resize, normalise, the whole three-head network in fp32, probabilities.
No boxes from their logits, no calibration, no gate, no checks of what was sent: that is in the rivals' favour.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cxr_mtl.bundle import load_bundle
from cxr_mtl.model.multitask import normalise


@dataclass(frozen=True)
class Rival:
    """Its script here, the packages it needs, and the form's field for a film; empty for a bare body."""

    script: str
    packages: tuple[str, ...]
    form: str = ""


RIVALS = {
    "FastAPI": Rival("serve_fastapi.py", ("fastapi", "uvicorn")),
    "LitServe": Rival("serve_litserve.py", ("litserve",), form="film"),
    "BentoML": Rival("serve_bentoml.py", ("bentoml",)),
    "Ray Serve": Rival("serve_ray.py", ("ray",)),
}
VARIABLE = "CXR_SERVE_SETTING"
HOST = "127.0.0.1"


@dataclass(frozen=True)
class Setting:
    """Processes, torch threads of each, and films in one forward pass at most."""

    workers: int
    threads: int
    batch: int
    bundle: str = ""
    port: int = 0

    def __str__(self) -> str:
        return f"w{self.workers} t{self.threads} b{self.batch}"

    def environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self)), "OMP_NUM_THREADS": str(self.threads)}


def setting() -> Setting:
    """The one that this process was started with."""
    return Setting(**json.loads(os.environ[VARIABLE]))


class Peer:
    """The network of a bundle, as a rival's worker holds it."""

    def __init__(self, bundle: str, threads: int) -> None:
        torch.set_num_threads(threads)
        loaded = load_bundle(Path(bundle))
        self._network, self._side, self._names = loaded.model, loaded.image_size, loaded.ontology.names

    def prepare(self, film: bytes | Image.Image) -> Tensor:
        """(1, S, S) uint8 of a file's bytes, or of a picture that was opened."""
        picture = Image.open(io.BytesIO(film)) if isinstance(film, bytes) else film
        small = picture.convert("L").resize((self._side, self._side), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(small))[None]

    @torch.inference_mode()
    def judge(self, films: Sequence[Tensor]) -> list[dict[str, dict[str, float]]]:
        """Every finding's probability, of each film."""
        outputs = self._network(normalise(torch.stack(list(films))))
        table = outputs.findings.sigmoid().tolist()
        return [{"findings": dict(zip(self._names, row, strict=True))} for row in table]
