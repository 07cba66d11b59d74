"""What all views have in common."""

from pydantic import BaseModel, ConfigDict


class View(BaseModel):
    model_config = ConfigDict(from_attributes=True, use_attribute_docstrings=True)
