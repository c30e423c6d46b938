"""What the arguments of commands are called in their help. Imported where a command runs, since it needs tyro."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

Model = Annotated[str, Positional, arg(metavar="MODEL")]
Models = Annotated[tuple[str, ...], Positional, arg(metavar="MODEL ...", help_behavior_hint="(required)")]
Sounds = Annotated[tuple[str, ...], Positional, arg(metavar="SOUND ...", help_behavior_hint="(required)")]
Sound = Annotated[Path, Positional, arg(metavar="SOUND")]
File = Annotated[Path, Positional, arg(metavar="FILE")]
Folder = Annotated[Path, Positional, arg(metavar="FOLDER")]
Name = Annotated[str, Positional, arg(metavar="NAME")]
Tasks = Annotated[tuple[str, ...], Positional, arg(metavar="TASK ...", help_behavior_hint="(required)")]
TaskFlag = Annotated[tuple[str, ...], arg(metavar="TASK ...")]

__all__ = ["File", "Folder", "Model", "Models", "Name", "Sound", "Sounds", "TaskFlag", "Tasks"]
