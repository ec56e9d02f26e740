"""Documents: frozen values, no torch, no network. Each name is loaded when it is first used.

Ten thousand plans are listed without building one model of a document.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashrl_registry.documents._base import Digest, Document, Frozen, sha256
    from flashrl_registry.documents.evidence import Evidence, Metric
    from flashrl_registry.documents.history import (
        ChannelEvent,
        EvidenceEvent,
        History,
        NoticeEvent,
        PublishEvent,
        SignEvent,
    )
    from flashrl_registry.documents.hybrid import Hybrid, HybridMember
    from flashrl_registry.documents.io import parse_document, read_document, write_atomically, write_document, yaml_text
    from flashrl_registry.documents.kinds import KINDS, claimed_kind, is_document, read_any
    from flashrl_registry.documents.lock import Lock, LockedPlan
    from flashrl_registry.documents.manifest import Manifest, ManifestFile
    from flashrl_registry.documents.plan import Plan, PlannedFamily, ProfileRef, Smoothing
    from flashrl_registry.documents.profile import (
        LinearFacts,
        Profile,
        QuantizedCheckpoint,
        Sidecar,
        SmoothingGroup,
        TensorFamily,
    )
    from flashrl_registry.documents.quantization import QuantArgs
    from flashrl_registry.documents.resolved import (
        EngineArguments,
        EngineFp8,
        Environment,
        Keep,
        QuantizeFp8,
        QuantizeInt8,
        Rescale,
        ResolvedPlan,
        ResolvedTensor,
    )
    from flashrl_registry.documents.rules import EngineSettings, Rule, Rules, UpdateSettings
    from flashrl_registry.documents.schemes import SCHEMES, SYNONYMS, SchemeName, canonical_scheme
    from flashrl_registry.documents.sensitivity import ScoredGroup, Sensitivity
    from flashrl_registry.documents.tensors import BaseModelInfo, Inventory, TensorSpec, base_model_info
    from flashrl_registry.documents.trusted import Publisher, Trusted

_HOME = {
    "KINDS": "kinds",
    "SCHEMES": "schemes",
    "SYNONYMS": "schemes",
    "BaseModelInfo": "tensors",
    "ChannelEvent": "history",
    "Digest": "_base",
    "Document": "_base",
    "EngineArguments": "resolved",
    "EngineFp8": "resolved",
    "EngineSettings": "rules",
    "Environment": "resolved",
    "Evidence": "evidence",
    "EvidenceEvent": "history",
    "Frozen": "_base",
    "History": "history",
    "Hybrid": "hybrid",
    "HybridMember": "hybrid",
    "Inventory": "tensors",
    "Keep": "resolved",
    "LinearFacts": "profile",
    "Lock": "lock",
    "LockedPlan": "lock",
    "Manifest": "manifest",
    "ManifestFile": "manifest",
    "Metric": "evidence",
    "NoticeEvent": "history",
    "Plan": "plan",
    "PlannedFamily": "plan",
    "Profile": "profile",
    "ProfileRef": "plan",
    "PublishEvent": "history",
    "Publisher": "trusted",
    "QuantArgs": "quantization",
    "QuantizeFp8": "resolved",
    "QuantizeInt8": "resolved",
    "QuantizedCheckpoint": "profile",
    "Rescale": "resolved",
    "ResolvedPlan": "resolved",
    "ResolvedTensor": "resolved",
    "Rule": "rules",
    "Rules": "rules",
    "SchemeName": "schemes",
    "ScoredGroup": "sensitivity",
    "Sensitivity": "sensitivity",
    "Sidecar": "profile",
    "SignEvent": "history",
    "Smoothing": "plan",
    "SmoothingGroup": "profile",
    "TensorFamily": "profile",
    "TensorSpec": "tensors",
    "Trusted": "trusted",
    "UpdateSettings": "rules",
    "base_model_info": "tensors",
    "canonical_scheme": "schemes",
    "claimed_kind": "kinds",
    "is_document": "kinds",
    "parse_document": "io",
    "read_any": "kinds",
    "read_document": "io",
    "sha256": "_base",
    "write_atomically": "io",
    "write_document": "io",
    "yaml_text": "io",
}

__all__ = [
    "KINDS",
    "SCHEMES",
    "SYNONYMS",
    "BaseModelInfo",
    "ChannelEvent",
    "Digest",
    "Document",
    "EngineArguments",
    "EngineFp8",
    "EngineSettings",
    "Environment",
    "Evidence",
    "EvidenceEvent",
    "Frozen",
    "History",
    "Hybrid",
    "HybridMember",
    "Inventory",
    "Keep",
    "LinearFacts",
    "Lock",
    "LockedPlan",
    "Manifest",
    "ManifestFile",
    "Metric",
    "NoticeEvent",
    "Plan",
    "PlannedFamily",
    "Profile",
    "ProfileRef",
    "PublishEvent",
    "Publisher",
    "QuantArgs",
    "QuantizeFp8",
    "QuantizeInt8",
    "QuantizedCheckpoint",
    "Rescale",
    "ResolvedPlan",
    "ResolvedTensor",
    "Rule",
    "Rules",
    "SchemeName",
    "ScoredGroup",
    "Sensitivity",
    "Sidecar",
    "SignEvent",
    "Smoothing",
    "SmoothingGroup",
    "TensorFamily",
    "TensorSpec",
    "Trusted",
    "UpdateSettings",
    "base_model_info",
    "canonical_scheme",
    "claimed_kind",
    "is_document",
    "parse_document",
    "read_any",
    "read_document",
    "sha256",
    "write_atomically",
    "write_document",
    "yaml_text",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
