"""The card of a task: its question, counts, sources, licences and known weaknesses."""

from typing import Any

from ssast_lab.audio import SAMPLE_RATE
from ssast_lab.tables import markdown_table


def card(record: dict[str, Any]) -> str:
    """The README.md of a task, from what its task.json says."""
    counts, folds = record["counts"], list(record["counts"])
    clips = [[label, *(str(counts[f][label]) for f in folds)] for label in record["labels"]]
    clips.append(["together", *(str(sum(counts[f].values())) for f in folds)])
    packages = [
        [name, p["version"], f"{p['megabytes']:g}", ", ".join(p["licences"])] for name, p in record["packages"].items()
    ]
    lines = [
        f"# The task {record['name']}",
        "",
        record["question"],
        "",
        f"{sum(sum(c.values()) for c in counts.values())} clips, {record['seconds'] / 60:.1f} minutes, {len(record['labels'])} "
        f"classes; {SAMPLE_RATE // 1000} kHz mono FLAC, made by `ssast-lab data tasks --names {record['name']}`. "
        f"SHA-256 `{record['sha256']}`.",
        "",
        "`task.csv` lists path, label, source, fold, where each clip comes from and its licence; `task.json` the counts, the "
        "packages' versions and all checksums. A source is in one fold only, and no two clips are the same sound.",
        "",
        *markdown_table(["label", *folds], clips, right=range(1, len(folds) + 1)),
        "",
    ]
    for fold, sources in record["sources"].items():
        shown = ", ".join(sources[:20]) + (f" and {len(sources) - 20} more" if len(sources) > 20 else "")
        lines.append(f"- {fold}: {len(sources)} source{'s' * (len(sources) != 1)}: {shown}")
    if "valid" not in folds:
        lines.append("- no validation fold: choose settings by cross-validation over the sources of the training fold")
    left = ", ".join(f"{count} {why.replace('_', ' ')}" for why, count in record["left_out"].items() if count)
    lines += [
        *([f"- left out: {left}"] if left else []),
        "",
        "## Packages",
        "",
        *markdown_table(["package", "version", "MB", "licence of its clips"], packages, right=[2]),
        "",
        "`licences/` holds each package's copyright file with its authors. The clips are modified copies: mixed to one "
        "channel, resampled, cut to at most 10 s, without the silence at their ends. Some licences (CC-BY-SA, GPL) put "
        "conditions on passing the clips on, so pass on the command instead.",
        "",
        "## Known weaknesses",
        "",
        *(f"- {weakness}" for weakness in record["weaknesses"]),
        "- No test or validation clip is in the corpus that the built-in models were pretrained on; training clips may be.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
