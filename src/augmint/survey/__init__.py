"""The visual Turing test: can readers tell generated frames from real ones?"""

from augmint.survey.make import survey
from augmint.survey.score import SurveyResult, score_survey

__all__ = ["SurveyResult", "score_survey", "survey"]
