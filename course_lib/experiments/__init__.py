"""What takes longer than a cell may take: run once by command, stored with its provenance, quoted by the text.

    python -m course_lib experiment 41-three-ways          # runs what is missing, and can be stopped at any time
    cl.results("41-three-ways").measured("accuracy", method="adapter", rows=2000)      # 0.812 [0.803, 0.821]
"""

from .claims import Claim, claims_in, quoted
from .registry import Experiment, all_experiments, experiment
from .runner import command
from .store import Results, results

__all__ = [
    "Claim", "Experiment", "Results", "all_experiments", "claims_in", "command", "experiment", "quoted", "results",
]
