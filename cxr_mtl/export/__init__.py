"""An answer in the words of hospitals: DICOM structured report, presentation state and segmentation, FHIR.

Nothing here asks a model. ``Reports`` is handed each film's ``Prediction`` by ``cxr-mtl predict --format`` and writes
one file a film and format. ``sr``, ``gsps`` and ``seg`` need highdicom (the extra ``dicom``).
"""

from cxr_mtl.export.reports import FORMATS, Reports

__all__ = ["FORMATS", "Reports"]
