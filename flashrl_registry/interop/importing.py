"""Another tool's file to plans: everything is read, checked and compiled before the first file is written."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from flashrl_registry.checkpoints import read_inventory
from flashrl_registry.compiler import compile_plan, preset_rules
from flashrl_registry.documents import (
    Inventory,
    Profile,
    Rules,
    SchemeName,
    UpdateSettings,
)
from flashrl_registry.documents.strict_yaml import Parsed
from flashrl_registry.errors import InteropError
from flashrl_registry.interop.compressed_tensors import rules_from_config
from flashrl_registry.interop.detect import Source, SourceKind, detect
from flashrl_registry.interop.drafts import (
    Draft,
    ImportedPlan,
    refuse_replacing,
    with_extensions,
    write_drafts,
)
from flashrl_registry.interop.findings import Findings
from flashrl_registry.interop.flashrl_entries import FoundEntry, entry_notes, find_entries
from flashrl_registry.interop.llm_compressor import rules_from_recipe
from flashrl_registry.interop.locate import Fetch, locate
from flashrl_registry.interop.modules import SchemeGroup, rules_for
from flashrl_registry.interop.own_profile import own_profile
from flashrl_registry.registry import read_profile


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Attributes:
        kind: What the file was.
        plans: At least one.
        hybrid: The document that names them, where there are several.
        notes: What a reader should know.
    """

    kind: SourceKind
    plans: tuple[ImportedPlan, ...]
    hybrid: Path | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ImportOptions:
    """What the caller decides.

    Attributes:
        kind: What the file is; None lets its content tell.
        profile: A profile instead of the one that the file names: a FlashRL profile.pt, or for other tools' files a
            Profile document.
        scheme: For a bare profile.pt: what its linears get; None means int8 or fp8_channel.
        recompute: Take int8 scales from every update instead of FlashRL's fixed ones.
        lossy: What our documents cannot say of inputs is a note, not an error.
        name: Model name to record; None takes the folder's.
        force: Replace plans that lie where it writes.
        fetch: Gets files from the Hub.
    """

    kind: SourceKind | None = None
    profile: Path | None = None
    scheme: SchemeName | None = None
    recompute: bool = False
    lossy: bool = False
    name: str | None = None
    force: bool = False
    fetch: Fetch | None = None


def import_source(source: str, model: str | Path, output: Path, options: ImportOptions | None = None) -> Imported:
    """Make plans of another tool's file.

    Args:
        source: A path, or ``owner/repo/path`` on the Hub.
        model: The bf16 checkpoint: a folder, or owner/name[@revision] on the Hub. Only headers are read.
        output: Folder to write: a bundle, or ``hybrid.yaml`` beside one bundle per member.
        options: See :class:`ImportOptions`.

    Returns:
        What was written.

    Raises:
        InteropError: The file is of no known kind.
        DocumentError: Everything in it that is malformed, not there, or that our documents cannot say.
        StoreUnavailableError: The Hub cannot be reached, or has no such file.
        CompileError: What it says cannot be done to this model.
        RegistryError: The folder holds something else, which would be replaced.
    """
    options = options or ImportOptions()
    found = detect(locate(source, fetch=options.fetch), options.kind)
    return import_for(found, read_inventory(str(model), options.name), output, options)


def import_for(found: Source, inventory: Inventory, output: Path, options: ImportOptions | None = None) -> Imported:
    """Make plans of another tool's file for a model whose headers have been read; see :func:`import_source`.

    Args:
        found: As :func:`~flashrl_registry.interop.detect.detect` returned it.
        inventory: The bf16 checkpoint.
        output: Folder to write.
        options: See :class:`ImportOptions`.
    """
    options = options or ImportOptions()
    with tempfile.TemporaryDirectory() as scratch:
        job = _Import(found, inventory, options, Path(scratch))
        config = None
        if found.kind == "flashrl":
            entries = find_entries(found, profile=options.profile, fetch=options.fetch)
            config = entries.config
            drafts = with_extensions(entries.each(job.entry), config)
        elif found.kind == "flashrl-profile":
            drafts = [job.bare_profile()]
        else:
            drafts = [job.rules()]
        if not options.force:
            refuse_replacing(drafts, config, output)
        plans, hybrid = write_drafts(drafts, config, output, replacing=options.force)
    return Imported(found.kind, plans, hybrid, tuple(job.notes))


@dataclass
class _Import:
    """One import: what is read, and what is worth knowing about it."""

    source: Source
    inventory: Inventory
    options: ImportOptions
    scratch: Path
    notes: list[str] = field(default_factory=list)

    def note(self, message: str) -> None:
        if message not in self.notes:
            self.notes.append(message)

    def entry(self, found: FoundEntry) -> Draft:
        """A plan for one replica of a FlashRL config."""
        entry = found.entry
        for message in entry_notes(entry):
            self.note(message)
        if found.profile is None:
            if "profile" in entry.values:
                self.note(f"profile {entry.values['profile']} is not used: {entry.function} needs none")
            return self._compiled(entry.scheme, preset_rules(entry.scheme, self.inventory), start=entry.start_model)
        if (own := own_profile(str(found.profile))) is not None:
            return self._with_own_profile(own, entry.scheme, start=entry.start_model)
        name = entry.model or found.profile.stem
        return self._with_profile_pt(found.profile, entry.scheme, name, start=entry.start_model)

    def bare_profile(self) -> Draft:
        """A plan for a profile.pt alone."""
        return self._with_profile_pt(self.source.path, self.options.scheme, self.source.path.stem)

    def rules(self) -> Draft:
        """A plan for a file that says which layers get which scheme."""
        assert self.source.parsed is not None
        found = Findings(self.source.parsed, str(self.source.path))
        make = rules_from_config if self.source.kind == "compressed-tensors" else rules_from_recipe
        rules = make(found, self.inventory, lossy=self.options.lossy)
        profile, sidecar = read_profile(self.options.profile) if self.options.profile is not None else (None, None)
        schemes = [rule.scheme for rule in rules.rules]
        if profile is None and "int8" in schemes:
            found.note("int8 without a profile: if the checkpoint was smoothed, profile the pair and give --profile")
        for message in found.notes:
            self.note(message)
        named = [scheme for scheme in schemes if scheme is not None and scheme != "bf16"]
        draft = self._compiled(named[0] if named else "bf16", rules, profile, sidecar)
        draft.rules = rules
        return draft

    def _with_own_profile(self, path: Path, scheme: SchemeName, *, start: str | None) -> Draft:
        if scheme not in {"int8", "int8_prune"}:
            self.note(f"profile {path} is not used: {scheme} takes its scales from the weights")
            return self._compiled(scheme, preset_rules(scheme, self.inventory), start=start)
        profile, sidecar = read_profile(path)
        self.note(
            f"{path} is a profile of ours: scales are recomputed at every update, and FlashRL itself cannot read it"
        )
        return self._compiled(scheme, preset_rules(scheme, self.inventory, profile), profile, sidecar, start=start)

    def _with_profile_pt(
        self, path: Path, scheme: SchemeName | None, quantized_name: str, *, start: str | None = None
    ) -> Draft:
        from flashrl_registry.interop.profile_pt import import_int8, read_profile_pt

        content, notes = read_profile_pt(path, self.inventory)
        for message in notes:
            self.note(message)
        is_list = isinstance(content, list)
        scheme = scheme or ("fp8_channel" if is_list else "int8")
        wants_list = scheme in {"fp8_tensor", "fp8_channel"}
        if scheme not in {"int8", "int8_prune"} and not wants_list:
            raise InteropError(f"no FlashRL profile is for {scheme}")
        if is_list != wants_list:
            held, wanted = ("fp8", "int8") if is_list else ("int8", "fp8")
            raise InteropError(f"{path} is an {held} profile, and {scheme} needs an {wanted} one")
        if isinstance(content, list):
            return self._compiled(scheme, _rules_of_names(scheme, content, self.inventory, path), start=start)
        folder = self.scratch / f"profile-{len(list(self.scratch.iterdir()))}"
        made = import_int8(content, self.inventory, folder, quantized_name=quantized_name, source=str(path))
        rules = preset_rules(scheme, self.inventory, made.profile)
        if not self.options.recompute:
            rules = rules.model_copy(update={"update": UpdateSettings(scales="frozen")})
            self.note("scales are FlashRL's, fixed when the profile was made; --recompute takes them from every update")
        return self._compiled(scheme, rules, made.profile, made.sidecar, start=start)

    def _compiled(
        self,
        scheme: SchemeName,
        rules: Rules,
        profile: Profile | None = None,
        sidecar: Path | None = None,
        *,
        start: str | None = None,
    ) -> Draft:
        if start is not None:
            rules = rules.model_copy(update={"engine": rules.engine.model_copy(update={"model": start})})
        compiled = compile_plan(rules, self.inventory, profile)
        for diagnostic in compiled.notes:
            self.note(str(diagnostic))
        if compiled.plan.profile is None:
            profile, sidecar = None, None
        return Draft(scheme, compiled.plan, profile, sidecar)


def _rules_of_names(scheme: SchemeName, names: Sequence[str], inventory: Inventory, path: Path) -> Rules:
    modules = tuple(name.removesuffix(".weight") for name in names)
    return rules_for([SchemeGroup("linears", scheme, modules, ())], [], inventory, Findings(Parsed(None), str(path)))
