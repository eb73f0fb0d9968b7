"""A small client of the OCI distribution protocol: manifests and blobs of one registry, by digest.

Rules that must hold:

- What comes back is checked against its digest before anybody uses it, and never exceeds the size that was asked for.
- What is there already is not sent again: look, then mount from a neighbour, then upload.
- A registry that is away or overloaded says so by `DependencyDown` or `Retryable`; a refusal is `Permanent`.
- No error carries an address's query, a header or a body: they may hold tokens.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import IO
from urllib.parse import urljoin, urlsplit

import httpx

from towline.errors import DependencyDown, Permanent, Retryable
from towline_image_builder.registry import auth
from towline_image_builder.settings import RegistryAccess

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
MANIFEST_TYPES = (OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST)
MAX_MANIFEST_BYTES = 4 << 20
_CHUNK = 1 << 20
_REDIRECTS = 5


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest's bytes as the registry has them, and their digest, computed here."""

    body: bytes
    media_type: str
    digest: str


class Registry:
    """One registry, one login; connections belong to `client`, which follows no redirects by itself."""

    def __init__(self, access: RegistryAccess, client: httpx.AsyncClient) -> None:
        self._access = access
        self._client = client
        self._origin = auth.origin_of(access)
        self._tokens: dict[str, str] = {}

    @property
    def address(self) -> str:
        return self._access.address

    async def manifest(self, repository: str, reference: str) -> Manifest | None:
        """By tag or digest; None when there is none."""
        accept = {"accept": ", ".join(MANIFEST_TYPES)}
        async with self._call("GET", f"/v2/{repository}/manifests/{reference}", repository, headers=accept) as answer:
            if answer.status_code == 404:
                return None
            self._expect(answer, 200)
            body = await _bounded(answer, MAX_MANIFEST_BYTES, f"{self.address}/{repository}")
            media_type = answer.headers.get("content-type", "").partition(";")[0].strip()
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        if reference.startswith("sha256:") and digest != reference:
            raise Permanent(f"{self.address}/{repository}: the manifest {reference} was answered with {digest}")
        if media_type not in MANIFEST_TYPES:
            raise Permanent(f"{self.address}/{repository}: a manifest of type {media_type[:80]!r} is not understood")
        return Manifest(body, media_type, digest)

    async def put_manifest(self, repository: str, reference: str, body: bytes, media_type: str = OCI_MANIFEST) -> str:
        """Under a digest or a tag. Returns the digest that the registry answered with, which is that of `body`."""
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        path = f"/v2/{repository}/manifests/{reference}"
        headers = {"content-type": media_type}
        async with self._call("PUT", path, repository, push=True, headers=headers, content=body) as answer:
            self._expect(answer, 201)
            said = answer.headers.get("docker-content-digest", digest)
        if said != digest:
            raise Permanent(f"{self.address}/{repository}: pushed {digest}, the registry answered with another digest")
        return digest

    async def has_blob(self, repository: str, digest: str, *, push: bool = False) -> bool:
        async with self._call("HEAD", f"/v2/{repository}/blobs/{digest}", repository, push=push) as answer:
            if answer.status_code == 404:
                return False
            if answer.status_code in _REDIRECTED:
                return True
            self._expect(answer, 200)
            return True

    async def fetch_blob(self, repository: str, digest: str, size: int, into: IO[bytes]) -> None:
        """Raises Permanent when the content is not what `digest` and `size` say."""
        sha, got = hashlib.sha256(), 0
        async with self._call("GET", f"/v2/{repository}/blobs/{digest}", repository) as answer:
            self._expect(answer, 200)
            async for chunk in answer.aiter_raw(_CHUNK):
                got += len(chunk)
                if got > size:
                    break
                sha.update(chunk)
                await asyncio.to_thread(into.write, chunk)
        if got != size or f"sha256:{sha.hexdigest()}" != digest:
            raise Permanent(f"{self.address}/{repository}: the content of {digest} is not what the manifest says")

    async def push_blob(
        self, repository: str, digest: str, size: int, source: IO[bytes], near: tuple[str, ...]
    ) -> bool:
        """Make sure the repository holds the blob; False when it was there. `near` are repositories to mount from."""
        if await self.has_blob(repository, digest, push=True):
            return False
        location = None
        for neighbour in near or (None,):
            location = await self._begin_upload(repository, digest, neighbour)
            if location is None:
                return True
        assert location is not None
        await self._upload(repository, location, digest, size, source)
        return True

    async def _begin_upload(self, repository: str, digest: str, neighbour: str | None) -> str | None:
        """Where to upload to; None when the blob was mounted."""
        query = {"mount": digest, "from": neighbour} if neighbour else {}
        path = f"/v2/{repository}/blobs/uploads/"
        also = (neighbour,) if neighbour else ()
        async with self._call("POST", path, repository, push=True, also=also, params=query) as answer:
            if answer.status_code == 201:
                return None
            self._expect(answer, 202)
            location: str = urljoin(str(answer.request.url), answer.headers.get("location", ""))
        if urlsplit(location)[:2] != urlsplit(self._origin)[:2]:
            raise Permanent(f"{self.address}: an upload was sent to another host; it is not followed")
        return location

    async def _upload(self, repository: str, location: str, digest: str, size: int, source: IO[bytes]) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            source.seek(0)
            while chunk := await asyncio.to_thread(source.read, _CHUNK):
                yield chunk

        url = httpx.URL(location).copy_merge_params({"digest": digest})
        headers = {"content-type": "application/octet-stream", "content-length": str(size)}
        token = await self._authorization(repository, push=True)
        request = self._client.build_request("PUT", url, headers={**headers, **token}, content=chunks())
        answer = await self._send(request)
        await answer.aclose()
        self._expect(answer, 201)

    def _call(
        self, method: str, path: str, repository: str, *, push: bool = False, also: tuple[str, ...] = (), **more: object
    ) -> _Call:
        return _Call(self, method, path, _scope(repository, push=push, also=also), more)

    async def _answered(self, method: str, path: str, scope: str, more: Mapping[str, object]) -> httpx.Response:
        headers = dict(more.get("headers") or {})  # type: ignore[call-overload]
        rest = {name: value for name, value in more.items() if name != "headers"}
        url = self._origin + path
        for again in (True, False):
            known = {"authorization": self._tokens[scope]} if scope in self._tokens else {}
            request = self._client.build_request(method, url, headers={**headers, **known}, **rest)  # type: ignore[arg-type]
            answer = await self._send(request)
            if answer.status_code != 401 or not again:
                break
            await answer.aclose()
            await self._login(answer, scope)
        if answer.status_code in _REDIRECTED and method == "GET":
            return await self._redirected(answer)
        return answer

    async def _redirected(self, answer: httpx.Response) -> httpx.Response:
        """Blob stores stand elsewhere; they get no credential, and nothing in the clear that began with TLS."""
        for _ in range(_REDIRECTS):
            location = urljoin(str(answer.request.url), answer.headers.get("location", ""))
            await answer.aclose()
            if urlsplit(location).scheme != "https" and not self._origin.startswith("http:"):
                raise Permanent(f"{self.address}: sends its content from an address without TLS")
            answer = await self._send(self._client.build_request("GET", location))
            if answer.status_code not in _REDIRECTED:
                return answer
        await answer.aclose()
        raise Permanent(f"{self.address}: more than {_REDIRECTS} redirects")

    async def _authorization(self, repository: str, *, push: bool) -> dict[str, str]:
        token = self._tokens.get(_scope(repository, push=push))
        return {"authorization": token} if token else {}

    async def _login(self, answer: httpx.Response, scope: str) -> None:
        asked = auth.challenge(answer.headers)
        credential = auth.basic(self._access)
        if asked is None or (asked.scheme == "basic" and credential is None):
            raise Permanent(f"registry {self.address} wants a login; set user and password_file for it")
        if asked.scheme == "basic":
            assert credential is not None
            self._tokens[scope] = credential
            return
        if not auth.may_login(self._access, asked.realm):
            host = urlsplit(asked.realm).hostname
            raise Permanent(
                f"registry {self.address} sends logins to {host}, which is not known to belong to it; "
                "name it in token_hosts if it does"
            )
        headers = {"authorization": credential} if credential else {}
        query = httpx.QueryParams({"service": asked.service, "scope": scope.split(" ")})
        token = await self._send(self._client.build_request("GET", asked.realm, params=query, headers=headers))
        body = await _bounded(token, 1 << 20, f"the token service of {self.address}")
        await token.aclose()
        if token.status_code != 200:
            raise Permanent(f"registry {self.address} refuses the login ({token.status_code}); check user and password")
        self._tokens[scope] = "Bearer " + _token_in(body, self.address)

    async def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._client.send(request, stream=True, follow_redirects=False)
        except httpx.TransportError as error:
            raise DependencyDown(f"registry {self.address} does not answer ({type(error).__name__})") from None

    def _expect(self, answer: httpx.Response, status: int) -> None:
        got = answer.status_code
        if got == status:
            return
        what = f"registry {self.address}: {answer.request.method} was answered with {got}"
        if got == 429:
            raise Retryable(f"{what} (too many requests)", after=_retry_after(answer.headers))
        if got >= 500 or got == 408:
            raise DependencyDown(what)
        if got in (401, 403):
            self._tokens.clear()
            raise Permanent(f"{what}: the login is refused or may not do this; check user, password_file and rights")
        raise Permanent(f"{what}, expected {status}")


_REDIRECTED = frozenset({301, 302, 303, 307, 308})


class _Call:
    """`async with`: the answer, read as a stream and closed at the end; transport errors mean the registry is away."""

    def __init__(self, registry: Registry, method: str, path: str, scope: str, more: Mapping[str, object]) -> None:
        self._registry = registry
        self._make = (method, path, scope, more)
        self._answer: httpx.Response | None = None

    async def __aenter__(self) -> httpx.Response:
        self._answer = await self._registry._answered(*self._make)
        return self._answer

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._answer is not None:
            await self._answer.aclose()
        if isinstance(error, httpx.TransportError):
            raise DependencyDown(f"registry {self._registry.address} broke off ({type(error).__name__})") from None


def _scope(repository: str, *, push: bool, also: tuple[str, ...] = ()) -> str:
    own = f"repository:{repository}:{'pull,push' if push else 'pull'}"
    return " ".join((own, *(f"repository:{name}:pull" for name in also)))


def _token_in(body: bytes, address: str) -> str:
    import json

    try:
        answer = json.loads(body)
        token = answer.get("token") or answer.get("access_token")
    except (ValueError, AttributeError):
        token = None
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise Permanent(f"the token service of {address} answered without a token")
    return token


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; a date is left to the retry policy."""
    text = headers.get("retry-after", "")
    return min(float(text), 3600.0) if text.isascii() and text.isdecimal() else None


async def _bounded(answer: httpx.Response, limit: int, whose: str) -> bytes:
    parts: list[bytes] = []
    got = 0
    async for chunk in answer.aiter_bytes(65_536):
        got += len(chunk)
        if got > limit:
            raise Permanent(f"{whose} answers with more than {limit} bytes")
        parts.append(chunk)
    return b"".join(parts)
