"""GitHub's OIDC issuer as a cluster and a job see it, on loopback: GitHub's own cannot run here.

The API server reads its keys over TLS; a job asks it for tokens by the two variables that Actions
sets where a job has `id-token: write`.
"""

import ipaddress
import json
import ssl
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

Object = dict[str, Any]
ASKING = "what Actions gives a job to ask with"
OF_MAIN = {"repository_id": "REPOSITORY_ID", "ref": "refs/heads/main"}  # claims of a job there


class Issuer:
    """Tokens for jobs; `seconds` is how long each is good."""

    def __init__(self, folder: Path, seconds: float = 300.0):
        self.given = 0
        self.seconds = seconds
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.authority = _certificate(self._key, folder)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "issuer.crt", folder / "issuer.key")
        self._public = _server(self._published)
        self._public.socket = context.wrap_socket(self._public.socket, server_side=True)
        self._jobs = _server(self._granted)
        for server in (self._public, self._jobs):
            Thread(target=server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"https://127.0.0.1:{self._public.server_port}"

    def variables(self, subject: str, **claims: str) -> dict[str, str]:
        """What a job with that `sub` has in its environment; `claims` are not as those of main."""
        query = urlencode({**OF_MAIN, **claims})
        url = f"http://127.0.0.1:{self._jobs.server_port}/{subject}?{query}"
        return {"ACTIONS_ID_TOKEN_REQUEST_URL": url, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": ASKING}

    def stop(self) -> None:
        for server in (self._public, self._jobs):
            server.shutdown()
            server.server_close()

    def _published(self, path: str, headers: Any) -> Object | None:
        if path == "/.well-known/openid-configuration":
            return {
                "issuer": self.address,
                "jwks_uri": f"{self.address}/keys",
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        numbers = self._key.public_key().public_numbers()
        key = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one"}
        return {"keys": [{**key, "n": _number(numbers.n), "e": _number(numbers.e)}]}

    def _granted(self, path: str, headers: Any) -> Object | None:
        if headers["Authorization"] != f"Bearer {ASKING}":
            return None
        self.given += 1
        asked = urlsplit(path)
        claims = dict(parse_qsl(asked.query))
        return {"value": self._token(asked.path[1:], claims.pop("audience"), claims)}

    def _token(self, subject: str, audience: str, more: Mapping[str, str]) -> str:
        now = time.time()
        claims = {"iss": self.address, "sub": subject, "aud": audience, **more}
        times = {"iat": int(now), "nbf": int(now) - 5, "exp": int(now + self.seconds)}
        parts = ({"alg": "RS256", "typ": "JWT", "kid": "one"}, {**claims, **times})
        text = ".".join(_text(json.dumps(part).encode()) for part in parts)
        return f"{text}.{_text(self._key.sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def _server(answer: Callable[[str, Any], Object | None]) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = answer(self.path, self.headers)
            data = json.dumps(found).encode()
            self.send_response(401 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    return ThreadingHTTPServer(("127.0.0.1", 0), Handler)


def _certificate(key: rsa.RSAPrivateKey, folder: Path) -> str:
    """A certificate that signs itself, in the folder with its key; its text."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(here, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    text = made.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    (folder / "issuer.crt").write_bytes(text)
    (folder / "issuer.key").write_bytes(private)
    return text.decode()


def _number(value: int) -> str:
    return _text(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
