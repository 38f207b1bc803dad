"""A certificate and its key for the inference address, and where it may listen.

TorchServe reads both as PEM; the key must be RSA, in PKCS#8 or in the older form, and without a password. It speaks
TLS 1.2 and no other.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from cxr_mtl.errors import ServeError
from cxr_mtl.predict.client import is_loopback

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_RSA = bytes.fromhex("06092a864886f70d010101")  # the object identifier that a PKCS#8 key of RSA begins with
_KEY = re.compile(r"-----BEGIN (\w+ )?PRIVATE KEY-----(.*?)-----END", re.DOTALL)
_HOW = "PEM files, an RSA key without a password: `openssl req -x509 -newkey rsa:3072 -nodes` makes a pair to try."


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths of a PEM pair that fits together; ``certificate`` may go on with the chain."""

    certificate: Path
    key: Path

    def lines(self) -> list[str]:
        """Their lines of the configuration file."""
        return [f"certificate_file={_escaped(self.certificate)}", f"private_key_file={_escaped(self.key)}", ""]


def make_tls(certificate: Path | None, key: Path | None) -> Tls | None:
    """The pair, tried out; None without one.

    Raises:
        ServeError: one comes without the other, they do not fit, or TorchServe could not use them.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise ServeError("TLS takes a certificate and its key.", hint="Give --tls-cert and --tls-key together.")
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key, password=_no_password)
        if not _is_rsa(key.read_text(encoding="ascii")):
            raise ServeError(f"The key {key} is not RSA, which is all that TorchServe takes.", hint=_HOW)
    except (OSError, ValueError) as error:  # ssl's errors are OSErrors
        why = "cannot be read" if isinstance(error, FileNotFoundError | PermissionError) else "do not fit together"
        raise ServeError(f"The certificate {certificate} and the key {key} {why}.", hint=_HOW) from None
    return Tls(certificate.resolve(), key.resolve())


def check_host(host: str, tls: Tls | None) -> None:
    """Says no to an address that others can reach without TLS.

    Raises:
        ServeError: that, or it is no address.
    """
    if not _NAME.fullmatch(host):  # TorchServe reads no IPv6 address either.
        raise ServeError(f"'{host[:60]}' is no address to listen on.", hint="A name, or IPv4 such as 10.0.0.7.")
    if tls is None and not is_loopback(host):
        what = f"{host} can be reached by other machines, and films and keys would travel in the open."
        raise ServeError(what, hint="Give --tls-cert and --tls-key, or leave out --host and put a proxy in front.")


def _is_rsa(text: str) -> bool:
    found = _KEY.search(text)
    if found is None or found[1]:
        return found is not None and found[1] == "RSA "
    return _RSA in ssl.PEM_cert_to_DER_cert(f"{ssl.PEM_HEADER}\n{found[2].strip()}\n{ssl.PEM_FOOTER}")[:64]


def _no_password() -> str:
    raise ValueError("the key wants a password, and nobody is there to be asked")


def _escaped(path: Path) -> str:
    """A path as Java's property files want it: what is not plain ASCII, and the backslash, by number."""
    units = str(path).encode("utf-16-be")
    codes = [int.from_bytes(units[i : i + 2], "big") for i in range(0, len(units), 2)]
    return "".join(chr(c) if 32 < c < 127 and c != 92 else f"\\u{c:04x}" for c in codes)
