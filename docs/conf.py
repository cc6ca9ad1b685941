"""Settings of the documentation site: ``make docs`` builds it."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "maxentflow"
author = "The maxentflow authors"
copyright = author
version = release = version_of("maxentflow")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    # of _ext
    "api",
    "command_line",
    "mathml",
    "notebooks",
    "settings",
]
if not tags.has("without_code"):  # noqa: F821 (of Sphinx); a fifth of a build's time
    extensions.append("sphinx.ext.viewcode")

exclude_patterns = ["_build", "_ext", "_static"]
source_suffix = {".rst": "restructuredtext", ".md": "myst-nb", ".ipynb": "myst-nb"}
nitpicky = True
nitpick_ignore_regex = [  # what others document, and no network is used to look up
    ("py:.*", r"(collections|gym|gymnasium|nn|normflows|np|numpy|os|pathlib|pd)\..*"),
    ("py:.*", r"(tensordict|torch|torchrl|typing)\..*"),
    (
        "py:.*",
        r"(DQN|DDPG|SAC|REDQ|TD3)Loss|EnvBase|GymWrapper|BatchNorm|Module",
    ),  # torch's, TorchRL's
    ("py:.*", r"\w+Error|Mapping|NDArray|Sequence|Any|VectorEnv|TensorDictBase"),
    ("py:class", r".*\.description\.Description"),  # agent, task and settings of a run
    ("py:class", r".*\._AcceptedKeys"),  # TorchRL's name for the keys, listed in each loss
    ("py:attr", r"module|env|replay_path"),  # attributes without a docstring
    ("py:meth", "synchronize"),
]

# Pages
myst_enable_extensions = ["amsmath", "attrs_block", "attrs_inline", "colon_fence", "deflist"]
myst_enable_extensions += ["dollarmath", "fieldlist", "substitution"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # outputs are those committed
nb_ipywidgets_js = {}
nb_merge_streams = True

# Reference
autosummary_generate = False
autodoc_inherit_docstrings = False  # a member that says nothing new is not shown again
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
napoleon_use_rtype = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 72
add_module_names = False
toc_object_entries_show_parents = "hide"
viewcode_line_numbers = True

# The site
html_theme = "furo"
html_title = "maxentflow"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/favicon.svg"
html_logo = "_static/favicon.svg"
html_math_renderer = "mathml"
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0b5c8a",
        "color-brand-content": "#0b5c8a",
    },
    "dark_css_variables": {
        "color-brand-primary": "#6cb8e6",
        "color-brand-content": "#6cb8e6",
    },
}
highlight_language = "none"
pygments_style = "tango"
pygments_dark_style = "monokai"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
