"""What a caller wants, as text or JSON, and as ``Options``."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from cxr_mtl.errors import ImageError
from cxr_mtl.types import FLAGGED, Options

OPTION_FIELDS = ("operating_point", "findings", "boxes", "heatmaps", "explain", "heatmap_format", "top_k")
MOST_SLOW_MAPS, MOST_MAPS = 3, 128
"""Heat maps of one request, those that go over a film's pixels and all others: each takes a moment and a picture."""
MOST_FLAGGED = 16
"""As many findings as ``flagged`` stands for while nobody has looked at the film."""

_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_EXAMPLES = {"operating_point": "balanced", "explain": "grad_cam", "heatmap_format": "png"}


def bad_request(message: str, hint: str = "") -> ImageError:
    """The error of a request that makes no sense, status 400."""
    return ImageError(message, code="bad_request", status=400, hint=hint)


def quoted(value: object) -> str:
    """What somebody sent, short and on one line, between quotes."""
    text = "".join(letter if letter.isprintable() else "?" for letter in str(value)[:41])
    return f"'{text}'" if len(text) <= 40 else f"'{text[:37]}...'"


def parse_options(fields: Mapping[str, Any], others: Collection[str] = ()) -> Options:
    """Options by name; None is as good as leaving one out.

    Args:
        fields: values are JSON's, or a form's text or bytes.
        others: names in ``fields`` that are no options.

    Raises:
        ImageError: code ``bad_request``: an unknown name, or a value of the wrong kind. Whether the model knows what is
            named, ``response.check_options`` says.
    """
    _check_names(fields, others)
    chosen = {name: _text(value) for name, value in fields.items() if name not in others and value is not None}
    for name, value in chosen.items():
        if name in _EXAMPLES and not isinstance(value, str):
            raise bad_request(f"'{name}' is not text: {quoted(value)}.", f"Such as {_EXAMPLES[name]}.")
        if name in ("findings", "heatmaps"):
            chosen[name] = _names(name, value)
        elif name == "boxes":
            chosen[name] = _flag(name, value)
        elif name == "top_k":
            chosen[name] = _whole(name, value)
    return Options(**chosen)


def options_to_dict(options: Options) -> dict[str, Any]:
    """The JSON fields that ``parse_options`` reads back into the same options.

    What came later is sent only where it is set: a server from before it refuses options that it does not know.
    """
    later = {"explain": options.explain, "top_k": options.top_k}
    if options.heatmap_format != Options().heatmap_format:
        later["heatmap_format"] = options.heatmap_format
    return {
        "operating_point": options.operating_point,
        "findings": None if options.findings is None else list(options.findings),
        "boxes": options.boxes,
        "heatmaps": list(options.heatmaps),
        **{name: value for name, value in later.items() if value is not None},
    }


def check_time(options: Options, num_films: int = 1, views: int = 1) -> None:
    """Refuse heat maps that take long: who does not answer in time is ended, with all that others sent him.

    Args:
        options: what is wanted of each film.
        num_films: of the request.
        views: the model's looks at a film; a slow map goes over the pixels of each.

    Raises:
        ImageError: code ``bad_request``.
    """
    if options.explain == "occlusion":
        hint = "Run `cxr-mtl predict --explain occlusion` on your own machine, or choose another method."
        raise bad_request("explain 'occlusion' takes too long for a server.", hint)
    maps = set(options.heatmaps or ((FLAGGED,) if options.explain else ()))
    most = max(1, MOST_SLOW_MAPS // views)
    if is_slow(options) and (FLAGGED in maps or len(maps) * num_films > most):
        what = (
            f"explain 'integrated_gradients' is slow: of this model a server makes at most {most} a request, by name."
        )
        raise bad_request(what, "Name the findings under 'heatmaps', or choose another method.")
    each = len(maps - {FLAGGED}) + (_most_flagged(options) if FLAGGED in maps else 0)
    if each * num_films > MOST_MAPS:
        what = f"{num_films} films with up to {each} heat maps each: a server makes at most {MOST_MAPS} a request."
        raise bad_request(what, "Send fewer films a request, or name fewer findings under 'heatmaps'.")


def is_slow(options: Options) -> bool:
    """Whether its heat maps go over a film's pixels."""
    return options.explain == "integrated_gradients"


def _most_flagged(options: Options) -> int:
    some = (MOST_FLAGGED, options.top_k, None if options.findings is None else len(options.findings))
    return min(count for count in some if count is not None)


def _check_names(fields: Mapping[str, Any], others: Collection[str]) -> None:
    for name in fields:
        if name not in OPTION_FIELDS and name not in others:
            close = difflib.get_close_matches(str(name)[:40], OPTION_FIELDS, n=1)
            known = f"Known: {', '.join(OPTION_FIELDS)}."
            hint = f"Did you mean '{close[0]}'? {known}" if close else known
            raise bad_request(f"Unknown option {quoted(name)}.", hint)


def _text(value: Any) -> Any:
    """Forms carry bytes; JSON carries itself."""
    if not isinstance(value, bytes | bytearray):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise bad_request("An option is not UTF-8 text.") from None


def _names(field: str, value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, Iterable) or isinstance(value, Mapping) or not all(isinstance(v, str) for v in value):
        what = f"'{field}' is not a list of finding names: {quoted(value)}."
        raise bad_request(what, "A JSON list, or names with commas between.")
    return tuple(value)


def _flag(field: str, value: Any) -> bool:
    flag = value if isinstance(value, bool) else _FLAGS.get(str(value).lower())
    if flag is None:
        raise bad_request(f"'{field}' is neither true nor false: {quoted(value)}.")
    return flag


def _whole(field: str, value: Any) -> int:
    try:
        number = int(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool):
        raise bad_request(f"'{field}' is not a whole number: {quoted(value)}.", "Such as 3; leave it out for all.")
    return number
