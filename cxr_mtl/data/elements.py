"""Walk a DICOM file and take out only the elements asked for, as bytes.

pydicom's reader is not used for this part, on purpose: it converts what it reads and reports what it dislikes through
``warnings`` and a logger, with the value (which may be a name) in the text; silencing it means changing the warning
filters of the whole process, which is not safe among threads. Here nothing that was not asked for is ever decoded,
memory is bounded by the file, and a broken length is a refusal instead of a guess. pydicom decodes the pixels.

A value is found by its tag, an int such as 0x00280010 for (0028,0010).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Set
from dataclasses import dataclass, field

from cxr_mtl.data.refuse import MAX_BYTES, RESEND, refuse
from cxr_mtl.errors import ImageError

IMPLICIT_LITTLE, EXPLICIT_LITTLE = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
EXPLICIT_BIG, DEFLATED = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
NATIVE = {IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG}

_TRANSFER_SYNTAX, _PIXEL_DATA = 0x00020010, 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_END_OF_IMAGE = b"\xff\xd9"  # of JPEG, JPEG-LS and JPEG 2000 alike
_VRS = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_MAX_DEPTH = 16  # sequences within sequences; real films have three or four
_MAX_STEPS = 200_000  # elements; real films have some hundreds


@dataclass
class Elements:
    """What one data set holds, undecoded.

    Attributes:
        order: ``<`` or ``>``, for struct.
        syntax: transfer syntax UID; what the bytes look like where the file does not say.
        values: tag to the value's bytes.
        items: tag of a sequence to its first item.
        frame: pixel data: as it is for a native syntax, the fragments joined for a compressed one; None without any.
        wide: True where pixel data was declared as 16-bit words, which matters for 8-bit big-endian pixels.
    """

    order: str = "<"
    syntax: str = ""
    values: dict[int, bytes] = field(default_factory=dict)
    items: dict[int, Elements] = field(default_factory=dict)
    frame: bytes | None = None
    wide: bool = False

    def text(self, tag: int) -> str:
        """First value as ASCII, upper case, without padding; empty where there is none."""
        return self.texts(tag)[0]

    def texts(self, tag: int) -> list[str]:
        """All values, each as ``text`` gives the first."""
        whole = self.values.get(tag, b"").decode("ascii", "replace")
        return [part.strip(" \0\t\r\n").upper() for part in whole.split("\\")]

    def number(self, tag: int) -> float | None:
        """First value of a decimal or integer string; None where it is absent, no number or not finite."""
        return next(iter(self.numbers(tag)), None)

    def numbers(self, tag: int) -> list[float]:
        """The values of a decimal or integer string, up to the first that is no number or not finite."""
        found: list[float] = []
        for text in self.texts(tag):
            try:
                value = float(text)
            except ValueError:
                break
            if not abs(value) < 1e30:  # also true for nan
                break
            found.append(value)
        return found

    def short(self, tag: int, *, signed: bool = False) -> int | None:
        """First 16-bit integer; None where it is absent."""
        value = self.values.get(tag, b"")
        if len(value) < 2:
            return None
        return int(struct.unpack_from(self.order + ("h" if signed else "H"), value)[0])


def is_dicom(data: bytes) -> bool:
    """Whether the file says that it is DICOM, or starts, without the preamble, like a DICOM data set."""
    if data[128:132] == b"DICM":
        return True
    if len(data) < 16 or data[:2] not in (b"\x02\x00", b"\x08\x00"):
        return False
    length = int.from_bytes(data[4:8], "little")
    return data[4:6] in _VRS | _LONG_VRS or (data[3] == 0 and length < len(data) - 8)


def read_elements(data: bytes, wanted: Set[int], sequences: Set[int]) -> Elements:
    """The wanted top-level elements up to and with the pixel data.

    Args:
        data: the file.
        wanted: tags to keep, at the top and in the first item of a kept sequence.
        sequences: tags of sequences whose first item is kept.

    Returns:
        The elements; ``frame`` is None where the file ends without pixel data.

    Raises:
        ImageError: ``truncated``, ``corrupt`` or ``too_large``.
    """
    at = 132 if data[128:132] == b"DICM" else 0
    meta = Elements()
    at = _Walker(data, "<", {_TRANSFER_SYNTAX}, set()).walk(meta, at, len(data), explicit=True, only_group=2)
    syntax = meta.text(_TRANSFER_SYNTAX)
    if syntax == DEFLATED:
        data, at, syntax = _inflate(data, at), 0, EXPLICIT_LITTLE
    order, explicit = _encoding(data[at : at + 6], syntax)
    found = Elements(order=order, syntax=syntax or (EXPLICIT_LITTLE if order == "<" else EXPLICIT_BIG))
    _Walker(data, order, wanted, sequences).walk(found, at, len(data), explicit=explicit)
    return found


def _inflate(data: bytes, at: int) -> bytes:
    """The data set of a deflated file, which may not be larger than a file may be."""
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        data_set = stream.decompress(memoryview(data)[at:], MAX_BYTES + 1)
    except zlib.error as error:
        raise _corrupt("is deflated and damaged") from error
    if len(data_set) > MAX_BYTES:
        limit = f"{MAX_BYTES // 1_000_000} MB"
        raise refuse("too_large", f"is a deflated DICOM file of more than {limit}", "Send a single film.")
    if not stream.eof:
        raise _truncated()
    return data_set


def _encoding(first: bytes, syntax: str) -> tuple[str, bool]:
    """Byte order, and whether elements carry their type: what the first element shows goes before what is declared."""
    big = syntax == EXPLICIT_BIG or (not syntax and len(first) > 1 and first[0] == 0 and first[1] != 0)
    return (">" if big else "<"), first[4:6] in _VRS | _LONG_VRS


class _Walker:
    """One pass over a data set. Positions and ends are offsets into the file."""

    def __init__(self, data: bytes, order: str, wanted: Set[int], sequences: Set[int]) -> None:
        self.data, self.order, self.wanted, self.sequences = data, order, wanted, sequences
        self.steps = 0

    def walk(
        self,
        into: Elements,
        at: int,
        end: int,
        *,
        explicit: bool,
        keep: bool = True,
        depth: int = 0,
        only_group: int = 0,
    ) -> int:
        """Keep what is wanted in ``into``; the position after the data set, its end mark or its pixel data."""
        while at < end:
            tag, vr, start, length = self._head(at, end, explicit)
            if only_group and tag >> 16 != only_group:
                return at
            if tag == _ITEM_END:
                return start
            if tag == _PIXEL_DATA and depth == 0:
                return self._pixels(into, vr, start, length)
            kept_sequence = keep and depth == 0 and tag in self.sequences
            if length == _UNDEFINED or kept_sequence:
                inner = Elements(order=self.order)
                at = self._sequence(inner, start, length, explicit and vr != b"UN", kept_sequence, depth + 1)
                if kept_sequence:
                    into.items[tag] = inner
            else:
                at = self._end(start, length)
                if keep and tag in self.wanted:
                    into.values[tag] = self.data[start:at]
        return at

    def _sequence(self, into: Elements, at: int, length: int, explicit: bool, keep: bool, depth: int) -> int:
        """Go over the items, keeping the first if asked; the position after the sequence."""
        if depth > _MAX_DEPTH:
            raise _corrupt("nests its sequences too deeply")
        end = len(self.data) if length == _UNDEFINED else self._end(at, length)
        number = 0
        while at < end:
            tag, _, start, size = self._head(at, end, explicit)
            if tag == _SEQUENCE_END:
                return start
            if tag != _ITEM:
                raise _corrupt("has a sequence with something else than items in it")
            stop = end if size == _UNDEFINED else self._end(start, size)
            at = stop
            if size == _UNDEFINED or (keep and number == 0):
                at = self.walk(into, start, stop, explicit=explicit, keep=keep and number == 0, depth=depth)
            number += 1
        if length == _UNDEFINED:
            raise _truncated()
        return at

    def _pixels(self, into: Elements, vr: bytes, start: int, length: int) -> int:
        into.wide = vr == b"OW"
        if into.syntax not in NATIVE:
            into.frame, at = self._fragments(
                start, len(self.data) if length == _UNDEFINED else self._end(start, length)
            )
            return at
        if length == _UNDEFINED:
            raise _corrupt("has compressed pixels but declares them uncompressed")
        at = self._end(start, length)
        into.frame = self.data[start:at]
        return at

    def _fragments(self, at: int, end: int) -> tuple[bytes, int]:
        """The compressed picture put together: every item but the first, which is a table of offsets."""
        parts: list[bytes] = []
        while at < end:
            tag, _, start, size = self._head(at, end, True)
            if tag == _SEQUENCE_END:
                return b"".join(parts[1:]), start
            if tag != _ITEM or size == _UNDEFINED:
                raise _corrupt("has compressed pixels that are not in fragments")
            at = self._end(start, size)
            parts.append(self.data[start:at])
        frame = b"".join(parts[1:])
        if not frame[-16:].rstrip(b"\0").endswith(_END_OF_IMAGE):  # the end mark may be forgotten, the picture not cut
            raise _truncated()
        return frame, at

    def _head(self, at: int, end: int, explicit: bool) -> tuple[int, bytes, int, int]:
        """Tag, type, start and length of the element at a position."""
        self.steps += 1
        if self.steps > _MAX_STEPS:
            raise _corrupt("has more elements than any film")
        if end - at < 8:
            raise _truncated()
        group, element = struct.unpack_from(self.order + "HH", self.data, at)
        tag, vr = group << 16 | element, self.data[at + 4 : at + 6]
        if group == 0xFFFE or not explicit or not vr.isalpha():
            return tag, b"", at + 8, struct.unpack_from(self.order + "L", self.data, at + 4)[0]
        if vr not in _LONG_VRS:
            return tag, vr, at + 8, struct.unpack_from(self.order + "H", self.data, at + 6)[0]
        if end - at < 12:
            raise _truncated()
        return tag, vr, at + 12, struct.unpack_from(self.order + "L", self.data, at + 8)[0]

    def _end(self, start: int, length: int) -> int:
        if start + length > len(self.data):
            raise _truncated()
        return start + length


def _truncated() -> ImageError:
    return refuse("truncated", "is a DICOM file that ends too early", RESEND)


def _corrupt(what: str) -> ImageError:
    return refuse("corrupt", f"is a DICOM file that {what}", RESEND)
