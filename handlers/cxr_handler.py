"""TorchServe's door to cxr_mtl: one class, translation only. ``cxr_mtl.predict.desk`` answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ts.metrics.metric_type_enum import MetricTypes

import cxr_mtl
from cxr_mtl.package.checksums import verify_sums
from cxr_mtl.predict.describe import describe
from cxr_mtl.predict.desk import Delivery, Desk, headers
from cxr_mtl.predict.device import device_of
from cxr_mtl.predict.envelopes import Served
from cxr_mtl.predict.health import Health
from cxr_mtl.predict.meters import METERS
from cxr_mtl.predict.neighbours import neighbours_here
from cxr_mtl.predict.predictor import LocalPredictor
from cxr_mtl.predict.request import TOGETHER

_logger = logging.getLogger(__name__)


class CxrHandler:
    """One bundle, answering batches."""

    def initialize(self, context: Any) -> None:
        """Checks the unpacked archive against its sums and loads the bundle; an error here ends the worker."""
        folder = Path(context.system_properties["model_dir"])
        verify_sums(folder)
        device = device_of(context.system_properties.get("gpu_id"))
        settings = (context.model_yaml_config or {}).get("cxr_mtl") or {}
        films = context.system_properties["batch_size"]
        predictor = LocalPredictor(folder, device, settings.get("threads"), neighbours_here(), max(TOGETHER, films))
        views = predictor.bundle.description.model.views
        served = Served(context.model_name, context.manifest["model"]["modelVersion"], views)
        self.desk = Desk(predictor, describe(predictor), served, films)
        add = context.metrics.add_metric_to_cache
        self.meters = {m: add(m.name, m.unit, list(m.labels), MetricTypes(m.kind)) for m in METERS}
        self.health = Health()
        bundle = predictor.bundle
        sources = Path(cxr_mtl.__file__).parent
        _logger.info("%s %s by %s, sources %s", bundle.name, bundle.version, predictor.engine, sources)

    def handle(self, data: Sequence[Mapping[str, Any]], context: Any) -> list[bytes]:
        """As many answers as requests, each with its own status; all of TorchServe's ways to ask may share a batch."""
        responses, readings = self.desk.answer(
            [
                Delivery(row, context.get_all_request_header(index), context.get_request_id(index))
                for index, row in enumerate(data)
            ]
        )
        codes = [code for response in responses for code in response.codes]
        self.health.note([response.status for response in responses], codes)
        for index, response in enumerate(responses):
            context.set_response_status(response.status, response.phrase, index)
            for name, value in headers(response).items():
                context.set_response_header(index, name, value)
        for reading in readings:
            self.meters[reading.meter].add_or_update(reading.value, list(reading.labels))
        return [response.body for response in responses]
