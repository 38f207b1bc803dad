"""The predictor that asks a running server. Same verbs and same answers as the local one."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from cxr_mtl.data.refuse import refuse
from cxr_mtl.errors import ImageError, ServeError
from cxr_mtl.predict.request import options_to_dict
from cxr_mtl.types import PREDICTION_SCHEMA, Options, Prediction

_START = "Start one with `cxr-mtl serve`."
_NAME_KEY = "`cxr-mtl serve --status` says where key_file.json is; its inference key goes into 'Authorization: Bearer'."


def read_key(key_file: Path, kind: str = "inference") -> str:
    """One of the keys that TorchServe wrote when it started.

    Args:
        key_file: ``key_file.json`` of the running server.
        kind: ``inference``, what clients send, or ``management``.

    Raises:
        ServeError: the file is missing or is none of TorchServe's.
    """
    try:
        return str(json.loads(key_file.read_text(encoding="utf-8"))[kind]["key"])
    except OSError:
        raise ServeError(f"{key_file} cannot be read.", hint=_NAME_KEY) from None
    except (ValueError, KeyError, TypeError):
        raise ServeError(f"{key_file} holds no {kind} key.", hint=_NAME_KEY) from None


class RemotePredictor:
    """Films to a server, answers back.

    Args:
        url: the server's inference address.
        key: the inference key; None for a server without authorisation.
        model: the name it serves the model under.
        timeout: seconds one film may take, waiting in the server's queue included.
        concurrency: films under way at once, so that the server can batch them.
        ca: certificate (PEM) to trust the server by; None for those that the system trusts.
        transport: instead of the network, for tests.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        model: str = "cxr_mtl",
        *,
        timeout: float = 120.0,
        concurrency: int = 4,
        ca: Path | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.model = model
        self._key = key
        self._timeout = timeout
        self._concurrency = concurrency
        self._transport = transport
        self._certificates = _trust(ca)  # Reading them takes longer than all else of a client.

    def predict(self, sources: Sequence[Path | bytes], options: Options | None = None) -> list[Prediction | ImageError]:
        """As many answers as sources, in their order.

        Raises:
            ServeError: the server cannot be reached, refuses the key, is overloaded or does not serve the model.
        """
        wanted = options_to_dict(options or Options())
        with self._client() as client, ThreadPoolExecutor(max_workers=self._concurrency) as pool:
            return list(pool.map(lambda source: self._ask(client, source, wanted), sources))

    def healthy(self) -> bool:
        """Whether the server is there and has a worker for each model; never raises for a server that is not."""
        try:
            with self._client() as client:
                response = client.get(f"{self.url}/ping", timeout=10.0)
            return response.status_code == 200 and response.json().get("status") == "Healthy"
        except (httpx.HTTPError, ValueError):
            return False

    def __repr__(self) -> str:
        return f"RemotePredictor({self.url!r}, model={self.model!r})"

    def _client(self) -> httpx.Client:
        """For one call, so that there is nothing to close and nothing that threads could share by accident."""
        return httpx.Client(
            headers={} if self._key is None else {"Authorization": f"Bearer {self._key}"},
            timeout=httpx.Timeout(self._timeout, connect=10.0),
            verify=self._certificates,
            transport=self._transport,
            trust_env=False,  # Films must not travel through a proxy that happens to be set for the web.
        )

    def _ask(self, client: httpx.Client, source: Path | bytes, wanted: dict[str, Any]) -> Prediction | ImageError:
        content = source if isinstance(source, bytes) else _read(source)
        if isinstance(content, ImageError):
            return content
        body = wanted | {"image": base64.b64encode(content).decode()}
        try:
            response = client.post(f"{self.url}/predictions/{self.model}", json=body)
        except httpx.ConnectError as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                what = f"{self.url} shows a certificate that is not trusted, or of another name."
                raise ServeError(
                    what, hint="Trust it with --ca CERT.pem, and ask for the name it was made for."
                ) from None
            raise ServeError(f"No server answers at {self.url}.", hint=_START) from None
        except httpx.TimeoutException:
            raise ServeError(f"{self.url} did not answer in time.", hint="Its logs say what it is doing.") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            what = f"The connection to {self.url} broke ({type(error).__name__})."
            raise ServeError(what, hint=f"A film of {len(body['image'])} bytes in base64 may be too large.") from None
        return self._read_answer(response)

    def _read_answer(self, response: httpx.Response) -> Prediction | ImageError:
        try:
            body = response.json()
        except ValueError:
            body = {}
        body = body if isinstance(body, dict) else {}
        if isinstance(error := body.get("error"), dict):
            status = response.status_code
            return ImageError(str(error["message"]), code=str(error["code"]), hint=str(error["hint"]), status=status)
        if body.get("schema") == PREDICTION_SCHEMA:
            return Prediction.from_dict(body)
        if response.status_code == 413:
            return refuse("too_large", f"The film is larger than {self.url} takes.", "Send a smaller copy.")
        raise self._refusal(response.status_code, str(body.get("message", "")))

    def _refusal(self, status: int, message: str) -> ServeError:
        """What the front end says itself, in our words."""
        if status in (401, 403) or "Token" in message:
            return ServeError(f"{self.url} refused the key.", hint=_NAME_KEY)
        if status == 404:
            return ServeError(f"{self.url} has no model '{self.model}'.", hint="`cxr-mtl serve --status` lists them.")
        if status == 503:
            return ServeError(f"{self.url} is overloaded or its worker is down.", hint="Try again; else see its logs.")
        what = f"{self.url} answered {status} and not in the form {PREDICTION_SCHEMA}."
        return ServeError(what, hint="Is it a server of cxr-mtl, and of this version?")


def _trust(ca: Path | None) -> ssl.SSLContext:
    if ca is None:
        return httpx.create_ssl_context()
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError:
        raise ServeError(f"{ca} holds no certificate.", hint="The server's own, or its authority's, as PEM.") from None


def _read(path: Path) -> bytes | ImageError:
    """The file's bytes, or the refusal that the local predictor gives."""
    try:
        if path.exists() and not path.is_file():  # A folder; or a pipe or device, which may never end.
            return refuse("unreadable", f"{path.name} is not a file.", "Name the film itself.")
        return path.read_bytes()
    except FileNotFoundError:
        return refuse("missing", f"{path.name} does not exist.", "Check the path.")
    except (OSError, ValueError):
        return refuse("unreadable", f"{path.name} cannot be opened.", "Check the path and its permissions.")
