"""What the routes of generative UI take."""

from typing import Annotated

from pydantic import ConfigDict, Field

from api.schemas.common import Payload


class ComponentLoad(Payload):
    """Which component a page wants to show."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "weather"}]})

    name: Annotated[str, Field(min_length=1, max_length=255)]
