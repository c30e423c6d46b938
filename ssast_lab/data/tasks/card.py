"""The card of a task: its question, counts, sources, licences and known weaknesses."""

from typing import Any

from ssast_lab.audio import SAMPLE_RATE


def card(record: dict[str, Any]) -> str:
    counts, folds = record["counts"], list(record["counts"])
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
        "packages' versions and all checksums. A source stands in one fold only, and no two clips hold the same sound.",
        "",
        "| label | " + " | ".join(folds) + " |",
        "| --- |" + " --: |" * len(folds),
        *(f"| {label} | " + " | ".join(str(counts[f][label]) for f in folds) + " |" for label in record["labels"]),
        "| together | " + " | ".join(str(sum(counts[f].values())) for f in folds) + " |",
        "",
    ]
    for fold, sources in record["sources"].items():
        shown = ", ".join(sources[:20]) + (f" and {len(sources) - 20} more" if len(sources) > 20 else "")
        lines.append(f"- {fold}: {len(sources)} source{'s' * (len(sources) != 1)}: {shown}")
    if "valid" not in folds:
        lines.append("- no validation fold: choose settings by leaving sources of the training fold out")
    left = ", ".join(f"{count} {why.replace('_', ' ')}" for why, count in record["left_out"].items() if count)
    lines += [
        *([f"- left out: {left}"] if left else []),
        "",
        "## Packages",
        "",
        "| package | version | MB | licence of its clips |",
        "| --- | --- | --: | --- |",
        *(f"| {name} | {p['version']} | {p['megabytes']:g} | {', '.join(p['licences'])} |"
          for name, p in record["packages"].items()),
        "",
        "`licences/` holds each package's copyright file with its authors. The clips are modified copies: mixed to one "
        "channel, resampled, cut to at most 10 s, without the silence at their ends. Some licences (CC-BY-SA, GPL) bind "
        "whoever passes the clips on, so pass on the command rather than the clips.",
        "",
        "## Known weaknesses",
        "",
        *(f"- {weakness}" for weakness in record["weaknesses"]),
        "- No test or validation clip is in the corpus that the built-in models were pretrained on; training clips may be.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"
