"""The README of a corpus."""

from typing import Any

from ssast_lab.audio import SAMPLE_RATE
from ssast_lab.data.corpus.clips import CUT
from ssast_lab.data.corpus.table import KINDS

ALIKE = 0.05  # dB by which the mean level of two builds of one corpus may differ


def card(manifest: dict[str, Any], rows: list[list[str]]) -> str:
    """The corpus's README: what is in it, from where, under which licences, and where it is weak."""
    lines = [
        "# A corpus of speech, music and effects from Debian packages",
        "",
        f'Size "{manifest["size"]}", {manifest["encoding"]}, 16 kHz mono, made by `ssast-lab data corpus`. '
        "Train on the folder `train`; choose by `heldout`; `elsewhere` only tells how a chosen model does on sounds of "
        "makers that neither training nor choice has met.",
        "",
        "| role | clips | " + " | ".join(f"{kind}, h" for kind in KINDS) + " | together, h |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for role, hours in manifest["hours"].items():
        lines.append(
            f"| {role} | {manifest['clips'][role]} | "
            + " | ".join(f"{hours[kind]:.2f}" for kind in KINDS)
            + f" | {sum(hours.values()):.2f} |"
        )
    lines += [
        "",
        "Every shard is a tar of pairs `000123.opus` and `000123.json`; `manifest.tsv` lists all clips, "
        "`manifest.json` the checksums and the packages, and `train-effect.tsv` (role and kind) the clips of one kind: "
        "named beside the folder, once or several times, it makes that kind heard more often. A clip fills at least one window of "
        f"{manifest['window'] / SAMPLE_RATE:.2f} s (1024 frames): long sounds are cut into equal parts, short ones of a "
        "package joined with 0.1 s of silence; only the last clip of a package and kind may be shorter. Of a "
        f"music file the middle {CUT['music']} s are taken, of an effect {CUT['effect']} s, where the table of packages "
        "names no other length. The clips of `elsewhere` are ten continuous seconds out of one file.",
        "",
        "The held-out sets are whole packages that training never sees. Files that the downstream tasks test on, the "
        "built-in sounds and the packages of the independent evaluation are in none of the sets; nor are files with the same "
        "bytes under other names.",
        "",
        "## Checksums",
        "",
        f"- Is this copy undamaged? SHA-256 over all files: `{manifest['sha256']}`. Only one machine gives it twice: the "
        "Opus encoder uses approximate reciprocals, whose last bits each maker of processors chooses.",
        f"- Are two builds the same corpus? Compare what the clips were made of, `{manifest['sources']}`, and what is "
        f"heard, which may differ by less than {ALIKE} dB (`ssast_lab.data.corpus.same` does both):",
        "",
        "| clips, at most 100 of each | mean level, dB | deviation, dB |",
        "| --- | --: | --: |",
        *(f"| {name} | {h['mean']:.3f} | {h['deviation']:.3f} |" for name, h in manifest["heard"].items()),
        "",
        "## Packages",
        "",
        "| package | version | role | licence of its clips | minutes |",
        "| --- | --- | --- | --- | --: |",
    ]
    for package, entry in manifest["packages"].items():
        package_rows = [row for row in rows if row[4] == package]
        if package_rows:
            licences = ", ".join(sorted({part for row in package_rows for part in row[5].split(" AND ")}))
            lines.append(
                f"| {package} | {entry['version']} | {package_rows[0][2]} | {licences} | "
                f"{sum(float(row[6]) for row in package_rows) / 60:.1f} |"
            )
    lines += [
        "",
        "`licences/` holds each package's copyright file with its authors. The clips are modified copies: mixed to "
        "one channel, resampled, cut or joined, encoded. Some licences (CC-BY-SA, GPL, GFDL) bind whoever passes the "
        "clips on, so pass on the command rather than the corpus.",
        "",
        "## Known weaknesses",
        "",
        "- Much of the speech is single words and short prompts of few voices, joined; there is little conversation.",
        "- Music and effects come from games: much is synthesised, little is recorded out of doors.",
        "- Some sources are telephone or old game recordings of 8 or 11 kHz: their upper mel bands are empty.",
        "- Kinds follow rules on paths, not ears. A recording that was encoded anew for another package is not "
        "recognised as the same.",
        "- Opus changes the top mel bands: evaluate on the encoding that was trained on.",
    ]
    if manifest["missing"]:
        lines += [
            "",
            f"Not known to apt on the machine that built this, and so absent: {', '.join(manifest['missing'])}.",
        ]
    return "\n".join(lines) + "\n"
