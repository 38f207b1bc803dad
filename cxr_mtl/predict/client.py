"""What the sync and the async client have in common: whom they ask, by which connections, and what they are called."""

from __future__ import annotations

import ipaddress
import ssl
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import httpx

from cxr_mtl.errors import ConfigError, ServeError
from cxr_mtl.predict.wire import Server


class Client(ABC):
    """Films to a server, answers back. Its connections stay open until it is closed.

    Args:
        url: the server's inference address.
        key: the inference key; None for a server without authorisation.
        model: the name it serves the model under.
        timeout: seconds one film may take: the server's queue, pauses and further tries included.
        concurrency: films under way at once, so that the server can batch them.
        retries: further tries of one film.
        patience: seconds for which a busy server is asked again, however many tries that takes; what it takes beyond
            ``retries`` is not of ``timeout``.
        ca: PEM file of the certificate, or its authority, that the server is to show; None for the usual authorities.
        transport: of httpx, instead of the network, for tests.

    Raises:
        ServeError: ``ca`` holds no certificate.
        ConfigError: the key would travel in the open: ``url`` is http and not of this machine.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        model: str = "cxr_mtl",
        *,
        timeout: float = 120.0,
        concurrency: int = 4,
        retries: int = 3,
        patience: float = 0.0,
        ca: Path | None = None,
        transport: Any = None,
    ) -> None:
        if key is not None:
            _check_road(url)
        self.url = url.rstrip("/")
        self.model = model
        self.concurrency = concurrency
        self._server = Server(self.url, key, model, timeout, retries, patience)
        self._open(
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
            # Reading certificates takes longer than all else of a client; nothing here follows a redirect to https.
            verify=_certificates(ca) if self.url.lower().startswith("https:") else False,
            trust_env=False,  # Films must not travel through a proxy that happens to be set for the web.
            transport=transport,
        )

    @abstractmethod
    def _open(self, **settings: Any) -> None:
        """Make the client of httpx."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, model={self.model!r})"


def _check_road(url: str) -> None:
    """Says no to an address to which films and keys would travel in the open; servers of ours listen on none."""
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL:
        return  # whoever is asked there says so
    if address.scheme == "http" and not is_loopback(address.host):
        what = f"Films and the key would travel to {url} in the open."
        raise ConfigError(what, hint="Ask by https, or through a tunnel that ends at 127.0.0.1.")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _certificates(ca: Path | None) -> ssl.SSLContext:
    """Whom to trust: what a file holds, or the usual authorities."""
    if ca is None:
        return httpx.create_ssl_context()
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:  # ssl.SSLError is one
        what = f"{ca} holds no certificate that can be read ({error.strerror or type(error).__name__})."
        raise ServeError(what, hint="A PEM file, as of `openssl req -x509`, is wanted.") from None
