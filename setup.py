"""Everything is in setup.cfg, except the text for package indexes."""

import re
from pathlib import Path

from setuptools import setup

# A package index has no files of this folder: links to them become text, and pictures go.
text = Path(__file__).with_name("README.md").read_text("utf-8")
text = re.sub(r"!\[[^\]]*\]\((?!https?:)[^)]*\)\n*", "", text)
text = re.sub(r"\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)

setup(long_description=text)
