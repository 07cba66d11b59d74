"""Signed tokens: JSON Web Tokens (RFC 7519) with HS256, by this API or whoever else holds the secret."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import uuid4

import jwt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestrator.access import Principal, Role
from orchestrator.errors import InvalidInput, SettingsError, Unauthenticated
from orchestrator.settings import Settings

ALGORITHM: Final = "HS256"
"""The only one accepted, whatever a token's header says."""
MIN_SECRET_BYTES: Final = 32
"""As long as the hash: RFC 7518, 3.2."""
LEEWAY_S: Final = 5.0
"""How far clocks of other signers may be off."""
LONGEST_S: Final = 86_400.0
"""Longest life of a token that this API signs."""


class Claims(BaseModel):
    """What a token says. Claims that are not named here mean nothing."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    sub: str = Field(min_length=1, max_length=200)
    role: Role
    exp: float
    owner: str | None = Field(default=None, min_length=1, max_length=100)
    types: tuple[str, ...] = ()
    key: str | None = None
    """Id of the key it was made from: it ends with that key."""


class Tokens:
    """Signs tokens and reads them."""

    def __init__(self, secret: str, *, issuer: str = "", audience: str = "") -> None:
        """Issuer and audience are put into every token and, when set, asked of every token.

        Raises:
            SettingsError: the secret is short enough to be guessed.
        """
        if len(secret.encode()) < MIN_SECRET_BYTES:
            raise SettingsError(
                f"SAEFORGE_JWT_SECRET: has fewer than {MIN_SECRET_BYTES} bytes",
                field="SAEFORGE_JWT_SECRET",
                suggestion="make one: openssl rand -base64 48",
            )
        self._secret, self._issuer, self._audience = secret, issuer, audience

    @classmethod
    def of(cls, settings: Settings) -> "Tokens | None":
        """None where the settings name no secret: tokens are off then. Raises: SettingsError."""
        secret = settings.find_jwt_secret()
        return cls(secret, issuer=settings.jwt_issuer, audience=settings.jwt_audience) if secret else None

    def sign(self, principal: Principal, *, role: Role | None, lifetime_s: float) -> tuple[str, datetime]:
        """A token that can do at most what its maker can, and when it expires.

        Raises:
            InvalidInput: it would outlast its maker's key, or be mightier.
        """
        role = role or principal.role
        if not principal.role.covers(role):
            raise InvalidInput(f"role: your own is {principal.role}", field="role", suggestion="ask for no more")
        now = datetime.now(UTC)
        expires_at = now + timedelta(seconds=min(lifetime_s, LONGEST_S))
        if principal.expires_at is not None:
            expires_at = min(expires_at, principal.expires_at)
        claims: dict[str, object] = {
            "sub": principal.id.removeprefix("token:"),
            "role": role,
            "iat": now,
            "exp": expires_at,
            "jti": str(uuid4()),
        }
        optional = {"owner": principal.owner, "key": principal.key_id, "iss": self._issuer, "aud": self._audience}
        claims |= {name: value for name, value in optional.items() if value}
        if principal.types:
            claims["types"] = list(principal.types)
        return jwt.encode(claims, self._secret, algorithm=ALGORITHM), expires_at

    def read(self, text: str, in_force: Callable[[str], bool]) -> Principal:
        """Whom the token speaks for. ``in_force`` tells whether the key it was made from still is.

        Raises:
            Unauthenticated: it is no valid token, was signed by somebody else, or has expired.
        """
        try:
            payload = jwt.decode(
                text,
                self._secret,
                algorithms=[ALGORITHM],
                issuer=self._issuer or None,
                audience=self._audience or None,
                leeway=LEEWAY_S,
                options={"require": ["exp", "sub"], "verify_aud": bool(self._audience)},
            )
            claims = Claims.model_validate(payload)
            expires_at = datetime.fromtimestamp(claims.exp, UTC)
        except jwt.PyJWTError as error:
            raise Unauthenticated(f"the token is not accepted: {error}", suggestion="get a new one") from error
        except ValidationError as error:
            claim = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise Unauthenticated(
                f"the token's claim {claim!r} is missing or wrong", suggestion="it needs sub, role and exp"
            ) from error
        except (OverflowError, OSError, ValueError) as error:
            raise Unauthenticated("the token's claim 'exp' is no time", suggestion="get a new one") from error
        if claims.key is not None and not in_force(claims.key):
            raise Unauthenticated("the key this token was made from is no longer in force", suggestion="get a new one")
        if claims.role is Role.ADMIN and (claims.owner is not None or claims.types):
            raise Unauthenticated("the token is of an admin with a scope, which nobody is", suggestion="get a new one")
        return Principal(
            f"token:{claims.sub}", claims.sub, claims.role, claims.owner, claims.types, expires_at, claims.key
        )
