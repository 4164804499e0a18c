"""Many losses, many seeds, one honest answer.

`run` trains every candidate with the same tuning budget on the same splits, and says which of
them can be told from plain cross-entropy. The command `steelyard compare` is the same in a
terminal. `networks` does the same with your own network, and `trainings` with your own loop.
Needs ``pip install 'steelyard[compare]'``.
"""

from steelyard.compare.comparison import Comparison
from steelyard.compare.study import Candidate, StudyError
from steelyard.compare.tables.api import run
from steelyard.compare.tables.study import Study
from steelyard.compare.training.api import networks, trainings
from steelyard.compare.training.kept import predictions
from steelyard.compare.training.trial import Trial

__all__ = [
    "Candidate",
    "Comparison",
    "Study",
    "StudyError",
    "Trial",
    "networks",
    "predictions",
    "run",
    "trainings",
]
