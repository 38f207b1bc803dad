"""The real DICOM files of ../shared/data/dicom; what each holds, its README says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_modality_lut, apply_voi_lut

from cxr_mtl.data.read import read_frontal, read_image
from cxr_mtl.errors import ImageError
from cxr_mtl.types import Radiograph

CHESTS = ("CR-MONO1-10-chest", "RG1_J2KI", "RG1_J2KR", "RG1_JLSN", "RG1_UNCR", "nih_udacity_test1")


@pytest.fixture(scope="module")
def films(real_films: Path) -> dict[str, Path]:
    folder = real_films / "dicom"
    if not folder.is_dir():
        pytest.skip("../shared/data/dicom is not here")
    return {path.stem: path for path in sorted(folder.glob("*.dcm"))}


@pytest.fixture(scope="module")
def read(films: dict[str, Path]) -> dict[str, Radiograph]:
    return {stem: read_image(films[stem]) for stem in CHESTS}


def test_every_file_is_a_chest_or_refused_as_none(films: dict[str, Path]) -> None:
    refused = {}
    for stem in set(films) - set(CHESTS):
        with pytest.raises(ImageError) as caught:
            read_image(films[stem])
        refused[stem] = (caught.value.code, caught.value.status)
        assert "chest" in str(caught.value)
    assert refused == {"nih_udacity_test5": ("not_radiography", 422), "nih_udacity_test4": ("not_chest", 422)}


def test_lossless_copies_are_equal_and_lossy_ones_close(read: dict[str, Radiograph]) -> None:
    original = read["RG1_UNCR"].pixels
    assert original.std() > 0.1
    np.testing.assert_array_equal(read["RG1_J2KR"].pixels, original)
    for stem in ("RG1_J2KI", "RG1_JLSN"):
        difference = np.abs(read[stem].pixels - original)
        assert 0 < difference.mean() < 0.002, stem  # of the grey scale
        assert difference.max() < 0.05, stem


def test_lungs_are_dark_and_bones_bright_in_every_polarity(read: dict[str, Radiograph]) -> None:
    """Both upper lung fields against the spine and mediastinum between them and the belly below them."""
    assert {stem for stem, film in read.items() if film.inverted} == set(CHESTS) - {"nih_udacity_test1"}
    for stem, film in read.items():

        def brightness(top: float, bottom: float, left: float, right: float, film: Radiograph = film) -> float:
            rows, columns = (
                slice(int(a * n), int(b * n)) for a, b, n in ((top, bottom, film.height), (left, right, film.width))
            )
            return float(np.median(film.pixels[rows, columns]))

        lungs = brightness(0.25, 0.42, 0.22, 0.38), brightness(0.25, 0.42, 0.63, 0.78)
        spine, belly = brightness(0.35, 0.7, 0.46, 0.54), brightness(0.88, 0.97, 0.2, 0.8)
        assert max(lungs) + 0.08 < min(spine, belly), (stem, lungs, spine, belly)


@pytest.mark.parametrize("stem", ["CR-MONO1-10-chest", "RG1_UNCR", "RG1_J2KI"])
def test_real_windows_agree_with_pydicom(films: dict[str, Path], read: dict[str, Radiograph], stem: str) -> None:
    data = pydicom.dcmread(films[stem], force=True)
    if "TransferSyntaxUID" not in data.file_meta:
        data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
    shown = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data)
    top = (1 << data.BitsStored) - 1
    np.testing.assert_allclose(read[stem].pixels, 1 - shown / top, atol=2e-5)


def test_views_are_known_where_the_films_state_them(films: dict[str, Path], read: dict[str, Radiograph]) -> None:
    views = {stem: film.view for stem, film in read.items()}
    assert views == dict.fromkeys(CHESTS, "PA") | {"nih_udacity_test1": "UNKNOWN"}
    assert read_frontal(films["RG1_UNCR"]).sha256 == read["RG1_UNCR"].sha256
