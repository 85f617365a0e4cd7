"""The way to NSLB: connections that know what was sent, endpoints in turn, and what an answer means.

Owns every byte that goes to NSLB and the decision which of the four outcomes an attempt had. Refuses to send
anything a second time that may have arrived.
"""

from __future__ import annotations

from gateway.upstream.connection import Reply
from gateway.upstream.failures import NotSent, SentUnanswered
from gateway.upstream.nslb import Nslb, Verdict
from gateway.upstream.pool import Pool, PoolSettings
from gateway.upstream.tls import PeerPolicy, client_context

__all__ = [
    "NotSent",
    "Nslb",
    "PeerPolicy",
    "Pool",
    "PoolSettings",
    "Reply",
    "SentUnanswered",
    "Verdict",
    "client_context",
]
