"""TorchServe's door to cxr_mtl: one class, translation only. ``cxr_mtl.predict.request`` reads and answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cxr_mtl
from cxr_mtl.package.checksums import verify_sums
from cxr_mtl.predict.health import Health
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.predict.request import answer_requests

_logger = logging.getLogger(__name__)


class CxrHandler:
    """One bundle, answering batches."""

    def initialize(self, context: Any) -> None:
        """Checks the unpacked archive against its sums and loads the bundle; an error here ends the worker."""
        folder = Path(context.system_properties["model_dir"])
        verify_sums(folder)
        gpu = context.system_properties.get("gpu_id")
        settings = (context.model_yaml_config or {}).get("cxr_mtl") or {}
        device = "cpu" if gpu is None else f"cuda:{gpu}"
        self.predictor = LocalPredictor(folder, device=device, threads=settings.get("threads"))
        self.health = Health()
        bundle = self.predictor.bundle
        _logger.info("%s %s on %s by %s", bundle.name, bundle.version, device, Path(cxr_mtl.__file__).parent)

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        """As many answers as requests, each with its own status; /predictions and /explanations may share a batch."""
        asks = [context.get_request_header(index, "explain") for index in range(len(data))]
        responses = answer_requests(self.predictor, data, [i for i, asked in enumerate(asks) if asked == "True"])
        self.health.note([response.status for response in responses])
        for index, response in enumerate(responses):
            context.set_response_status(response.status, response.phrase, index)
            context.set_response_content_type(index, "application/json")
        return [response.body for response in responses]
