"""A Python client of the gateway, for the services that dial through it.

Owns what a service would otherwise write itself, and get wrong: one key for all repetitions of a dial, when to repeat
it at all, following a call to its end. Refuses to import anything else of `gateway`: it knows the gateway by its HTTP
interface alone, and needs nothing but `aiohttp`.

    async with DialClient("http://127.0.0.1:8080", key) as client:
        call = await client.dial("voice")
        async for event in client.events(call.id):
            print(event.status)
"""

from gateway.client.answers import Call, Event, Support
from gateway.client.dialling import DialClient
from gateway.client.errors import DialError, NotDone, OutcomeUnknown, Problem, Refused, Rejected

__all__ = [
    "Call",
    "DialClient",
    "DialError",
    "Event",
    "NotDone",
    "OutcomeUnknown",
    "Problem",
    "Refused",
    "Rejected",
    "Support",
]
