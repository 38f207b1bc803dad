"""Small DICOM files for tests, written by pydicom."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

H, W = 40, 48


def ramp(low: int, high: int, dtype: str) -> NDArray[Any]:
    """(H, W) from low to high, without any symmetry."""
    y, x = np.mgrid[0:H, 0:W]
    return np.rint(low + (high - low) * (0.6 * x / (W - 1) + 0.4 * (y / (H - 1)) ** 2)).astype(dtype)


def film(
    values: NDArray[Any] | None = None, bits: int = 12, syntax: str = ExplicitVRLittleEndian, **tags: Any
) -> Dataset:
    """A small radiograph; a tag given as None is left out."""
    values = ramp(0, (1 << bits) - 1, "u2") if values is None else values
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = "1.2.3"
    data.Modality, data.PatientName, data.PatientID, data.AccessionNumber = "CR", "Doe^Jane", "MRN-77", "ACC-99"
    data.Rows, data.Columns = values.shape
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = values.dtype.itemsize * 8, bits, bits - 1
    data.PixelRepresentation = int(values.dtype.kind == "i")
    data.PixelData = values.astype(values.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<")).tobytes()
    data["PixelData"].VR = "OW"
    for keyword, value in tags.items():
        if value is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    return data


def saved(data: Dataset, **options: Any) -> bytes:
    out = io.BytesIO()
    pydicom.dcmwrite(out, data, enforce_file_format="file_meta" in data.__dict__, **options)
    return out.getvalue()


def lut(values: NDArray[Any], first: int, bits: int) -> Sequence:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(values), first, bits], values.astype("<u2").tobytes()
    item["LUTDescriptor"].VR, item["LUTData"].VR = ("SS" if first < 0 else "US"), "OW"
    return Sequence([item])
