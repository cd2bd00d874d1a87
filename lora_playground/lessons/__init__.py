"""Lessons: a lesson is a file, a person's progress is a file, and a player leads through the steps.

`schema` and `quantities` say what a lesson is, `catalogue` finds it, `progress` keeps what a person did, `judging`
judges it. No Gradio, no torch.
"""

from lora_playground.lessons.catalogue import get_lesson, list_lessons
from lora_playground.lessons.progress import Attempt, Learner, Learners
from lora_playground.lessons.schema import Lesson

__all__ = ["Attempt", "Learner", "Learners", "Lesson", "get_lesson", "list_lessons"]
