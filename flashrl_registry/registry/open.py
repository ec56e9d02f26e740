"""From a reference to a checked bundle, wherever it lies."""

from flashrl_registry.errors import IntegrityError, InvalidRefError
from flashrl_registry.registry.bundle import PlanBundle
from flashrl_registry.registry.chain import Chain, PlanSource
from flashrl_registry.registry.hybrids import Bundle, one_plan, read_any_bundle
from flashrl_registry.registry.ref import HubFileRef, NamedRef, PathRef, PlanRef


def open_bundle(ref: PlanRef, store: PlanSource) -> PlanBundle:
    """Read the plan that a reference names, and check all of its bytes.

    Args:
        ref: Parsed reference: a path, a registry name, or a file on the Hub.
        store: One store, or the chain of them.

    Returns:
        The checked bundle.

    Raises:
        InvalidRefError: A scheme name, which has no bundle until it is compiled for a model; or a hybrid.
        NotFoundError: Nothing is there.
        AccessDeniedError, StoreUnavailableError: The store does not answer.
        IntegrityError: Bytes differ from their digest, or the plan from the one that the reference pins.
        SignatureError: A signature is asked for, and it has none that is valid.
    """
    return one_plan(open_any(ref, store), ref)


def open_any(ref: PlanRef, store: PlanSource) -> Bundle:
    """As :func:`open_bundle`; a hybrid where the reference names one."""
    if isinstance(ref, NamedRef):
        return store.open(ref)
    if isinstance(ref, HubFileRef):
        if not isinstance(store, Chain):
            raise InvalidRefError(f"'{ref}' is a file on the Hub, and only one store was opened")
        return store.open_file(ref)
    if not isinstance(ref, PathRef):
        raise InvalidRefError(
            f"'{ref}' is a scheme name, not a compiled plan",
            hint=f"compile it for a model: flashrl-registry compile -m MODEL --scheme {ref} -o DIR",
            context={"ref": str(ref)},
        )
    if isinstance(store, Chain):
        store.refuse_unsigned(ref)
    bundle = read_any_bundle(ref.path)
    if ref.digest is not None and ref.digest != bundle.digest:
        raise IntegrityError(
            f"{ref} is not the plan that the reference pins: expected {ref.digest}, actual {bundle.digest}",
            context={"ref": str(ref), "expected": ref.digest, "actual": bundle.digest},
        )
    return bundle
