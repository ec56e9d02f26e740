"""FlashRL's ``profile.pt``, read into a Profile and written back, bit for bit. The one place here that imports torch.

FlashRL 1.0.3 multiplies a weight by ``output_scale`` per row and ``input_scale`` per column and rounds: both are
reciprocals of what a Profile stores. An int8 profile is a dict of such entries; an fp8 profile is a list of names,
for its scales are taken from the weights.
"""

from flashrl_registry.interop.profile_pt.entries import Entry, read_profile_pt
from flashrl_registry.interop.profile_pt.importing import ImportedProfile, import_int8
from flashrl_registry.interop.profile_pt.writing import int8_entries, write_int8, write_names

__all__ = [
    "Entry",
    "ImportedProfile",
    "import_int8",
    "int8_entries",
    "read_profile_pt",
    "write_int8",
    "write_names",
]
