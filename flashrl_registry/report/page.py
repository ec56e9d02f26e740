"""The page: sections in the order in which people ask, one file, no script and nothing from a network."""

from html import escape
from importlib.resources import files

from flashrl_registry.report.facts import Facts
from flashrl_registry.report.sections import Section, sections

# A browser that honours it loads nothing, whatever a name in a document may say.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_SCHEMES = {"int8": "INT8", "fp8_tensor": "FP8 per tensor", "fp8_channel": "FP8 per channel", "fp8_block": "FP8 blocks"}


def render(facts: Facts) -> str:
    """Draw a report.

    Args:
        facts: Everything that it says.

    Returns:
        One HTML document; the same facts give the same text.
    """
    shown = sections(facts)
    model, scheme = escape(facts.reference.name), _SCHEMES[facts.scheme]
    style = (files("flashrl_registry.report") / "style.css").read_text(encoding="utf-8")
    links = "\n".join(f'<li><a href="#{section.key}">{escape(section.title)}</a></li>' for section in shown)
    body = "\n\n".join(_section(section) for section in shown)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{model}: {scheme} profile</title>
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#summary">Skip to the summary</a>
<header>
<h1>{model}: {scheme} profile</h1>
<p>{escape(facts.reference.name)} beside {escape(facts.quantized.name)}, {escape(facts.reference.architecture)}</p>
</header>
<nav aria-label="Sections"><ul>
{links}
</ul></nav>
<main>
{body}
</main>
<footer><p>{escape(facts.written_by)}; the same facts as JSON: flashrl-registry report --facts</p></footer>
</body>
</html>
"""


def _section(section: Section) -> str:
    return (
        f'<section id="{section.key}" aria-labelledby="{section.key}-heading">\n'
        f'<h2 id="{section.key}-heading">{escape(section.title)}</h2>\n'
        f"{section.content}\n</section>"
    )
