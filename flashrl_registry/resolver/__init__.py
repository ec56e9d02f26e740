"""Resolver: a reference and an environment to a ResolvedPlan, with a trace of every decision."""

from flashrl_registry.resolver.payload import Payload, make_payload, open_payload
from flashrl_registry.resolver.resolve import Resolution, resolve

__all__ = ["Payload", "Resolution", "make_payload", "open_payload", "resolve"]
