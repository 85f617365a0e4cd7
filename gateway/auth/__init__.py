"""Who calls: the credential of a request, and the service that it proves.

Owns the way from header fields to a principal. Refuses by default: no credential, two credentials or one that
does not hold is nobody, and nothing falls back to another identity.
"""

from __future__ import annotations

from gateway.auth.api_key import ApiKey, ApiKeys, new_key
from gateway.auth.credentials import presented

__all__ = ["ApiKey", "ApiKeys", "new_key", "presented"]
