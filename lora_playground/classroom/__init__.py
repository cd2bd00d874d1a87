"""Classes: a teacher opens one, people join with its code, and all go through a lesson together.

`classes` keeps who is in a class and what the teacher has set, `overview` counts what its people did, `table` writes it
as CSV. A person's progress is the lessons' own, so that it stays theirs when the class has ended. No Gradio, no torch.
"""

from lora_playground.classroom.classes import Class, Classes, Member

__all__ = ["Class", "Classes", "Member"]
