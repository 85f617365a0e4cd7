"""What replicas of a gateway share: tokens and records, sealed, whose turn it is to refresh, and who is still there.

Owns the store in its three kinds (memory, SQLite, Redis) and the sealing of what is put into it. Refuses to keep
anything in the clear where it outlives the process, and to let a late writer overwrite what is newer.
"""

from __future__ import annotations

from gateway.store.ledger import Page
from gateway.store.memory import MemoryStore
from gateway.store.protocol import Store
from gateway.store.sealing import Seal
from gateway.store.shelf import Busy, Lease, Stored, StoreUnavailable
from gateway.store.vault import Kept, Shelved, Vault

__all__ = [
    "Busy",
    "Kept",
    "Lease",
    "MemoryStore",
    "Page",
    "Seal",
    "Shelved",
    "Store",
    "StoreUnavailable",
    "Stored",
    "Vault",
]
