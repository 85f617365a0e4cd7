"""What the store has, beside what an account has: which of the two is to be taken, and where a token is written.

Owns these decisions, for all who look into the store. Refuses I/O and clocks: `now` comes in (epoch seconds).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from gateway.model import Token
from gateway.store import Shelved

# The number in the store of a token that the configuration brings, which every replica has by itself.
FIRST_GENERATION: Final = 1


def generation_of(shelved: Shelved | None) -> int:
    """The generation that the store has; 0 if it has none."""
    return shelved.generation if shelved is not None else 0


def newer(shelved: Shelved | None, generation: int, now: float) -> Token | None:
    """The token that the store has, if it is newer than that generation and can be sent."""
    if shelved is None or shelved.token is None or shelved.generation <= generation:
        return None
    token = shelved.token
    return token if token.expires is None or now < token.expires else None


def lacks(shelved: Shelved | None, usable: Token | None) -> bool:
    """Whether the store should be given our token: it has an older one, or none, and no file brings ours."""
    return usable is not None and max(generation_of(shelved), FIRST_GENERATION) < usable.generation


def counted(token: Token, more: int) -> Token:
    """The same token with a number that is greater by so many: its own here, or its own in the store."""
    return replace(token, generation=token.generation + more)


def again(shelved: Shelved | None, after: int) -> int | None:
    """In the place of which generation a token is written that was refused the place of `after`, under a lease.

    What came there since was written without the lease, so it was not applied for in turn: NSLB has sent it to another
    replica, and the application has ended it. `None` if nothing came: then the lease is not ours any more, and who has
    it may have applied since.
    """
    present = generation_of(shelved)
    return present if present != after else None
