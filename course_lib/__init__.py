"""The shared library of "Adding to Language Models".

    import course_lib as cl

Every public name is loaded when it is first used, so importing the library itself takes milliseconds.
"""

import importlib

__version__ = "0.1.0"

_ROOMS = (
    "runtime", "scales", "sandbox", "sources", "corpora", "language_models", "bases", "architectures", "additive",
    "tasks", "training", "evaluation", "experiments", "views", "exercises", "notebooks", "serving",
)

_NAMES = {
    "runtime": ("CourseError", "doctor", "seed", "where"),
    "scales": ("sizes",),
    "corpora": ("audit", "card", "load_data", "read_tsv"),
    "bases": ("fingerprint", "load_base"),
    "additive": ("attach", "cache_below", "methods"),
    "training": ("fit",),
    "evaluation": ("evaluate",),
    "experiments": ("results",),
    "exercises": ("calibration", "check", "exercise", "predict", "progress", "reveal", "solution"),
}
_HOME = {name: room for room, names in _NAMES.items() for name in names}

__all__ = sorted([*_HOME, *_ROOMS])


def __getattr__(name: str):
    if name in _ROOMS:
        return importlib.import_module(f"course_lib.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"course_lib.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"course_lib has no '{name}'; it offers: {', '.join(__all__)}")


def __dir__():
    return __all__
