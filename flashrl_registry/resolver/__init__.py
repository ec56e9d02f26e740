"""Resolver: a reference and an environment to a ResolvedPlan, with a trace of every decision."""

from flashrl_registry.resolver.locked import lock_behind, lock_in_place, lock_references_in, locked_reference
from flashrl_registry.resolver.members import OpenHybrid, open_hybrid, pin, pin_reference
from flashrl_registry.resolver.payload import Payload, make_payload, open_payload
from flashrl_registry.resolver.resolve import Resolution, resolve

__all__ = [
    "OpenHybrid",
    "Payload",
    "Resolution",
    "lock_behind",
    "lock_in_place",
    "lock_references_in",
    "locked_reference",
    "make_payload",
    "open_hybrid",
    "open_payload",
    "pin",
    "pin_reference",
    "resolve",
]
