"""A report that people look at: one HTML file that opens offline, and the same facts as JSON.

It draws with matplotlib and needs no tensor: a Profile, and where they are given the scores and the plan, hold
everything. The same documents give the same bytes under the same releases.
"""

from flashrl_registry.report.facts import Facts
from flashrl_registry.report.gather import gather
from flashrl_registry.report.page import render
from flashrl_registry.report.write import Written, write_report

__all__ = ["Facts", "Written", "gather", "render", "write_report"]
