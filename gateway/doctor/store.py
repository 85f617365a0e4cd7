"""The store as the doctor sees it: the way to it, whether it takes us, what is in it, and who refreshes just now.

Owns what each failure of these means to an operator. Refuses to change what gateways have put there, and to make a
file that the gateway's user then could not write.
"""

from __future__ import annotations

from typing import Final

from gateway import config
from gateway.config import ClientTLS, Configuration, StoreAddress
from gateway.doctor.address import Address, reach
from gateway.doctor.report import Report
from gateway.roster import Roster
from gateway.store import Busy, StoreUnavailable, Vault
from gateway.tokens import Account, AppliedSource

_NOTE_SECONDS: Final = 5.0
_UNKNOWN: Final = (
    "Look at store.url, its password and TLS, and whether it is up and can be written to. Gateways go on with the "
    "tokens they have."
)
_ADVICE: Final = {
    "NoPermissionError": "Give its user the rights (ACL) that the README lists.",
    "OutOfMemoryError": "The server is full: raise its maxmemory.",
    "others can read the file": "It must belong to the gateway's user, on a file system that keeps modes.",
    "ReadOnlyError": "It is a replica: have store.url lead to the primary.",
}


def without_new_file(configuration: Configuration, report: Report) -> Configuration:
    """With a store in memory in the place of one whose file is not there yet."""
    store = configuration.store
    if store.url.kind != "sqlite" or store.url.path.exists():
        return configuration
    report.ok("store sqlite", "file", "not there yet; the gateway makes it")
    memory = store.model_copy(update={"url": StoreAddress("memory")})
    return configuration.model_copy(update={"store": memory})


async def look_at_store(settings: config.Store, roster: Roster, report: Report) -> bool:
    """Look at every step to the store; whether it can be read and written."""
    subject = f"store {roster.vault.kind}"
    if not roster.vault.store.shared:
        report.ok(subject, "contents", "this process alone")
        return True
    url = settings.url
    if url.host:
        tls = None
        if url.kind == "rediss":
            paths = settings.tls
            tls = ClientTLS.model_construct(ca=paths.ca, certificate=paths.certificate, key=paths.key)
        if not await reach(report, Address(subject, url.host, url.port, tls, "store.tls", server_name=False)):
            report.skip(subject, "contents", "not reached")
            return False
    unreadable = []
    try:
        for name, account in roster.accounts.items():
            shelved = await roster.vault.token(account.source.key)
            if shelved is not None and shelved.token is None:
                unreadable.append(name)
        # One that has become read-only, or is full, answers every question.
        note = f"doctor:{roster.vault.owner}"
        written = await roster.vault.write(note, b"", after=0, seconds=_NOTE_SECONDS)
        await roster.vault.erase(note, after=written)
    except StoreUnavailable as exc:
        report.fail(subject, "contents", *_unusable(str(exc), settings))
        return False
    if unreadable:
        report.fail(
            subject,
            "contents",
            f"no encryption key opens the token of {', '.join(unreadable)}",
            "Other gateways seal with a key that this one lacks: have the same store.encryption_keys everywhere.",
        )
        return False
    report.ok(subject, "contents", "can be read and written")
    return True


async def withheld(account: Account, vault: Vault) -> tuple[str, str] | None:
    """Why nothing was applied for here, and what to do, if that is another gateway's doing."""
    if not isinstance(account.source, AppliedSource):
        return None
    try:
        busy = await vault.lease(account.source.key, 0.0)  # over at once, if it is given
    except StoreUnavailable:
        return None
    if not isinstance(busy, Busy):
        return None
    if busy.working:
        return "none yet: another gateway applies for one", "Try again in a moment."
    return (
        f"none: a refresh of another gateway failed ({busy.failures} in a row), the next is in {busy.seconds:.0f} s",
        "Nothing was applied for here. The reason is in that gateway's log: token.refresh_failed.",
    )


def _unusable(reason: str, settings: config.Store) -> tuple[str, str]:
    """What a fault of the store means, and what to do."""
    database = settings.url.database
    found = f"can't be used ({reason})"
    if reason.startswith("Authentication") and settings.password is None:
        found, advice = "wants a password", "Set store.password, and store.username if its users have names."
    elif reason.startswith("Authentication"):
        found = "refuses the password" + ("" if settings.username is None else f" of user {settings.username}")
        advice = (
            "Look at store.password and store.username: at the server that user must be switched on and have that "
            "password. One without passwords refuses any."
        )
    elif reason == "ResponseError" and database:
        found = f"can't be used with database {database} ({reason})"
        advice = (
            "Look at the number at the end of store.url: the server has databases 0 to 15 unless told otherwise, and "
            "a cluster only 0."
        )
    else:
        advice = _ADVICE.get(reason, _UNKNOWN)
    return found, advice
