"""How the pages are built: ``tox -e docs``, or ``sphinx-build -W docs build/docs``."""

import os
import sys

sys.path[:0] = [os.path.abspath("_ext"), os.path.abspath("..")]

import ssh_service  # noqa: E402

project = "ssh_service"
author = "ssh_service contributors"
copyright = author
version = release = ssh_service.__version__

extensions = [
    "myst_parser",
    "autoapi.extension",
    "numpydoc",
    "from_code",
]
exclude_patterns = ["_ext"]

# The pages.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# The reference.
autoapi_dirs = ["../ssh_service"]
autoapi_root = "reference"
autoapi_add_toctree_entry = False
autoapi_options = ["members", "undoc-members", "show-inheritance", "imported-members"]
autoapi_python_class_content = "class"
numpydoc_show_class_members = False

# The modules for users; CONTRIBUTING.md is the map of the others.
public_modules = (
    "ssh_service",
    "ssh_service.copying",
    "ssh_service.events",
    "ssh_service.fleet",
    "ssh_service.forwarding",
    "ssh_service.fsspec",
    "ssh_service.mlos_bench",
    "ssh_service.otel",
    "ssh_service.paramiko",
    "ssh_service.params",
    "ssh_service.paths",
    "ssh_service.testing",
    "ssh_service.testing.fault_proxy",
    "ssh_service.testing.local_server",
    "ssh_service.testing.local_sshd",
    "ssh_service.testing.mock_sshd",
)
# What other modules of the package import from these, and what is documented with the package.
internal_names = (
    "ssh_service.copying.Options",
    "ssh_service.copying.TimeLimits",
    "ssh_service.copying.check_path",
    "ssh_service.copying.copy",
    "ssh_service.copying.download",
    "ssh_service.copying.limits_from_now",
    "ssh_service.copying.local_end",
    "ssh_service.copying.run_copy",
    "ssh_service.copying.upload",
    "ssh_service.forwarding.Forward",
    "ssh_service.forwarding.forward_local",
    "ssh_service.forwarding.forward_remote",
    "ssh_service.forwarding.forward_socks",
    "ssh_service.params.conceal",
    "ssh_service.params.conceal_keys",
    "ssh_service.params.conceal_password",
    "ssh_service.params.key_sources",
    "ssh_service.params.resolve_concealed",
    "ssh_service.params.reveal",
    "ssh_service.params.split_address",
    "ssh_service.paths.SshPath",
)
# autoapi reads the code without running it, so it cannot resolve lazy imports.
suppress_warnings = ["autoapi.python_import_resolution"]

html_theme = "furo"
html_title = f"ssh_service {version}"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]
