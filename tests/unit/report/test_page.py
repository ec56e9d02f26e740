"""The page: everything is said, nothing is fetched, no name becomes markup, and the bytes repeat."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest
from report_documents import HOSTILE, LINEARS, Documents

from flashrl_registry.documents import LinearFacts, Profile, SmoothingGroup, TensorFamily
from flashrl_registry.documents.profile import ChannelMap
from flashrl_registry.errors import DocumentError
from flashrl_registry.report import gather, render, write_report


class Elements(HTMLParser):
    """Every tag with its attributes, the ids, and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def page(documents: Documents) -> str:
    return render(gather(documents.profile, sensitivity=documents.sensitivity, plan=documents.plan))


@pytest.fixture(scope="module")
def elements(page: str) -> Elements:
    return Elements(page)


def test_nothing_is_fetched_and_nothing_runs(elements: Elements) -> None:
    used = {tag for tag, _ in elements.tags}
    assert not used & {"script", "link", "img", "image", "iframe", "object", "embed", "audio", "video", "base", "form"}
    for tag, attributes in elements.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in {"href", "xlink:href", "src"}:
                assert value is not None
                assert value.startswith("#"), (tag, name, value)
    policy = next(meta["content"] for meta in elements.named("meta") if meta.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_styles_load_nothing(page: str) -> None:
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL) + re.findall(r'style="([^"]*)"', page)
    assert styles
    for style in styles:
        assert "@import" not in style
        assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", style))


def test_names_stay_text(page: str, elements: Elements) -> None:
    assert HOSTILE not in page
    assert "<script" not in page
    assert HOSTILE in "".join(elements.text)
    assert "https://" not in re.sub(r">[^<]*<", "><", page), "a link in a name is text, and nothing else"


def test_a_formula_or_a_colour_in_a_name_is_drawn_as_it_is(documents: Documents) -> None:
    name = 'model.layers.0.$x^2$ #010203 id="b.weight'
    linear = documents.profile.linears[0].model_copy(update={"name": name})
    family = TensorFamily(names="x", shape=[8, 8], dtype="bfloat16", role="quantized")
    family = family.model_copy(update={"names": name})
    drawn = render(gather(documents.made(linears=[linear], smoothing=[], tensors=[family])))
    texts = "".join(Elements(drawn).text)
    assert '$x^2$ #010203 id="b' in texts


def test_every_id_is_there_once_and_every_link_leads_somewhere(elements: Elements) -> None:
    ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [value for _, attributes in elements.tags for key in ("href", "xlink:href")
               if (value := attributes.get(key))]  # fmt: skip
    labels = [value for _, attributes in elements.tags for key in ("aria-labelledby", "for")
              if (value := attributes.get(key))]  # fmt: skip
    assert targets
    assert {target.removeprefix("#") for target in targets} <= set(ids)
    assert {word for label in labels for word in label.split()} <= set(ids)


def test_those_who_cannot_see_hear_what_is_drawn(page: str, elements: Elements) -> None:
    drawings = elements.named("svg")
    assert len(drawings) > 8
    assert all(drawing["role"] == "img" for drawing in drawings)
    assert page.count("<desc ") == len(drawings)
    assert elements.named("html")[0]["lang"] == "en"
    assert [tag for tag, _ in elements.tags if tag in {"h1", "h2"}].count("h1") == 1
    assert "model.layers.0.mlp.down_proj.weight: 99.40" in "".join(elements.text), "a cell says which linear it is"


def test_the_page_has_every_part(elements: Elements) -> None:
    parts = {section["id"] for section in elements.named("section")}
    assert parts == {"summary", "maps", "worst", "clipping", "rounding", "smoothing", "sensitivity", "front", "plan",
                     "provenance"}  # fmt: skip
    tabs = {button["id"] for button in elements.named("input")}
    assert {"tab-equal", "tab-residual-rms", "tab-clip-rate", "tab-score-int8", "tab-score-fp8_channel"} <= tabs


def test_a_profile_alone_is_a_report(documents: Documents) -> None:
    facts = gather(documents.profile)
    parts = {section["id"] for section in Elements(render(facts)).named("section")}
    assert parts == {"summary", "maps", "worst", "clipping", "rounding", "smoothing", "provenance"}
    assert (facts.sensitivity, facts.plan, facts.front) == (None, None, None)


def test_the_same_documents_give_the_same_bytes(documents: Documents, tmp_path: Path) -> None:
    settings = dict(mpl.rcParams)
    for name in ("a", "b"):
        write_report(
            documents.profile, tmp_path / f"{name}.html", sensitivity=documents.sensitivity, plan=documents.plan,
            facts_file=tmp_path / f"{name}.json",
        )  # fmt: skip
        mpl.rcParams["font.size"] = 20  # whatever else draws in this process
    mpl.rcParams.update(settings)
    for kind in ("html", "json"):
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()


def test_the_json_has_every_linear_and_every_group(documents: Documents, tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    write_report(documents.profile, tmp_path / "x.html", sensitivity=documents.sensitivity, facts_file=file)
    data: dict[str, Any] = json.loads(file.read_text())
    assert {linear["facts"]["name"] for linear in data["linears"]} == set(LINEARS)
    assert data["linears"][0]["facts"] == documents.profile.linears[LINEARS.index(
        data["linears"][0]["facts"]["name"])].model_dump(mode="json")  # fmt: skip
    assert (data["linears"][-1]["layer"], data["linears"][-1]["projection"]) == (11, "self_attn.v_proj")
    assert len(data["sensitivity"]["groups"]) == len(documents.sensitivity.groups)
    assert sum(group["scores"]["int8"]["share"] for group in data["sensitivity"]["groups"]) == pytest.approx(1)
    assert len(data["smoothing"]) == len(documents.profile.smoothing)
    assert data["profile"] == documents.profile.compute_digest()
    assert data["summary"]["rounding"] == {"gptq": 17, "nearest": 67}


def test_the_front_is_the_plans_own_or_computed_from_scores(documents: Documents) -> None:
    own = gather(documents.profile, sensitivity=documents.sensitivity, plan=documents.plan).front
    assert own is not None
    assert (own.origin, sum(point.chosen for point in own.points)) == ("plan", 1)
    computed = gather(documents.profile, sensitivity=documents.sensitivity, device="cpu").front
    assert computed is not None
    assert (computed.origin, computed.device) == ("sensitivity", "cpu")
    assert not any(point.chosen for point in computed.points)
    kls = [point.predicted_kl for point in computed.points]
    assert kls == sorted(kls, reverse=True)
    assert (computed.points[-1].avg_bits, kls[-1]) == (16, 0)


def test_what_a_plan_does_stands_beside_each_linear(documents: Documents) -> None:
    facts = gather(documents.profile, sensitivity=documents.sensitivity, plan=documents.plan)
    treatments = {linear.treatment for linear in facts.linears}
    assert {"keep", "int8"} <= treatments
    assert facts.sensitivity is not None
    assert {group.chosen for group in facts.sensitivity.groups} >= {"bf16", "int8"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: {"profile": d.made(reference=d.profile.reference.model_copy(
            update={"fingerprint": "sha256:" + "9" * 64}))}, "the scores are of"),
        (lambda d: {"profile": d.made(sidecar=d.profile.sidecar.model_copy(update={"num_bytes": 200}))},
         "int8 was scored with profile"),
    ],
)  # fmt: skip
def test_documents_of_another_model_or_profile_are_refused(
    documents: Documents, change: Callable[[Documents], dict[str, Any]], message: str, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"sensitivity": documents.sensitivity, "plan": documents.plan, **change(documents)}
    with pytest.raises(DocumentError) as caught:
        write_report(given["profile"], tmp_path / "x.html", sensitivity=given["sensitivity"], plan=given["plan"])
    assert message in str(caught.value)
    assert "plan: the plan " in str(caught.value), "all findings at once"
    assert list(tmp_path.iterdir()) == []


def test_experts_and_linears_outside_layers_have_their_places(documents: Documents) -> None:
    names = [f"model.layers.{layer}.mlp.experts.{expert}.up_proj.weight" for layer in (2, 10) for expert in range(3)]
    linears = [
        documents.profile.linears[0].model_copy(update={"name": name, "codes_equal": 0.9 + index / 100})
        for index, name in enumerate([*names, "lm_head.weight"])
    ]
    facts = gather(documents.made(linears=linears, smoothing=[]))
    assert [(linear.layer, linear.projection) for linear in facts.linears][-1] == (10, "mlp.experts.*.up_proj")
    drawn = "".join(Elements(render(facts)).text)
    assert f"{names[3]}: 93.00, worst of 3" in drawn
    assert "lm_head.weight: 96.00" in drawn


def test_facts_of_older_profiles_are_enough(documents: Documents) -> None:
    old = [
        LinearFacts(name=name, rows_checked=1, codes_equal=1.0, largest_difference=0, residual_rms=0.0, clip_rate=0.0)
        for name in LINEARS[:3]
    ]
    facts = gather(documents.made(linears=old))
    tabs = {button["id"] for button in Elements(render(facts)).named("input")}
    assert tabs == {"tab-equal", "tab-residual-rms", "tab-clip-rate"}
    assert facts.summary.rounding == {"not measured": 3}


def test_a_profile_without_linears_or_factors_says_so(documents: Documents) -> None:
    page = render(gather(documents.made(linears=[], smoothing=[])))
    assert "No factor was folded" in page


def test_factors_that_plans_cannot_apply_are_said(documents: Documents) -> None:
    group = documents.profile.smoothing[0]
    turned = SmoothingGroup(**{**group.model_dump(), "channels": ChannelMap(start=0, num_rows=8), "smallest": -2.0})
    profile: Profile = documents.made(smoothing=[turned, *documents.profile.smoothing[1:]])
    page = render(gather(profile))
    assert "Plans cannot apply 1 factors yet" in page
