"""Lessons: each lesson is a file of steps, each person's progress is a file, and a player leads through the steps.

`schema` and `quantities` say what a lesson is, `catalogue` reads them, `lesson_runs` trains their runs, `measuring`
takes numbers from these, `figures` has the numbers measured beforehand, `progress` stores what a person did, `judging`
compares it with the results, `player` puts all of it together for the page, `sheet` prints a lesson. No Gradio, no
torch.
"""

from lora_playground.lessons.catalogue import get_lesson, list_lessons
from lora_playground.lessons.progress import Attempt, Learner, Learners
from lora_playground.lessons.schema import Lesson

__all__ = ["Attempt", "Learner", "Learners", "Lesson", "get_lesson", "list_lessons"]
