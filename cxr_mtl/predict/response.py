"""From numbers to the answer a person or program reads. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cxr_mtl.bundle import Bundle
from cxr_mtl.errors import ImageError
from cxr_mtl.predict.admit import Novelty
from cxr_mtl.predict.options import quoted
from cxr_mtl.predict.regions import fuse_regions
from cxr_mtl.types import (
    EXPLANATIONS,
    FLAGGED,
    HEATMAP_FORMATS,
    Answer,
    FindingCall,
    Node,
    Options,
    Prediction,
    Radiograph,
)

DIGITS = 6  # of a probability in the answer: enough to compare two servers, few enough to read


def respond(
    bundle: Bundle, film: Radiograph, answer: Answer, options: Options, novelty: Novelty | None = None
) -> Prediction:
    """Apply an operating point to one film's numbers; heat maps are for the predictor to add."""
    thresholds = bundle.operating_points[options.operating_point]
    wanted = [f for f in bundle.ontology.findings if not f.group]
    if options.findings is not None:
        wanted = [f for f in wanted if f.name in options.findings]
    column = {name: i for i, name in enumerate(bundle.ontology.names)}
    calls = tuple(_call(f.name, float(answer.finding_probability[column[f.name]]), thresholds) for f in wanted)
    if options.top_k is not None:
        calls = _most_probable(calls, options.top_k)
    nodes = tuple(
        Node(f.name, f.parents, _number(answer.hierarchy_probability[i]), _number(answer.hierarchy_conditional[i]))
        for i, f in enumerate(bundle.ontology.findings)
    )
    names = {call.name for call in calls}
    called = {call.name for call in calls if call.call == "positive"}
    # No cut was fitted for weak boxes, as nobody drew any: they are shown of what is called.
    shown = [
        box
        for box in answer.boxes
        if options.boxes
        and box.finding in names
        and (box.finding in called if box.weak else box.score >= bundle.box_min_score)
    ]
    return Prediction(
        model={
            "name": bundle.name,
            "version": bundle.version,
            "sha256": bundle.sha256,
            "ontology": bundle.ontology.name,
        },
        image={
            "width": film.width,
            "height": film.height,
            "format": film.format,
            "inverted": film.inverted,
            "sha256": film.sha256,
            **({"novelty": novelty.to_dict()} if novelty else {}),
        },
        operating_point=options.operating_point,
        findings=calls,
        hierarchy=nodes,
        boxes=tuple(shown),
        warnings=film.notes + (novelty.warnings if novelty else ()),
        regions=fuse_regions(shown),
    )


def check_options(bundle: Bundle, options: Options) -> None:
    """Refuse what this bundle cannot give.

    Raises:
        ImageError: status 400; an unknown operating point, finding, method or format of heat maps, or a number below 1.
    """
    if options.operating_point not in bundle.operating_points:
        raise _bad(
            f"operating_point {quoted(options.operating_point)} is not one of this model's.",
            f"Choose one of: {', '.join(bundle.operating_points)}.",
        )
    known = bundle.ontology.names
    for name in (*(options.findings or ()), *(name for name in options.heatmaps if name != FLAGGED)):
        if name not in known:
            raise _bad(f"{quoted(name)} is not a finding of this model.", f"It knows: {', '.join(known)}.")
    attends = bundle.description.model.pooling == "attention"
    methods = [method for method in EXPLANATIONS if attends or method != "attention"]
    if options.explain is not None and options.explain not in methods:
        why = "this model has none" if options.explain == "attention" else "no such method of heat maps"
        raise _bad(f"explain {quoted(options.explain)}: {why}.", f"Choose one of: {', '.join(methods)}.")
    if options.heatmap_format not in HEATMAP_FORMATS:
        what = f"heatmap_format {quoted(options.heatmap_format)}: no such format of heat maps."
        raise _bad(what, f"Choose one of: {', '.join(HEATMAP_FORMATS)}.")
    if options.top_k is not None and options.top_k < 1:
        raise _bad(f"top_k {quoted(options.top_k)} is no number of findings.", "1 or more; leave it out for all.")


def findings_to_map(bundle: Bundle, prediction: Prediction, options: Options) -> list[str]:
    """The findings that heat maps are asked for, by name, each once."""
    asked = options.heatmaps or ((FLAGGED,) if options.explain else ())
    flagged = [f.name for f in prediction.findings if f.call == "positive" and f.name != bundle.ontology.normal]
    return list(dict.fromkeys(name for wish in asked for name in (flagged if wish == FLAGGED else (wish,))))


def _bad(message: str, hint: str) -> ImageError:
    return ImageError(message, code="bad_request", status=400, hint=hint)


def _most_probable(calls: tuple[FindingCall, ...], count: int) -> tuple[FindingCall, ...]:
    """The first ``count`` by probability, best first; what was never trained has none and is left out."""
    known = [call for call in calls if call.probability is not None]
    return tuple(sorted(known, key=lambda call: -(call.probability or 0.0))[:count])


def _call(name: str, probability: float, thresholds: Mapping[str, float]) -> FindingCall:
    if math.isnan(probability) or name not in thresholds:
        return FindingCall(name, "not_trained")
    threshold = thresholds[name]
    call = "positive" if probability >= threshold else "negative"
    return FindingCall(name, call, round(probability, DIGITS), round(threshold, DIGITS))


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), DIGITS)
