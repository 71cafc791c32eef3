from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Any

project = "deltavi"
author = "deltavi developers"
copyright = f"2026, {author}"
release = version = installed_version("deltavi")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
nitpicky = False

# Each public module says in __all__ what it offers; the tables of the API follow it.
autosummary_generate = True
autosummary_ignore_module_all = False
autosummary_imported_members = True
# The class and the function differ by case only, which some file systems cannot tell apart.
autosummary_filename_map = {"deltavi.metrics.Calibration": "deltavi.metrics.Calibration-class"}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_use_ivar = True
napoleon_custom_sections = ["Returns"]  # as prose, not as a list of names and types
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
python_use_unqualified_type_names = True

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_execution_timeout = 600  # seconds for a cell; some train a model, on whatever machine this is

html_theme = "sphinx_book_theme"
html_title = "deltavi"
html_static_path = ["_static"]
html_theme_options = {"show_navbar_depth": 2}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def skip_foreign(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Leave methods that scvi-tools defines to a table; those of this package are documented in full."""
    module = getattr(getattr(obj, "fget", obj), "__module__", None) or project
    return None if module.partition(".")[0] == project else True


def setup(app: Any) -> None:
    app.connect("autodoc-skip-member", skip_foreign)
