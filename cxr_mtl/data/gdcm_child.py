"""Decode one JPEG frame with gdcm: a program of its own, because gdcm may crash on damaged bytes.

gdcm is the only maintained decoder of lossless and 12-bit JPEG, and some changed bytes end it with a segmentation
fault, which would take a whole server or packing run along. Here it takes only this process, and its memory, time and
its chatter on stderr are bounded too. Started by ``codecs``; frame on stdin, values on stdout, little endian.

Arguments: transfer syntax, rows, columns, bits allocated, bits stored, pixel representation.
"""

from __future__ import annotations

import sys

NO_DECODER, FAILED = 3, 4  # exit statuses
_MEMORY = 1 << 29  # for Python and gdcm before any pixel
_BYTES_PER_PIXEL = 24  # stdin, gdcm's copies, a str with four bytes a character, and stdout
_SECONDS = 60  # of computing


def main(arguments: list[str]) -> int:
    """Exit status; 0 with the values written."""
    syntax, (rows, columns, allocated, stored, signed) = arguments[0], (int(word) for word in arguments[1:])
    _limit(_MEMORY + _BYTES_PER_PIXEL * rows * columns)
    try:
        import gdcm
    except ImportError:
        return NO_DECODER
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(sys.stdin.buffer.read())
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    pixels = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    pixels.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(pixels)
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    image.SetPixelFormat(gdcm.PixelFormat(1, allocated, stored, stored - 1, signed))
    values = image.GetBuffer().encode("utf-8", "surrogateescape")  # gdcm hands bytes over as a str
    if len(values) != rows * columns * allocated // 8:
        return FAILED
    sys.stdout.buffer.write(values)
    return 0


def _limit(memory: int) -> None:
    if sys.platform == "win32":
        return
    import resource

    for what, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, _SECONDS), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(what, (most, most))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
