"""Training: `fit`, one loop on accelerate, with exact resume.

loop.py is the loop itself and is meant to be read (chapter 32 does, line by line); batches.py decides which rows make
a batch, checkpoints.py writes what a killed run needs to go on, history.py keeps what happened and shows it.
"""

from course_lib.training.batches import bucketed_batches, encode
from course_lib.training.config import train
from course_lib.training.history import History
from course_lib.training.loop import fit, learning_rate_at

__all__ = ["History", "bucketed_batches", "encode", "fit", "learning_rate_at", "train"]
