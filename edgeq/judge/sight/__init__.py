"""The sight test: drawn scenes with exact answers, to be asked of any vision-language model."""

from edgeq.judge.sight.skills import SKILLS, sight_questions

__all__ = ["SKILLS", "sight_questions"]
