"""Who sends a progress report: a pod's token, checked offline with the keys that the cluster publishes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jwt

from finetune_api.names import TOKEN_AUDIENCE
from finetune_operator.shell.cluster import Cluster

DISCOVERY_PATH = "/.well-known/openid-configuration"
KEYS_PATH = "/openid/v1/jwks"
ALGORITHMS = ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512"]
REFRESH_SECONDS = 60.0
RETRY_SECONDS = 5.0


class BadToken(Exception):
    """The token is no proof of anything."""


@dataclass(frozen=True)
class Sender:
    """The pod that a token was made for."""

    namespace: str
    pod: str
    uid: str


@dataclass
class TokenVerifier:
    """Checks signature, issuer, audience and expiry. Keys are fetched again when an unknown one is used."""

    cluster: Cluster
    clock: Callable[[], float]
    issuer: str = ""
    _keys: dict[str, jwt.PyJWK] = field(default_factory=dict)
    _fetched_at: float | None = None

    async def verify(self, token: str) -> Sender:
        """The pod that sends `token`. Raises BadToken."""
        try:
            key = await self._key(jwt.get_unverified_header(token).get("kid"))
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=TOKEN_AUDIENCE,
                issuer=self.issuer,
                options={"require": ["exp", "iat", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise BadToken(str(error)) from error
        return _sender(claims)

    async def _key(self, kid: str | None) -> jwt.PyJWK:
        if kid not in self._keys and self._may_fetch():
            await self._fetch()
        if kid is None or kid not in self._keys:
            raise BadToken("the token is signed with a key that the cluster does not publish")
        return self._keys[kid]

    def _may_fetch(self) -> bool:
        """Not more often than once a minute, or 5 s after a failure, whatever strangers send."""
        return self._fetched_at is None or self.clock() - self._fetched_at > REFRESH_SECONDS

    async def _fetch(self) -> None:
        self._fetched_at = self.clock() - REFRESH_SECONDS + RETRY_SECONDS
        self.issuer = (await self.cluster.read(DISCOVERY_PATH))["issuer"]
        published = jwt.PyJWKSet.from_dict(await self.cluster.read(KEYS_PATH))
        self._keys = {key.key_id: key for key in published.keys if key.key_id}
        self._fetched_at = self.clock()


def _sender(claims: dict[str, Any]) -> Sender:
    bound = claims.get("kubernetes.io") or {}
    pod = bound.get("pod") or {}
    if not (bound.get("namespace") and pod.get("name") and pod.get("uid")):
        raise BadToken("the token is not bound to a pod")
    return Sender(bound["namespace"], pod["name"], pod["uid"])
