"""Documents: frozen values, no torch, no network."""

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
from flashrl_registry.documents.quantization import SCHEMES, SYNONYMS, QuantArgs, SchemeName, canonical_scheme
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
from flashrl_registry.documents.sensitivity import ScoredGroup, Sensitivity
from flashrl_registry.documents.tensors import BaseModelInfo, Inventory, TensorSpec, base_model_info
from flashrl_registry.documents.trusted import Publisher, Trusted

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
