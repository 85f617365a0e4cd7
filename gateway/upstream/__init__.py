"""The way to NSLB: connections that know what was sent, endpoints in turn, and what an answer means.

Owns every byte that goes to NSLB and the decision which of the four outcomes an attempt had. Refuses to send
anything a second time that may have arrived.
"""

from __future__ import annotations

from gateway.upstream.failures import CredentialGone, NotSent, SentUnanswered
from gateway.upstream.nslb import Nslb
from gateway.upstream.pool import Pool, PoolSettings
from gateway.upstream.reading import Reading, Support, Verdict
from gateway.upstream.reply import Reply, json_object
from gateway.upstream.tls import PeerPolicy, client_context, settings_digest

__all__ = [
    "CredentialGone",
    "NotSent",
    "Nslb",
    "PeerPolicy",
    "Pool",
    "PoolSettings",
    "Reading",
    "Reply",
    "SentUnanswered",
    "Support",
    "Verdict",
    "client_context",
    "json_object",
    "settings_digest",
]
