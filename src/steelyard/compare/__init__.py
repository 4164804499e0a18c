"""Many losses, many seeds, one honest answer.

`run` trains every candidate with the same tuning budget on the same splits, and says which of
them can be told from plain cross-entropy. The command `steelyard compare` is the same in a
terminal. Needs ``pip install 'steelyard[compare]'``.
"""

from steelyard.compare.api import Comparison, run
from steelyard.compare.study import Candidate, Study, StudyError

__all__ = ["Candidate", "Comparison", "Study", "StudyError", "run"]
