"""Every file under tests/data/documents: valid ones are read, invalid ones give exactly the findings they announce.

A new case is a new file. An invalid one starts with a line ``# expect: <code> <line>:<column> [<part of the message>]``
for each finding, in their order, or ``# expect: integrity``.
"""

import re
from pathlib import Path

import pytest

from flashrl_registry.documents import KINDS, read_any, read_document
from flashrl_registry.documents.io import yaml_text
from flashrl_registry.errors import DocumentError, FlashRLError, IntegrityError

CORPUS = Path(__file__).parents[2] / "data" / "documents"
VALID = sorted((CORPUS / "valid").glob("*/*"))
INVALID = sorted((CORPUS / "invalid").glob("*/*"))
UTF_16 = (b"\xff\xfe", b"\xfe\xff")
EXPECT = re.compile(rb"# expect: (\S+)(?: ([0-9]+:[0-9]+)(?: (.+))?)?")


def name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def test_the_corpus_is_there() -> None:
    assert len(VALID) >= 30
    assert len(INVALID) >= 60
    assert {path.parent.name for path in VALID} == set(KINDS)


@pytest.mark.parametrize("path", VALID, ids=name)
def test_valid_documents_are_read_and_written_back_as_the_same_value(path: Path, tmp_path: Path) -> None:
    document = read_any(path)
    assert path.parent.name == document.KIND
    again, canonical = tmp_path / "again.yaml", tmp_path / "canonical.json"
    again.write_text(yaml_text(document), encoding="utf-8")
    canonical.write_bytes(document.canonical_json())
    for copy in (again, canonical):
        assert read_document(copy, type(document)) == document
        assert read_any(copy).compute_digest() == document.compute_digest()


@pytest.mark.parametrize("path", INVALID, ids=name)
def test_invalid_documents_give_the_findings_they_announce(path: Path) -> None:
    data = path.read_bytes()
    announced = EXPECT.findall(data.decode("utf-16").encode() if data.startswith(UTF_16) else data)
    assert announced, "the file must start with '# expect:' lines"
    with pytest.raises(FlashRLError) as caught:
        read_any(path)
    error = caught.value
    if isinstance(error, IntegrityError):
        assert [code for code, _, _ in announced] == [b"integrity"]
        assert {"expected", "actual"} <= error.context.keys()
        return
    assert isinstance(error, DocumentError)
    found = [(finding.code, f"{finding.line}:{finding.column}") for finding in error.findings]
    assert found == [(code.decode(), place.decode()) for code, place, _ in announced]
    for finding, (_, _, part) in zip(error.findings, announced, strict=True):
        assert part.decode() in finding.message
        assert str(finding).startswith(f"{path}:{finding.line}:{finding.column}: ")


def test_messages_are_in_our_words_and_tell_no_password() -> None:
    texts = []
    for path in INVALID:
        with pytest.raises(FlashRLError) as caught:
            read_any(path)
        texts.append(str(caught.value))
    text = "\n".join(texts)
    foreign = re.findall(
        r"(?:Input|List|String|Value|Field|Dictionary) (?:should|error|required).*|.*any token.*", text
    )
    assert not foreign
    assert "secret" not in text.replace("credentials_in_the_endpoint", "")
