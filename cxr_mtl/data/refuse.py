"""What is refused: the limits, the one list of reasons, and the HTTP status of each."""

from __future__ import annotations

from cxr_mtl.errors import ImageError

MAX_BYTES = 200_000_000
# A film scanned at 600 dpi has 84 million pixels, a direct-digital one at most 18; Pillow's own limit, 89 million, is
# checked inside pydicom's JPEG decoder, so ours stays under it.
MAX_PIXELS = 88_000_000
MIN_SIDE = 32

STATUS = {
    "missing": 404,
    "empty": 400,
    "unreadable": 400,
    "truncated": 400,
    "corrupt": 400,
    "too_large": 413,
    "unsupported": 415,
    "unsupported_compression": 415,
    "too_small": 422,
    "colour": 422,
    "no_pixels": 422,
    "multi_frame": 422,
    "not_radiography": 422,
    "not_chest": 422,
    "lateral": 422,
    "blank": 422,
    "turned": 422,
    "inverted": 422,
    "out_of_memory": 507,
}

NAMELESS = "the picture"
"""What messages call a film that came without a name."""
RESEND = "Send the file again, or export it anew from where it came."


def refuse(code: str, message: str, hint: str) -> ImageError:
    """The error to raise for a film that cannot be judged.

    Args:
        code: one of ``STATUS``.
        message: what is wrong, with the file as its subject: "is empty". ``read_image`` puts the file's name before it.
            Never a value out of a DICOM tag that a person typed.
        hint: what to do about it.
    """
    return ImageError(message, code=code, hint=hint, status=STATUS[code])


def no_memory(name: str = "this film") -> ImageError:
    """The answer for a film that found no memory, which says nothing of the film."""
    hint = "Ask again when less is going on, or about a smaller copy."
    return refuse("out_of_memory", f"There is no memory left for {name}.", hint)


def check_size(width: int, height: int) -> None:
    """Refuse a picture by the size its header states, before anything is decoded.

    Raises:
        ImageError: ``too_large`` or ``too_small``.
    """
    if width * height > MAX_PIXELS:
        limit = f"{MAX_PIXELS // 1_000_000} million"
        raise refuse("too_large", f"is {width} x {height} px, over the limit of {limit} pixels", "Send a smaller copy.")
    if min(width, height) < MIN_SIDE:
        raise refuse(
            "too_small",
            f"is {width} x {height} px, under {MIN_SIDE} px a side",
            "Send the film itself, not a thumbnail.",
        )


def printable(name: str) -> str:
    """A name that stays on one line of a message or log."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in name)
    return shown if len(shown) <= 80 else f"{shown[:60]}...{shown[-17:]}"
