"""What replicas of a gateway share: tokens, sealed, and whose turn it is to refresh one.

Owns the store in its three kinds (memory, SQLite, Redis) and the sealing of what is put into it. Refuses to keep a
token in the clear where it outlives the process, and to let a late writer overwrite a newer token.
"""

from __future__ import annotations

from gateway.store.memory import MemoryStore
from gateway.store.sealing import Seal
from gateway.store.shelf import Busy, Lease, Store, Stored, StoreUnavailable
from gateway.store.vault import Shelved, Vault

__all__ = ["Busy", "Lease", "MemoryStore", "Seal", "Shelved", "Store", "StoreUnavailable", "Stored", "Vault"]
