"""What a report looks like in Chromium, without a network."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from report_documents import make_documents

from flashrl_registry.documents import Plan, Profile, read_document
from flashrl_registry.report import write_report

pytestmark = pytest.mark.browser
ROOT = Path(__file__).parents[3]
INT8 = ROOT / "profiles" / "HuggingFaceTB" / "SmolLM2-135M-Instruct" / "int8"
LIGHT, DARK = (255, 255, 255), (20, 23, 27)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of the measured profile that comes with the package."""
    path = tmp_path_factory.mktemp("real") / "report.html"
    write_report(read_document(INT8 / "profile.yaml", Profile), path, plan=read_document(INT8 / "plan.yaml", Plan))
    return path


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with every part, of names that try to be markup."""
    documents = make_documents()
    path = tmp_path_factory.mktemp("full") / "report.html"
    write_report(documents.profile, path, sensitivity=documents.sensitivity, plan=documents.plan)
    return path


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a model with many projections of long names."""
    documents = make_documents()
    leaves = ["self_attn.q_a_proj", "self_attn.q_b_proj", "self_attn.kv_a_proj_with_mqa", "self_attn.kv_b_proj",
              "self_attn.o_proj", *(f"mlp.{part}{leaf}_proj" for part in ("", "experts.0.", "shared_experts.")
                                    for leaf in ("gate", "up", "down"))]  # fmt: skip
    names = [f"model.layers.{layer}.{leaf}.weight" for layer in range(61) for leaf in leaves]
    linears = [documents.profile.linears[0].model_copy(update={"name": name}) for name in names]
    groups = [
        documents.profile.smoothing[0].model_copy(
            update={"source": names[0].replace("q_a", kind), "targets": names[:9]}
        )
        for kind in ("q_a_layernorm_of_a_long_name", "kv")
    ]
    path = tmp_path_factory.mktemp("wide") / "report.html"
    write_report(documents.made(linears=linears, smoothing=groups), path)
    return path


def colors(picture: Path) -> Counter[Any]:
    with Image.open(picture) as image:
        pixels = image.convert("RGB")
        return Counter({color: count for count, color in pixels.getcolors(maxcolors=1 << 24) or ()})


@pytest.mark.parametrize(("dark", "paper"), [(False, LIGHT), (True, DARK)])
def test_a_desktop_sees_the_map_in_light_and_dark(
    chromium: Any, real: Path, tmp_path: Path, dark: bool, paper: tuple[int, int, int]
) -> None:
    picture = chromium.screenshot(real, tmp_path / "desktop.png", 1280, 1600, dark=dark)
    with Image.open(picture) as image:
        assert image.size == (1280, 1600)
    seen = colors(picture)
    assert seen.most_common(1)[0][0] == paper
    purple = (68, 1, 84)  # the dark end of the scale: output projections, whose codes are all equal
    assert seen[purple] > 20_000, "the heat map is drawn"
    assert len(seen) > 200


def test_a_telephone_scrolls_down_and_never_sideways(chromium: Any, real: Path, full: Path, tmp_path: Path) -> None:
    for page in (real, full):
        for width in (400, 1280):
            answer = chromium.ask(page, "return page.documentElement.scrollWidth", width)
            assert int(answer) == width, page
    picture = chromium.screenshot(real, tmp_path / "telephone.png", 400, 1200)
    assert len(colors(picture)) > 200


def test_each_tab_shows_its_own_map(chromium: Any, full: Path) -> None:
    script = """
const shown = () => [...page.querySelectorAll(".panel")].filter(p => p.getClientRects().length).map(p => p.id);
return [...page.querySelectorAll(".tabs > input")].map(tab => {
  tab.click();
  return shown().join("+") === tab.id.replace("tab-", "panel-") ? "" : tab.id + " shows " + shown();
}).filter(Boolean).join("; ") || "each its own of " + page.querySelectorAll(".panel").length"""
    assert chromium.ask(full, script, 1280) == "each its own of 9"


def test_the_browser_loads_nothing_and_runs_nothing(chromium: Any, full: Path) -> None:
    script = """
const view = page.defaultView;
return view.performance.getEntriesByType("resource").length + " " + page.images.length + " " + page.scripts.length"""
    assert chromium.ask(full, script, 1280) == "0 0 0"


def test_words_in_drawings_stay_inside_and_apart(chromium: Any, real: Path, full: Path, wide: Path) -> None:
    script = """
return [...page.querySelectorAll("svg.plot")].flatMap(drawing => {
  const frame = drawing.getBoundingClientRect();
  const words = [...drawing.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()])
    .filter(([text, box]) => box.width && text.trim());
  const outside = words.filter(([, box]) =>
    box.left < frame.left - 2 || box.right > frame.right + 2 || box.bottom > frame.bottom + 2);
  const touching = words.filter(([, a], i) => words.some(([, b], j) => i < j &&
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 2 &&
    Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 4));
  return [...outside, ...touching].map(([text]) => text);
}).join("; ") || "apart" """
    for page in (real, full, wide):
        assert chromium.ask(page, script, 1280) == "apart"
