"""Files of a plan repository at one commit: from the cache where they are, else from the Hub, and never too many bytes.

What a commit holds never changes, so nothing here asks what is newest.
"""

from pathlib import Path

from flashrl_registry.documents import Hybrid, Manifest, Plan, read_document
from flashrl_registry.documents.strict_yaml import MAX_BYTES
from flashrl_registry.errors import (
    DocumentError,
    IntegrityError,
    NotFoundError,
    RegistryError,
    StoreUnavailableError,
)
from flashrl_registry.registry.folders import MANIFEST_JSON
from flashrl_registry.registry.hub_client import HubClient
from flashrl_registry.registry.hybrids import HybridPlans, is_hybrid
from flashrl_registry.registry.plan_folders import HYBRID_YAML, PLAN_JSON, PROFILE_YAML


def refuse_other_name(said: str, name: str, file: str) -> None:
    """Refuse a document that speaks of another repository; a Hub takes a name in any case.

    Raises:
        IntegrityError: It does.
    """
    if said.casefold() != name.casefold():
        raise IntegrityError(
            f"{file} in {name} is that of {said}",
            hint=f"the repository was copied or renamed: take {said}, or publish the plan under {name}",
            context={"expected": name, "actual": said},
        )


def again() -> str:
    """What to do about a damaged copy in the cache."""
    return "fetch it anew: flashrl-registry gc --all, and pull again"


class HubFiles:
    """Files of repositories on one Hub.

    Args:
        client: Speaks to it.
    """

    def __init__(self, client: HubClient) -> None:
        self._client = client

    def manifest_at(self, name: str, commit: str) -> Manifest | None:
        """The manifest at a commit; None where it has none.

        Raises:
            IntegrityError: It is damaged, or another name's.
        """
        try:
            file = self.fetch(name, commit, MANIFEST_JSON)
        except NotFoundError:
            return None
        try:
            manifest = read_document(file, Manifest)
        except DocumentError as exc:
            message = f"{MANIFEST_JSON} of {name} at {commit[:12]} is damaged: {exc.message}"
            hint = f"{again()}; if it comes back like this, its owner must publish the plan again"
            raise IntegrityError(message, hint=hint, context={"file": str(file)}) from exc
        refuse_other_name(manifest.name, name, MANIFEST_JSON)
        return manifest

    def plan_at(self, name: str, commit: str) -> Plan:
        """The plan at a commit."""
        return read_document(self.fetch(name, commit, PLAN_JSON), Plan)

    def documents_at(self, name: str, commit: str, manifest: Manifest) -> Plan | HybridPlans:
        """What a version says of itself: the plan, or the hybrid and its members' plans; no vectors are fetched."""
        if not is_hybrid(manifest):
            return self.plan_at(name, commit)
        hybrid = read_document(self.fetch(name, commit, HYBRID_YAML), Hybrid)
        plans = {
            member.name: read_document(self.fetch(name, commit, f"{member.name}/{PLAN_JSON}"), Plan)
            for member in hybrid.members
            if member.is_path
        }
        return HybridPlans(hybrid, plans)

    def published_at(self, name: str, commit: str) -> Plan | HybridPlans:
        """As :meth:`documents_at`; of a commit without a manifest, the plan that lies there."""
        manifest = self.manifest_at(name, commit)
        return self.plan_at(name, commit) if manifest is None else self.documents_at(name, commit, manifest)

    def plan_with_neighbours(self, repo: str, commit: str, path: str) -> Path:
        """A plan file that no manifest lists, and the neighbours that it may have."""
        plan_file = self.fetch(repo, commit, path)
        folder = path.rpartition("/")[0]
        beside = [f"{folder}/{name}" if folder else name for name in (PLAN_JSON, PROFILE_YAML)]
        plan = read_document(plan_file, Plan)
        if plan.profile is not None:
            name = plan.profile.sidecar.file_name
            self.fetch(repo, commit, f"{folder}/{name}" if folder else name, plan.profile.sidecar.num_bytes)
        for other in beside:
            try:
                self.fetch(repo, commit, other)
            except NotFoundError:
                continue
            except StoreUnavailableError:
                if not self._client.offline:
                    raise  # offline, what came with the plan is what there is: the plan does not need these
        return plan_file

    def fetch(self, repo: str, commit: str, path: str, num_bytes: int = 64 << 20) -> Path:
        """One file, by its size on the Hub before it is fetched.

        Raises:
            NotFoundError: No such file.
            RegistryError: It is larger than ``num_bytes``, or than a document.
        """
        if (cached := self._client.cached(repo, commit, path)) is not None:
            return cached
        sizes = self.sizes(repo, commit, [path])
        size = None if sizes is None else sizes.get(path)
        limit = MAX_BYTES if path.rpartition("/")[2] in {MANIFEST_JSON} else num_bytes
        if size is not None and size > limit:
            raise RegistryError(f"{path} of {repo} has {size} bytes; at most {limit} are read")
        return self._client.fetch(repo, commit, path, size)

    def sizes(self, repo: str, commit: str, paths: list[str]) -> dict[str, int] | None:
        """What the Hub says about files before any is fetched; None where all of them are here already."""
        if all(self._client.cached(repo, commit, path) is not None for path in paths):
            return None
        if self._client.offline:
            missing = [path for path in paths if self._client.cached(repo, commit, path) is None]
            raise StoreUnavailableError(
                f"{', '.join(missing)} of {repo} at {commit[:12]} not cached, and the Hub is offline",
                hint="unset HF_HUB_OFFLINE once, and pull it",
                context={"endpoint": self._client.endpoint, "repository": repo, "commit": commit, "missing": missing},
            )
        return self._client.sizes(repo, commit)
