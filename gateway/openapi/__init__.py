"""The reference of the callers' API: its OpenAPI document, and a page made from that.

Owns what is said of the API to machines and to people. Refuses to say it twice: the page has nothing that the document
lacks, and both have the problems from their table.
"""

from __future__ import annotations

from gateway.openapi.document import document, document_json
from gateway.openapi.page import PAGE_HEADERS, page, rendered

__all__ = ["PAGE_HEADERS", "document", "document_json", "page", "rendered"]
