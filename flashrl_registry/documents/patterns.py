"""Patterns of the names that documents, references and folders share; known without building a document."""

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"
"""A plan's name: ``namespace/name``."""

VERSION_PATTERN = r"^(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)$"
"""A semantic version."""

CHANNEL_PATTERN = r"^[a-z][a-z0-9-]{0,31}$"
"""A channel: no version, no commit, nothing that git or a path could take for something else."""
