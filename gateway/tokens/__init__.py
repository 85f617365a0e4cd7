"""The tokens of accounts: where they come from, how long they live, and what is sent for whom.

Owns everything that stands for a contact-centre user. Refuses to send a token that is over, and to let two replicas
take each other's away.
"""

from __future__ import annotations

from gateway.tokens.account import Account
from gateway.tokens.applied import AppliedSource
from gateway.tokens.fabric import ApiFabric, App, User
from gateway.tokens.lifecycle import ELSEWHERE
from gateway.tokens.source import RefreshFailed
from gateway.tokens.static import StaticSource

__all__ = ["ELSEWHERE", "Account", "ApiFabric", "App", "AppliedSource", "RefreshFailed", "StaticSource", "User"]
