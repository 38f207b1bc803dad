"""Certificates, and where a server may listen: what is refused before one is started."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from cxr_mtl.errors import ServeError
from cxr_mtl.package.mar import build_archive
from cxr_mtl.predict.client import is_loopback
from cxr_mtl.predict.command import predict_files
from cxr_mtl.predict.remote import RemotePredictor, read_key
from cxr_mtl.serve import command, torchserve
from cxr_mtl.serve.settings import free_ports, make_settings
from cxr_mtl.serve.state import ServerInfo
from cxr_mtl.serve.tls import Tls, check_host, make_tls

trustme = pytest.importorskip("trustme")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """A pair for the loopback, under a name that Java's property files cannot hold as it stands."""
    return write_pair(tmp_path_factory.mktemp("schlüssel \\ 鍵 😀=:#"), "RSA")


def write_pair(folder: Path, kind: str) -> Tls:
    authority = trustme.CA(key_type=trustme.KeyType[kind])
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued = authority.issue_cert("127.0.0.1", key_type=trustme.KeyType[kind])
    certificate, key = folder / "cert.pem", folder / "key.pem"
    for blob in issued.cert_chain_pems:
        blob.write_to_path(certificate, append=True)
    issued.private_key_pem.write_to_path(key)
    return Tls(certificate, key)


def test_both_forms_of_an_rsa_key_are_taken_and_a_password_or_another_kind_is_not(pair: Tls, tmp_path: Path) -> None:
    assert make_tls(None, None) is None
    assert make_tls(pair.certificate, pair.key) == pair
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl writes the other forms")
    for form in (["pkcs8", "-topk8", "-nocrypt"], ["rsa", "-traditional"]):
        made = tmp_path / f"{form[0]}.pem"
        subprocess.run([openssl, *form, "-in", pair.key, "-out", made], check=True, capture_output=True)
        assert make_tls(pair.certificate, made) == Tls(pair.certificate, made)
    locked = tmp_path / "locked.pem"
    command = [openssl, "rsa", "-aes128", "-passout", "pass:secret", "-in", pair.key, "-out", locked]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(ServeError, match="do not fit together"):
        make_tls(pair.certificate, locked)
    curve = write_pair(tmp_path, "ECDSA")
    with pytest.raises(ServeError, match="is not RSA"):
        make_tls(curve.certificate, curve.key)


def test_a_pair_that_is_none_is_one_line(pair: Tls, tmp_path: Path) -> None:
    for half in ((pair.certificate, None), (None, pair.key)):
        with pytest.raises(ServeError, match="--tls-cert and --tls-key together"):
            make_tls(*half)
    other = write_pair(tmp_path, "RSA")
    for wrong in ((pair.certificate, other.key), (pair.key, pair.key), (pair.certificate, Path(__file__))):
        with pytest.raises(ServeError, match="do not fit together"):
            make_tls(*wrong)
    with pytest.raises(ServeError, match="cannot be read"):
        make_tls(pair.certificate, tmp_path / "none.pem")


def test_others_reach_it_with_tls_or_not_at_all(pair: Tls) -> None:
    port, *others = free_ports(3)
    for host in ("0.0.0.0", "10.1.2.3", "128.0.0.1", "example.org", "localhost.example.org"):
        assert not is_loopback(host)
        with pytest.raises(ServeError, match=f"{host} can be reached by other machines.*--tls-cert"):
            make_settings(port, *others, 1, 60, host=host)
        check_host(host, pair)
    for host in ("127.0.0.1", "127.8.8.8", "localhost"):
        check_host(host, None)
    for host in ("", "::", "::1", "a b", "127.0.0.1\nenable_model_api=true", "127.0.0.1:80", "http://x", "-", "$port"):
        with pytest.raises(ServeError, match="is no address"):
            check_host(host, pair)
    with pytest.raises(ServeError, match=r"Nothing can listen on 192\.0\.2\.1"):
        make_settings(port, *others, 1, 60, host="192.0.2.1", tls=pair)


def test_no_path_can_add_a_line_to_the_configuration(tmp_path: Path) -> None:
    nasty = tmp_path / "a\nenable_model_api=true\r\u2028\x85 \\n#!=:"
    lines = Tls(nasty, tmp_path / "key 😀").lines()
    assert len(lines) == 3
    assert all(line.isascii() and len(line.splitlines()) <= 1 for line in lines)
    values = [line.partition("=")[2].encode().decode("unicode_escape") for line in lines[:2]]
    assert [value.encode("utf-16", "surrogatepass").decode("utf-16") for value in values] == [
        str(nasty),
        str(tmp_path / "key 😀"),
    ]


def test_how_to_ask_names_what_the_certificate_is_for(tmp_path: Path) -> None:
    def told(url: str) -> str:
        info = ServerInfo(url, "", "", tmp_path / "key_file.json", 1, tmp_path, ("cxr_mtl",))
        return command._how_to_ask(info, tmp_path, "", "--cacert c.pem ")

    every = told("https://0.0.0.0:8443")
    assert "https://NAME:8443/predictions/cxr_mtl\n      NAME is" in every
    assert "NAME" not in told("https://10.0.0.7:8443")


@pytest.fixture(scope="module")
def server(pair: Tls, tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerInfo]:
    """Open to other machines."""
    pytest.importorskip("ts")
    store = tmp_path_factory.mktemp("store")
    build_archive(tiny_bundle, store)
    yield torchserve.start(store, port=0, wait=200, host="0.0.0.0", tls=pair)
    torchserve.stop(torchserve.state_dir_of(store))


@pytest.mark.slow
def test_films_travel_encrypted_and_to_who_can_prove_its_name(server: ServerInfo, pair: Tls, tmp_path: Path) -> None:
    ca, film = pair.certificate.with_name("ca.pem"), tmp_path / "film.png"
    pixels = np.kron(np.random.default_rng(0).integers(0, 256, (15, 21), np.uint8), np.ones((10, 10), np.uint8))
    Image.fromarray(pixels).save(film)
    assert server.url.startswith("https://0.0.0.0:")
    url = server.url.replace("0.0.0.0", "127.0.0.1")
    told: list[str] = []
    asked = {"as_json": True, "url": url, "key_file": server.key_file}
    assert predict_files("cxr_mtl", [film], tell=told.append, ca=ca, **asked) == 0
    assert json.loads(told[0])["schema"] == "cxr-mtl.prediction/1"
    for wrong in ({}, {"ca": ca, "url": url.replace("127.0.0.1", "localhost")}):
        with pytest.raises(ServeError, match=r"signed by nobody this machine trusts.*--ca"):
            predict_files("cxr_mtl", [film], tell=told.append, **asked | wrong)
    with pytest.raises(ServeError, match="holds no certificate"):
        RemotePredictor(url, ca=film)
    key = {"Authorization": f"Bearer {read_key(server.key_file)}"}
    body = {"image": base64.b64encode(film.read_bytes()).decode()}
    plain = httpx.post(f"{url.replace('https', 'http')}/predictions/cxr_mtl", json=body, headers=key, trust_env=False)
    assert "only accepts HTTPS" in plain.text
    for address in (server.management_url, server.metrics_url):
        assert address.startswith("http://127.0.0.1:")


@pytest.mark.slow
def test_only_modern_ciphers_are_spoken(server: ServerInfo) -> None:
    port = int(server.url.rpartition(":")[2])

    def shake_hands(ciphers: str, version: ssl.TLSVersion) -> tuple[str, str, int] | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_ciphers(ciphers)
        context.maximum_version = version
        with socket.create_connection(("127.0.0.1", port)) as opened, context.wrap_socket(opened) as wrapped:
            return wrapped.cipher()

    assert shake_hands("DEFAULT", ssl.TLSVersion.MAXIMUM_SUPPORTED) == ("ECDHE-RSA-AES128-GCM-SHA256", "TLSv1.2", 128)
    for old in ("ECDHE-RSA-AES128-SHA", "AES128-SHA", "AES128-GCM-SHA256"):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            shake_hands(old, ssl.TLSVersion.TLSv1_2)
