"""What a Hub's client raises, in our words: which error it is, and what to do about it.

412 means that the head moved; 409, 429, 5xx and a lost connection say nothing about whether a commit was applied.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from flashrl_registry.errors import (
    AccessDeniedError,
    ConflictError,
    InvalidRefError,
    NotFoundError,
    RegistryError,
    StoreUnavailableError,
)

_FULL = {errno.ENOSPC, errno.EDQUOT}
_DISK = {*_FULL, errno.EROFS, errno.EACCES, errno.EPERM}


@dataclass(frozen=True)
class HubErrors:
    """Errors of one Hub.

    Attributes:
        endpoint: Its address.
        cache: Where files are written; of a full disk, nothing else says which one.
        login: How the user gets access there.
    """

    endpoint: str
    cache: Path
    login: str

    @contextmanager
    def typed(self, what: str, *, writing: bool = False) -> Iterator[None]:
        """Whatever the client raises inside the block is raised as an error of ours.

        Args:
            what: What is asked for, for messages.
            writing: It is to be changed.
        """
        from huggingface_hub import errors

        where = {"endpoint": self.endpoint}
        try:
            yield
        except errors.GatedRepoError as exc:  # a subclass of the next
            hint = f"ask for access on {self.endpoint}, then: {self.login}"
            raise AccessDeniedError(f"{what} is gated on {self.endpoint}", hint=hint, context=where) from exc
        except errors.RepositoryNotFoundError as exc:
            hint = f"check the spelling; for a private repository: {self.login}"
            raise NotFoundError(f"{what}: no repository on {self.endpoint} that you may read",
                                hint=hint, context=where) from exc  # fmt: skip
        except errors.RevisionNotFoundError as exc:
            raise NotFoundError(f"{what}: no such revision on {self.endpoint}", context=where) from exc
        except errors.OfflineModeIsEnabled as exc:
            raise _offline(what, where) from exc
        except errors.EntryNotFoundError as exc:
            if isinstance(exc, errors.LocalEntryNotFoundError):  # not cached, and the request failed
                raise self._unavailable(what, exc) from exc
            raise NotFoundError(f"{what}: no such file on {self.endpoint}", context=where) from exc
        except errors.LocalTokenNotFoundError as exc:
            message = f"{what}: {self.endpoint} wants to know who you are, and there is no token"
            raise AccessDeniedError(message, hint=f"{self.login}, or set HF_TOKEN", context=where) from exc
        except errors.HFValidationError as exc:
            raise InvalidRefError(f"{what}: {exc}", context=where) from exc
        except (errors.HTTPError, OSError) as exc:
            raise self._of_status(what, exc, writing=writing) from exc
        except (KeyError, TypeError, AttributeError, ValueError) as exc:  # how the client trips over a bad answer
            raise StoreUnavailableError(f"{what}: {self.endpoint} gave an answer that is not understood: "
                                        f"{type(exc).__name__}: {exc}", context=where) from exc  # fmt: skip

    def _of_status(self, what: str, exc: Exception, *, writing: bool) -> RegistryError:
        if isinstance(exc, OSError) and exc.errno in _DISK and (exc.filename or exc.errno in _FULL):
            # A full disk names no file; without one, a permission is the network's.
            file = str(exc.filename or self.cache)
            return RegistryError(
                f"{what}: {file} cannot be written: {exc.strerror}",
                hint="make room (flashrl-registry gc) or give FLASHRL_REGISTRY another place; the Hub is not to blame",
                context={"file": file, "errno": errno.errorcode[exc.errno]},
            )
        status = getattr(getattr(exc, "response", None), "status_code", None)
        context = {"endpoint": self.endpoint, "status": status}
        if status == 412:
            return ConflictError(f"{what}: somebody committed meanwhile", context=context)
        if status in {401, 403}:
            hint = f"{self.login} with a token that may read it"
            if writing:
                hint = f"{self.login} with a token that may write there; readers propose with: push --pr"
            return AccessDeniedError(f"{what}: {self.endpoint} says no ({status})", hint=hint, context=context)
        return self._unavailable(what, exc)

    def _unavailable(self, what: str, exc: Exception) -> StoreUnavailableError:
        status = getattr(getattr(exc, "response", None), "status_code", None)
        cause = exc.__cause__
        if status is None and cause is not None:  # a download that was given up carries why
            status = getattr(getattr(cause, "response", None), "status_code", None)
        why = f"answers {status}" if status is not None else f"cannot be reached ({type(exc).__name__})"
        return StoreUnavailableError(
            f"{what}: {self.endpoint} {why}",
            hint="try again; what is pinned by commit or digest and cached needs no network",
            context={"endpoint": self.endpoint, "status": status},
        )


def _offline(what: str, where: dict[str, str]) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"{what}: the Hub is offline (HF_HUB_OFFLINE)", hint="unset HF_HUB_OFFLINE, or use what is cached",
        context={**where, "status": None},
    )  # fmt: skip
