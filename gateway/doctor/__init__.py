"""`dial-gateway doctor`: each step from a name to what the channel supports, and what to do if one fails.

Owns the order of the steps and the words for what is found. Refuses to create a call, to show a secret, and to send
anything to a server whose certificate could not be verified.
"""

from __future__ import annotations

from gateway.doctor.command import doctor

__all__ = ["doctor"]
