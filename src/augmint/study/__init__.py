"""Studies: does it help, and is that more than noise?"""

from augmint.study.run import study
from augmint.study.spec import Study, read_study

__all__ = ["Study", "read_study", "study"]
