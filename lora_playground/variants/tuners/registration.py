"""Makes a tuner of ours known to PEFT, so that `get_peft_model`, `save_pretrained` and `from_pretrained` work with it.

`peft.utils.register_peft_method` wants the name in the enumeration `PeftType`, which Python closes against subclasses;
a member is therefore added to it the way the enum machinery itself does.
"""

from typing import Any

from peft.utils import PeftType, register_peft_method


def register(name: str, config_cls: Any, model_cls: Any) -> PeftType:
    """Registers a method once, under the prefix `<name>_`, and returns its PeftType."""
    label = name.upper()
    if label in PeftType.__members__:
        return PeftType[label]
    member = str.__new__(PeftType, label)
    member._name_, member._value_ = label, label
    PeftType._member_map_[label] = member
    PeftType._value2member_map_[label] = member
    PeftType._member_names_.append(label)
    type.__setattr__(PeftType, label, member)
    register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls)
    return member
