"""The structured report: TID 1500, Measurement Report, as Comprehensive SR.  Imports highdicom."""

from __future__ import annotations

from highdicom import sr
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from cxr_mtl.export.codes import CALL, CALLS, CHEST_IMAGING, ORIGIN, PROBABILITY, SCORE, THRESHOLD, WEAK, code_of
from cxr_mtl.export.parts import MAKER, about, concept, corners, device_uid, finish, new_uid, parameters
from cxr_mtl.types import DISCLAIMER, FindingCall, Prediction, ScoredBox


def make_sr(film: Dataset, prediction: Prediction) -> Dataset:
    """One measurement group a finding, and one a box.

    Args:
        film: its header, from ``read_film``.
        prediction: the film's answer.

    Returns:
        Preliminary, unverified, complete in that it holds all that the answer has but the tree and the heat maps.
    """
    by = sr.AlgorithmIdentification(
        name=prediction.model["name"],
        version=prediction.model["version"],
        parameters=[f"{name}: {value}" for name, value in parameters(prediction).items()],
    )
    findings = [_finding(film, found, by) for found in prediction.findings]
    boxes = [_box(film, box, number, by) for number, box in enumerate(prediction.boxes, 1)]
    observer = sr.DeviceObserverIdentifyingAttributes(
        uid=device_uid(prediction),
        name=prediction.model["name"],
        manufacturer_name=MAKER,
        model_name=f"{prediction.model['name']} {prediction.model['version']}",
        serial_number=prediction.model["sha256"],
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(codes.DCM.Device, observer_identifying_attributes=observer)
        ),
        procedure_reported=concept(CHEST_IMAGING),
        imaging_measurements=[*findings, *boxes],
    )
    _comment(report, [DISCLAIMER, *prediction.warnings])
    return finish(sr.ComprehensiveSR(evidence=[film], content=report, is_complete=True, **about(prediction, "SR")))


def _comment(report: sr.MeasurementReport, texts: list[str]) -> None:
    """Text of the report as a whole, before its numbers. TID 1500 is extensible: it lets documents add to it."""
    content = report[0].ContentSequence
    at = next(i for i, item in enumerate(content) if item.ValueType == "CONTAINER")
    for text in reversed(texts):
        content.insert(
            at, sr.TextContentItem(codes.DCM.Comment, text, relationship_type=sr.RelationshipTypeValues.CONTAINS)
        )


def _finding(
    film: Dataset, found: FindingCall, by: sr.AlgorithmIdentification
) -> sr.MeasurementsAndQualitativeEvaluations:
    """Probability, threshold and call; of a finding never trained, that it was not evaluated and nothing else."""
    numbers = [(PROBABILITY, found.probability), (THRESHOLD, found.threshold)]
    return sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(new_uid(), found.name),
        finding_type=concept(code_of(found.name)),
        algorithm_id=by,
        measurements=[
            sr.Measurement(concept(name), value, codes.UCUM.NoUnits) for name, value in numbers if value is not None
        ],
        qualitative_evaluations=[sr.QualitativeEvaluation(concept(CALL), concept(CALLS[found.call]))],
        source_images=[sr.SourceImageForMeasurementGroup(film.SOPClassUID, film.SOPInstanceUID)],
    )


def _box(
    film: Dataset, box: ScoredBox, number: int, by: sr.AlgorithmIdentification
) -> sr.PlanarROIMeasurementsAndQualitativeEvaluations:
    region = sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.POLYLINE,
        graphic_data=corners(box),
        source_image=sr.SourceImageForRegion(film.SOPClassUID, film.SOPInstanceUID),
    )
    return sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(new_uid(), f"{box.finding}, box {number}"),
        referenced_region=region,
        finding_type=concept(code_of(box.finding)),
        algorithm_id=by,
        measurements=[sr.Measurement(concept(SCORE), box.score, codes.UCUM.NoUnits)],
        qualitative_evaluations=[sr.QualitativeEvaluation(concept(ORIGIN), concept(WEAK))] if box.weak else None,
    )
