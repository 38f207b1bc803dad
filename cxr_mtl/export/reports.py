"""One file a film and format, written whole or not at all, and never over another."""

from __future__ import annotations

import importlib.util
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydicom.dataset import Dataset

from cxr_mtl.errors import ConfigError, ImageError
from cxr_mtl.export.fhir import make_fhir
from cxr_mtl.export.film import discreet, read_film, refuse_report
from cxr_mtl.predict.films import names_of
from cxr_mtl.predict.keep import Kept
from cxr_mtl.types import Prediction

FORMATS = {"sr": ".sr.dcm", "seg": ".seg.dcm", "gsps": ".gsps.dcm", "fhir": ".fhir.json", "json": ".json"}
"""Each format, and how the names of its files end."""
DICOM = frozenset({"sr", "seg", "gsps"})
_TAGS = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyInstanceUID")


class Reports:
    """The files that ``cxr-mtl predict --format`` writes.

    Attributes:
        shows_maps: whether any of the formats holds heat maps.
        wants_maps: whether one of them is made of heat maps, so that those of what is flagged are asked for.
    """

    def __init__(self, formats: Sequence[str], folder: Path, *, with_patient: bool = False) -> None:
        """Checks what is asked for before any film is judged.

        Args:
            formats: names of ``FORMATS``; each may be several, with commas between.
            folder: for the files; made if there is none.
            with_patient: whether FHIR may say who the patient is; DICOM always does.

        Raises:
            ConfigError: no such format, nothing that the patient could be said in, or highdicom is not installed.
        """
        self._formats = _known(formats)
        if with_patient and "fhir" not in self._formats:
            what = "--with-patient is of --format fhir: DICOM reports always name the patient, and json never does."
            raise ConfigError(what, hint="Leave it out, or ask for fhir.")
        if DICOM & set(self._formats) and importlib.util.find_spec("highdicom") is None:
            what = f"--format {','.join(f for f in self._formats if f in DICOM)} needs highdicom."
            raise ConfigError(what, hint='Install it with: pip install "cxr-mtl[dicom]"')
        self._folder, self._with_patient = folder, with_patient
        self._names: dict[Path, str] = {}
        self.wants_maps = "seg" in self._formats
        self.shows_maps = self.wants_maps or "json" in self._formats

    def begin(self, files: Sequence[Path]) -> None:
        """Learn which films there are, before the first is judged.

        Raises:
            ConfigError: a report lies there already, or two would be written to one place.
        """
        self._names = names_of(files)
        places = [self._path(file, format) for file in files for format in self._formats]
        for place, times in Counter(places).items():
            if times > 1:
                raise ConfigError(
                    f"{place} would be written twice.", hint="Name each film once, or give one a new name."
                )
            _check_free(place)

    def write(self, file: Path, prediction: Prediction) -> Kept:
        """Write one film's reports; all of them are made before the first is written.

        Raises:
            ImageError: one of the formats is not for this film.
            ConfigError: a report of that name has come to lie there.
        """
        try:
            with discreet():
                made, left_out = self._make(file, prediction)
        except (ImageError, ImportError, OSError, MemoryError):
            raise
        except Exception as error:  # what nobody foresaw in a film's tags: one film must not end a list
            why = "has tags of which no report could be made"
            raise refuse_report(file, why, "Export it anew, or ask for --format fhir or json.") from error
        self._folder.mkdir(parents=True, exist_ok=True)
        files = {}
        for format, content in made.items():
            path = self._path(file, format)
            _check_free(path)
            _write_whole(path, content)
            files[format] = str(path)
        return Kept(files, left_out)

    def _make(self, file: Path, prediction: Prediction) -> tuple[dict[str, bytes], tuple[str, ...]]:
        """Format to content, and what is left out."""
        wanted = set(self._formats)
        made: dict[str, bytes] = {}
        left_out: tuple[str, ...] = ()
        patient = None
        if wanted & DICOM or self._with_patient:
            film = read_film(file, prediction)
            if wanted & DICOM:
                made, left_out = _dicom(wanted, film, prediction)
            if self._with_patient:
                patient = {keyword: str(film.get(keyword, "")) for keyword in _TAGS}
        if "fhir" in wanted:
            made["fhir"] = _text(make_fhir(prediction, datetime.now(UTC), patient))
        if "json" in wanted:
            made["json"] = _text(prediction.to_dict())
        return {format: made[format] for format in self._formats if format in made}, left_out

    def _path(self, file: Path, format: str) -> Path:
        return self._folder / f"{self._names[file]}{FORMATS[format]}"


def _known(formats: Sequence[str]) -> list[str]:
    names = [name.strip() for given in formats for name in given.split(",")]
    if wrong := [name for name in names if name not in FORMATS]:
        raise ConfigError(f"--format {wrong[0]!r}: no such format.", hint=f"Choose of: {', '.join(FORMATS)}.")
    return list(dict.fromkeys(names))


def _dicom(wanted: set[str], film: Dataset, prediction: Prediction) -> tuple[dict[str, bytes], tuple[str, ...]]:
    from cxr_mtl.export.gsps import make_gsps  # here, for only these need highdicom
    from cxr_mtl.export.seg import make_seg
    from cxr_mtl.export.sr import make_sr

    made: dict[str, Dataset] = {}
    left_out: tuple[str, ...] = ()
    if "sr" in wanted:
        made["sr"] = make_sr(film, prediction)
    if "gsps" in wanted:
        made["gsps"] = make_gsps(film, prediction)
    if "seg" in wanted:
        segmentation, left_out = make_seg(film, prediction)
        made |= {"seg": segmentation} if segmentation else {}
    return {format: _file(dataset) for format, dataset in made.items()}, left_out


def _file(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _text(content: Mapping[str, object]) -> bytes:
    return (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode()


def _check_free(path: Path) -> None:
    if path.exists():
        raise ConfigError(f"{path} is there already.", hint="Name another folder with --reports, or move it away.")


def _write_whole(path: Path, content: bytes) -> None:
    """Written beside its place, then moved there."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draft.write_bytes(content)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
