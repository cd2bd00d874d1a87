"""Classes: a teacher opens one, people join with its code, and all go through a lesson together.

`classes` stores who is in a class and what the teacher has set, `overview` counts what its members did, `table` writes
that as CSV. Progress is stored with the lessons, not with the class, so members keep it when the class ends. No Gradio,
no torch.
"""

from lora_playground.classroom.classes import Class, Classes, Member

__all__ = ["Class", "Classes", "Member"]
