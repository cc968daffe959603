"""The base of all settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from edgekd.errors import RecipeError

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
    from pydantic_core import ErrorDetails
else:
    ModelMetaclass = type(BaseModel)  # it has no public name

MOST = 2**31 - 1  # of samples and the like: what fits into an int32
Count = Annotated[int, Field(ge=1, le=MOST)]
# values of these are files or folders, relative to the recipe's folder
PATH_KEYS = frozenset({"path", "checkpoint", "onnx", "contract"})
SPEED_KEYS = frozenset({"workers", "checkpoint_s", "cache_mb"})  # these change no result


class _OneMessage(ModelMetaclass):
    """Lets settings made in Python, `DistillSettings(alpha=2)`, fail like a recipe; nested ones are not called."""

    def __call__(self, *arguments: Any, **values: Any) -> Any:
        try:
            return super().__call__(*arguments, **values)
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc']))} = {e['input']!r}: {sentence(e)}" for e in error.errors()]
            raise RecipeError("\n".join(f"{self.__name__}: {problem}" for problem in problems)) from error


class Settings(BaseModel, metaclass=_OneMessage):
    """The base of all settings: strict, frozen, no unknown keys, no NaN."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    def effective(self) -> dict[str, Any]:
        """Return the settings that decide a result, as JSON data: no paths, those are known by their content."""
        deciding: dict[str, Any] = _deciding(self.model_dump(mode="json"))
        return deciding


def _deciding(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _deciding(inner) for key, inner in value.items() if key not in PATH_KEYS | SPEED_KEYS}
    return [_deciding(inner) for inner in value] if isinstance(value, list) else value


def sentence(detail: ErrorDetails) -> str:
    """Return what is wrong with a value, to follow a colon."""
    message = detail["msg"].removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}"
