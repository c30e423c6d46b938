"""The command ``completion``: a script by which a shell completes commands, options and choices after Tab."""

import ast
import io
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from typing import Any, Literal, NamedTuple

Commands = Mapping[str, Callable[[list[str]], None]]
WIDTH = 33  # of what stands before the descriptions of ssast-lab --help


class Option(NamedTuple):
    flags: tuple[str, ...]
    valued: bool = False  # whether a value follows
    choices: tuple[str, ...] = ()  # of the value; none where it may be anything
    help: str = ""


class Place(NamedTuple):
    """What may follow some words, such as "embed" or "data look"."""

    names: dict[str, str]  # the words that may stand there first, and what they are
    options: list[Option]


def completion(arguments: list[str], commands: Commands, described: str) -> None:
    """``ssast-lab completion SHELL``, of all commands, one a line of their description"""
    from typing import Annotated

    import tyro

    def write(shell: Annotated[Literal["bash", "zsh", "fish"], tyro.conf.Positional]) -> None:
        """Print a script by which a shell completes commands, options and choices after Tab.

        bash: ssast-lab completion bash > ~/.ssast-lab.sh, and the line "source ~/.ssast-lab.sh" in ~/.bashrc.

        zsh: the same with zsh, and the line in ~/.zshrc.

        fish: ssast-lab completion fish > ~/.config/fish/completions/ssast-lab.fish.

        Made again after an update, it knows what is new. Where nothing is known, files are completed.

        Args:
            shell: the one that is to read it.
        """
        places = _places(commands, described)
        print(_fish(places) if shell == "fish" else _bash(places, shell))

    tyro.cli(write, args=arguments, prog="ssast-lab completion")


def _places(commands: Commands, described: str) -> dict[str, Place]:
    """What may follow the program's name, each command, and each part of a command, by the words before it."""
    about = {}
    for line in described.splitlines():
        if line.startswith("  ssast-lab "):
            name, part, *_ = line.split()[1:]
            about[f"{name} {part}" if name == "data" else name] = line[WIDTH:]
    about["data"] = "look at sounds, measure them, make corpora and tasks"
    first = first_names()
    places = {
        "": Place({name: about[name] for name in commands}, [Option((f"--{name}",)) for name in ("help", "version")])
    }
    for name, command in commands.items():
        if name == "app":
            places[name] = Place({}, _app())
            continue
        spec = _asked(command)
        parts = spec.get("subcommands", {})
        names = {part: about[f"{name} {part}"] for part in parts} or dict.fromkeys(first.get(name, ()), "")
        places[name] = Place(names, _options(spec))
        places |= {f"{name} {part}": Place({}, _options(below)) for part, below in parts.items()}
    return places


def _asked(command: Callable[[list[str]], None]) -> dict[str, Any]:
    """What tyro knows of a command, as it stands in the scripts that tyro itself makes. These complete one command with all
    that is under it, and no files where a model or a folder is named."""
    with redirect_stdout(io.StringIO()) as said, suppress(SystemExit):
        command(["--tyro-write-completion", "bash", "-"])
    known = re.search(r"^COMPLETION_SPEC = (.*)$", said.getvalue(), re.M)
    return ast.literal_eval(known[1]) if known else {"options": []}


def _options(spec: dict[str, Any]) -> list[Option]:
    return [
        Option((*one["flags"],), one["type"] not in ("flag", "boolean"), (*one.get("choices", ()),), one["description"])
        for one in spec["options"]
    ]


def _app() -> list[Option]:
    """None where the app is not installed."""
    try:
        from ssast_lab.app.serve import parser_of
    except ImportError:
        return []
    return [Option((*one.option_strings,), one.nargs != 0, (), one.help or "") for one in parser_of()._actions]


def first_names() -> dict[str, tuple[str, ...]]:
    """What can be named first after a command, besides files."""
    from ssast_lab import checkpoint, config
    from ssast_lab.measuring.studies import STUDIES

    ways = [
        f"{way}-{size}-{kind}-400"
        for way in ("quick", "modern", "official")
        for size in config.SIZES
        for kind in config.SHAPES
    ]
    ways += [
        f"{way.replace('patch-400', f'patch-{400 * audio.mel_bins // 128}')}-{features}"
        for features, audio in config.AUDIO.items()
        for way in ways
        if not way.startswith("official")
    ]
    tuned = [f"{name}-{kind}" for name in config.finetune_recipes() for kind in config.SHAPES]
    others = ("apc-nano", "apc-tiny", "wav2vec-nano", "wav2vec-tiny")
    models = tuple(checkpoint.builtin_models())
    return {
        "pretrain": (*ways, *others), "finetune": tuple(tuned), "study": (*STUDIES, "hiding"),
        "completion": ("bash", "zsh", "fish"),
        **dict.fromkeys(("embed", "near", "predict", "info", "export"), models),
        **dict.fromkeys(("probe", "compare"), (*models, "logmel")),
    }  # fmt: skip


# zsh takes what is written for bash by a function of its own
_ZSH = """autoload -Uz compinit bashcompinit
(( ${+functions[compdef]} )) || compinit
bashcompinit
"""

# "--pooling=mean" is one word to zsh and three to bash; where nothing is offered, files are (complete -o default)
_BASH = """_ssast_lab() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" place="" words="" joined=""
    if [[ "$before" == "=" ]]; then before="${{COMP_WORDS[COMP_CWORD-2]}}"; fi
    if [[ "$word" == "=" ]]; then word=""; fi
    if [[ "$word" == --*=* ]]; then before="${{word%%=*}}" joined="${{word%%=*}}=" word="${{word#*=}}"; fi
    if (( COMP_CWORD > 1 )); then place="${{COMP_WORDS[1]}}"; fi
    if (( COMP_CWORD > 2 )) && [[ "$place" == data ]]; then place="data ${{COMP_WORDS[2]}}"; fi
    case "$word" in
    -*)
        case "$place" in
{options}
        esac ;;
    *)
        case "$place, $before" in
{choices}
        esac ;;
    esac
    COMPREPLY=($(compgen -P "$joined" -W "$words" -- "$word"))
}}
complete -o default -F _ssast_lab ssast-lab"""


def _bash(places: dict[str, Place], shell: str) -> str:
    options: dict[str, Sequence[str]] = {}
    choices: dict[str, Sequence[str]] = {}
    for path, place in places.items():
        options[f'"{path}"'] = [flag for option in place.options for flag in option.flags]
        choices[f'"{path}, {path}"' if path else '", "*'] = [*place.names]
        choices |= {f'"{path}, {flag}"': option.choices for option in place.options for flag in option.flags}

    def cases(words: Mapping[str, Sequence[str]]) -> str:
        return "\n".join(f'        {case}) words="{" ".join(each)}" ;;' for case, each in words.items() if each)

    return (_ZSH if shell == "zsh" else "") + _BASH.format(options=cases(options), choices=cases(choices))


_FISH = """function __ssast_lab_at --description 'whether these words, and no others, stand before'
    set -l words (commandline -opc)
    set -e words[1]
    test "$words" = "$argv"
end
function __ssast_lab_after --description 'whether these words stand first'
    set -l words (commandline -opc)
    set -e words[1]
    string match -q -- "$argv *" "$words "
end"""


def _fish(places: dict[str, Place]) -> str:
    lines = [_FISH]
    for path, place in places.items():
        there = f"complete -c ssast-lab -n '__ssast_lab_at {path}'"
        whole = " -f" if path in ("", "data", "completion") else ""  # elsewhere files may stand there as well
        lines += [f"{there}{whole} -a {name}{_said(what)}" for name, what in place.names.items()]
        after = f"complete -c ssast-lab -n '__ssast_lab_{'after' if path else 'at'} {path}'"
        for option in place.options:
            flags = " ".join(f"-l {flag[2:]}" if flag[:2] == "--" else f"-s {flag[1:]}" for flag in option.flags)
            value = f" -x -a {shlex.quote(' '.join(option.choices))}" if option.choices else " -r" * option.valued
            lines.append(f"{after} {flags}{value}{_said(option.help)}")
    return "\n".join(lines)


def _said(what: str) -> str:
    """A description for fish: the first sentence, without its type and its default."""
    first = re.split(r"\.? \(|[.:;] ", what.rpartition(" • ")[2])[0].rstrip(".:")
    return f" -d {shlex.quote(first)}" if first else ""
