"""What a DICOM file says of itself: is it a chest radiograph, of which view, and what is doubtful about it.

The words read here come out of fixed lists of the standard (modality, part of the body, view), but people type into
such fields too, so no value is ever quoted in a message.
"""

from __future__ import annotations

import math
import re

from cxr_mtl.data.elements import Elements
from cxr_mtl.data.refuse import refuse

SOP_CLASS, MODALITY, INTENT = 0x00080016, 0x00080060, 0x00080068
BODY_PART, VIEW, ORIENTATION = 0x00180015, 0x00185101, 0x00200020
SAMPLES, PHOTOMETRIC, FRAMES, PRESENTATION_SHAPE = 0x00280002, 0x00280004, 0x00280008, 0x20500020
PIXEL_SPACING, IMAGER_SPACING, ASPECT = 0x00280030, 0x00181164, 0x00280034
REGION, VIEW_CODE = 0x00082218, 0x00540220  # sequences; their first item holds a code and the scheme it is from
CODE, SCHEME = 0x00080100, 0x00080102

EXAMINATION_TAGS = frozenset(
    {SOP_CLASS, MODALITY, INTENT, BODY_PART, VIEW, ORIENTATION, SAMPLES, PHOTOMETRIC, FRAMES, PRESENTATION_SHAPE}
    | {PIXEL_SPACING, IMAGER_SPACING, ASPECT, CODE, SCHEME}
)
EXAMINATION_SEQUENCES = frozenset({REGION, VIEW_CODE})

_RADIOGRAPHY = {"CR", "DX", "DR", "RG"}
_UNSTATED_MODALITY = {"", "OT", "SC"}
_OTHER_MODALITIES = {
    "CT": "a CT slice",
    "MR": "an MR slice",
    "US": "an ultrasound picture",
    "MG": "a mammogram",
    "XA": "an angiogram",
    "RF": "a fluoroscopy picture",
    "NM": "a scintigram",
    "PT": "a PET slice",
    "PX": "a panoramic dental film",
    "IO": "a dental film",
    "XC": "a photograph",
    "ES": "an endoscopy picture",
    "SM": "a microscope slide",
}
_STORAGE = "1.2.840.10008.5.1.4.1.1."  # what the kind of object tells where no modality does
_OTHER_CLASSES = {
    "1.2": "MG",
    "1.3": "IO",
    "2": "CT",
    "3.1": "US",
    "4": "MR",
    "6.1": "US",
    "12.1": "XA",
    "12.2": "RF",
    "20": "NM",
    "77.1.1": "ES",
    "77.1.4": "XC",
    "77.1.6": "SM",
    "128": "PT",
}
_ENCAPSULATED_PDF = _STORAGE + "104.1"

# A film may say nothing of the part of the body, but what it says must name the chest. A list of all other parts would
# never be complete (languages, makers' own words), and a knee answered as a chest is worse than one tag to correct.
_UNSTATED_PART = {"", "UNKNOWN", "UNDEFINED", "UNSPECIFIED", "OTHER", "NONE", "NULL", "NA", "DEFAULT"}
_CHEST = ("CHEST", "THORA", "TORAX", "TORACE", "LUNG", "PULMO", "HEART", "CARDIAC", "MEDIASTIN", "CXR")
# Examinations of the skeleton around the chest are exposed and collimated for bone, also where they name the chest.
_SKELETON = re.compile(r"\b(RIB|STERN|CLAVI|SCAPU|SHOULDER|VERTEB)|SPIN[AE]|LUMB")
# Codes of CID 4009 in both spellings: chest, lung, heart, mediastinum, and the chest with its neighbours.
_CHEST_CODES = (
    {"T-D3000", "51185008", "816094009", "T-28000", "39607008", "T-32000", "80891009", "T-D3300", "72410000"}
    | {"R-FAB52", "417437006", "R-FAB53", "416152001", "R-FAB54", "416319003", "R-FAB55", "416550000"}
    | {"R-FAB56", "416775004"}
)  # fmt: skip
_STANDARD_SCHEMES = {"SRT", "SNM3", "99SDM", "SCT"}

_CODES_OF_VIEWS = {  # CID 4010
    "PA": {"R-10214", "R-40888", "272479007"},
    "AP": {"R-10206", "399348003"},
    "LATERAL": {"R-10236", "399173006", "R-10232", "399198007", "R-102CD", "399067008", "R-10224", "399260004"}
    | {"R-10228", "399352003"},
}
_LATERAL = re.compile(r"\b(LL|RL|LAT|LLAT|RLAT|L LAT|R LAT|LATERAL\w*|X?TABLELAT\w*)\b")
_NOT_STRAIGHT = re.compile(r"\b([RL]LD|[RL]LO|[LR][AP]O|OBL\w*|DECUB\w*)\b")  # on the side, or turned
_MAX_STRETCH = 1.02  # of a pixel's sides; spacings are often rounded


def judge(film: Elements) -> list[str]:
    """Notes on what is doubtful about a film that may be read.

    Raises:
        ImageError: it is no chest radiograph with one grey frame: ``not_radiography``, ``not_chest``, ``no_pixels``,
            ``multi_frame`` or ``colour``.
    """
    modality = film.text(MODALITY)
    if film.text(SOP_CLASS) == _ENCAPSULATED_PDF:
        raise refuse("no_pixels", "is a PDF document inside DICOM", "Send the film, not its report.")
    if modality in _UNSTATED_MODALITY and film.text(SOP_CLASS).startswith(_STORAGE):
        modality = _OTHER_CLASSES.get(film.text(SOP_CLASS)[len(_STORAGE) :], modality)
    if modality not in _RADIOGRAPHY | _UNSTATED_MODALITY:
        what = _OTHER_MODALITIES.get(modality, "of another modality")
        raise refuse("not_radiography", f"is {what}, not a radiograph", "Send a CR or DX film of the chest.")
    if film.frame is None:
        raise refuse("no_pixels", "is a DICOM file without a picture", "Send the image object of the study.")
    if (film.number(FRAMES) or 1) > 1:
        raise refuse("multi_frame", "has more than one frame", "Send one frame as a file of its own.")
    if film.text(PHOTOMETRIC) not in ("", "MONOCHROME1", "MONOCHROME2") or (film.short(SAMPLES) or 1) != 1:
        raise refuse("colour", "is a colour DICOM picture; a film is grey", "Send the original, not a capture of it.")
    if not shows_chest(film):
        hint = "If it is one, set Body Part Examined (0018,0015) to CHEST, or leave it empty."
        raise refuse("not_chest", "is by its own account not a film of the chest", hint)
    return [note for note, holds in _doubts(film, modality).items() if holds]


def _doubts(film: Elements, modality: str) -> dict[str, bool]:
    view, polarity = view_of(film), (film.text(PHOTOMETRIC), film.text(PRESENTATION_SHAPE))
    return {
        "modality not stated; read as a radiograph": modality in _UNSTATED_MODALITY,
        "lateral view; the model is trained on frontal films": view == "LATERAL",
        "oblique or decubitus view; the model is trained on upright or supine frontal films": (
            view != "LATERAL" and bool(_NOT_STRAIGHT.search(_words(film.text(VIEW))))
        ),
        "detector data for processing, not for presentation: the greys may be unlike a film's": (
            film.text(INTENT) == "FOR PROCESSING"
        ),
        "polarity not stated; read as bright is dense": not film.text(PHOTOMETRIC),
        "photometric interpretation and presentation shape contradict one another; read as inverted": (
            polarity in (("MONOCHROME1", "IDENTITY"), ("MONOCHROME2", "INVERSE"))
        ),
        "its pixels are not square; read as stored, so that boxes stay in the file's pixels": _is_stretched(film),
        "stored turned or mirrored, by its patient orientation; read as stored": (
            view != "LATERAL" and _orientation(film) not in ("", "LF")
        ),
    }


def shows_chest(film: Elements) -> bool:
    """Whether the film says of the part of the body that it is the chest, or says nothing of it."""
    part = _words(film.text(BODY_PART))
    letters = part.replace(" ", "")
    if letters in _UNSTATED_PART and film.text(BODY_PART).isascii():
        region = film.items.get(REGION)
        coded = region is not None and region.text(SCHEME) in _STANDARD_SCHEMES and bool(region.text(CODE))
        return not coded or (region is not None and region.text(CODE) in _CHEST_CODES)
    return any(stem in letters for stem in _CHEST) and not _SKELETON.search(part)


def view_of(film: Elements) -> str:
    """``PA``, ``AP``, ``LATERAL`` or ``UNKNOWN``: by the view's name, else its code, else the patient's orientation."""
    words = _words(film.text(VIEW))
    if words:
        letters = words.replace(" ", "")
        if _NOT_STRAIGHT.search(words):
            return "UNKNOWN"
        if _LATERAL.search(words):
            return "LATERAL"
        if re.search(r"\bPA\b", words) or "POSTEROANTERIOR" in letters:
            return "PA"
        return "AP" if re.search(r"\bAP\b", words) or "ANTEROPOSTERIOR" in letters else "UNKNOWN"
    code = film.items.get(VIEW_CODE)
    for view, codes in _CODES_OF_VIEWS.items():
        if code is not None and code.text(CODE) in codes:
            return view
    return "LATERAL" if set(_orientation(film)) in ({"A", "F"}, {"P", "F"}, {"A", "H"}, {"P", "H"}) else "UNKNOWN"


def _orientation(film: Elements) -> str:
    """Where rows and columns of the picture run to, two letters such as ``LF``; empty where it is not stated."""
    ends = "".join(text[:1] for text in film.texts(ORIENTATION)[:2])
    return ends if len(ends) == 2 and set(ends) <= set("LRAPHF") else ""


def _is_stretched(film: Elements) -> bool:
    """Whether pixels are higher than wide or wider than high."""
    for tag in (PIXEL_SPACING, IMAGER_SPACING, ASPECT):
        sides = film.numbers(tag)[:2]
        if len(sides) == 2 and min(sides) > 0:
            return abs(math.log(sides[0] / sides[1])) > math.log(_MAX_STRETCH)
    return False


def _words(text: str) -> str:
    """Runs of letters, one space between them."""
    return " ".join(re.findall(r"[A-Z]+", text))
