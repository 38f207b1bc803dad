"""An unpacked archive answers films as a worker of TorchServe would: run by path, in a process of its own.

    python -I rehearsal.py ARCHIVE_FOLDER FILMS_FOLDER

Prints one JSON line a film, in the order of their names, after one line that says whose sources answered. It imports
nothing of cxr_mtl itself, so that what is imported is what the archive brings.
"""

import json
import os
import sys
from pathlib import Path


def main(archive: Path, films: Path) -> None:
    """What ``ts.model_service_worker`` does, without its socket."""
    sys.path.insert(0, str(archive))
    os.chdir(archive)
    import ts
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl
    from ts.model_loader import ModelLoaderFactory
    from ts.service import Service

    metrics = MetricsCacheYamlImpl(config_file_path=str(Path(ts.__file__).parent / "configs" / "metrics.yaml"))
    metrics.initialize_cache()
    model = json.loads((archive / "MAR-INF" / "MANIFEST.json").read_text(encoding="utf-8"))["model"]
    loader = ModelLoaderFactory.get_model_loader()
    service = loader.load(model["modelName"], str(archive), model["handler"], batch_size=1, metrics_cache=metrics)
    lines = [json.dumps({"sources": sys.modules["cxr_mtl"].__file__})]
    for film in sorted(films.iterdir()):
        request = {"name": "body", "value": film.read_bytes(), "contentType": "application/octet-stream"}
        batch = [{"requestId": film.name.encode(), "parameters": [request], "headers": []}]
        headers, rows, ids = Service.retrieve_data_for_inference(batch)
        service.context.request_ids, service.context.request_processor = ids, headers
        metrics.set_request_ids(film.name)
        (body,) = service._entry_point(rows, service.context)
        lines.append(json.dumps({"status": service.context.get_response_status(0)[0], "answer": json.loads(body)}))
    sys.stdout.write("\n".join(["", "ANSWERS", *lines, ""]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
