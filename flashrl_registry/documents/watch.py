"""Stop reading a document that is full of faults.

A machine-written document may have millions of values, and pydantic makes an error object of every fault: a profile of
5 MB could cost gigabytes to say 800,000 times that a key is unknown. So what has been read so far is validated now and
then while the text is still being parsed, each part once, and reading stops when there are more faults than anybody
reads, or long after the first one. A long document without faults is validated twice, which is a fifth of the time
that reading it takes.
"""

import itertools
import json
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from flashrl_registry.documents.strict_yaml import ENOUGH, MAX_FINDINGS, Parsed

# What may still come to a part that is not read to its end.
_NOT_YET = {"missing", "union_tag_not_found", "too_short", "value_error"}


class FaultWatch:
    """Called with the part of a document that has been read; true where it is not worth reading on.

    Attributes:
        errors: Pydantic's errors where reading was stopped because of them; else empty.
    """

    def __init__(self, model: type[BaseModel]) -> None:
        """Watch a document of one class.

        Args:
            model: What the document is to be.
        """
        self.errors: list[ErrorDetails] = []
        self._model = model
        self._closed: list[ErrorDetails] = []
        self._num_clean = 0  # values that had been read when there was no fault yet
        self._num_keys = 0  # keys at the top whose values have been read to their end
        self._num_items = 0  # items of the list after them that have been

    def __call__(self, parsed: Parsed) -> bool:
        """Validate what is new since the last call."""
        data = parsed.data
        if not isinstance(data, dict):
            return True  # no document, however long
        window = dict(itertools.islice(data.items(), self._num_keys, None))
        if not window:
            return False
        first, last = next(iter(window)), next(reversed(window))
        if isinstance(window[first], list):
            window[first] = window[first][self._num_items :]
        open_ = self._sort(_errors(self._model, window), window, first, last)
        num_faults, num_values = len(self._closed) + len(open_), len(parsed.places)
        if num_faults == 0:
            self._num_clean = num_values
        elif num_faults > MAX_FINDINGS or num_values - self._num_clean > ENOUGH:
            self.errors = [*self._closed, *open_]
            return True
        self._num_items = max(0, len(data[last]) - 1) if isinstance(data[last], list) else 0
        self._num_keys = len(data) - 1
        return False

    def _sort(self, errors: list[ErrorDetails], window: dict[str, Any], first: str, last: str) -> list[ErrorDetails]:
        """Keep those of parts that have been read to their end; return those of the part that has not."""
        open_ = []
        end = len(window[last]) - 1 if isinstance(window[last], list) else None
        for error in errors:
            loc = error["loc"]
            if not loc or loc[0] not in window:
                continue  # about keys that are not in the window
            is_open = loc[0] == last and (end is None or len(loc) == 1 or loc[1] == end)
            if loc[0] == first and len(loc) > 1 and isinstance(loc[1], int):
                error["loc"] = (first, loc[1] + self._num_items, *loc[2:])
            if not is_open:
                self._closed.append(error)
            elif error["type"] not in _NOT_YET:
                open_.append(error)
        return open_


def _errors(model: type[BaseModel], data: dict[str, Any]) -> list[ErrorDetails]:
    try:
        model.model_validate_json(json.dumps(data))
    except ValidationError as exc:
        return exc.errors(include_url=False)
    return []
