"""Format an audit as text."""

from collections.abc import Iterable

from busseg.data.findings import FINDINGS
from busseg.storage.escaping import printable


def format_audit(audit: dict) -> str:
    """An audit as lines of text: the contents, then the problems and notes, each with its first few file names.

    Args:
        audit: Dict, as `audit_dataset` returns it.
    """
    lines = [f"{audit['images']} images, {audit['masks']} masks: {audit['data']}", ""]
    if len(audit["sources"]) > 1:
        lines += _format_sources(audit)
    lines.append(f"{'class':11}{'images':>8}{'share':>8}{'marked':>8}   lesion, share of the image: median (quartiles)")
    for label, row in audit["classes"].items():
        size = row["lesion"]
        lesion = f"{size['median']:.1%} ({size['q1']:.1%} to {size['q3']:.1%})" if size else "none"
        marked = f"{row['marked'] / row['judged']:8.1%}" if row["judged"] else f"{'-':>8}"
        lines.append(f"{label:11}{row['images']:8}{row['share']:8.1%}{marked}   {lesion}")
    lines.append("")
    for name in ("width_px", "height_px"):
        if size := audit[name]:
            lines.append(f"{name[:-3]} {size['min']} to {size['max']} px, median {size['median']:.0f}")
    for name in ("image_formats", "mask_formats"):
        formats = ", ".join(f"{kind} {count}" for kind, count in audit[name].items())
        lines.append(f"{name.replace('_', ' ')}: {formats or 'none'}")
    problems = [kind for kind in FINDINGS if not FINDINGS[kind].note and audit["findings"][kind]]
    lines += ["", "Problems" if problems else "No problem found"]
    lines += [_finding(audit, kind) for kind in problems]
    notes = [_finding(audit, kind) for kind in FINDINGS if FINDINGS[kind].note and audit["findings"][kind]]
    if small := count_unjudged(audit):
        notes.append(f"  {small:5} images are too small to distinguish marks from echoes")
    if notes:
        lines += ["", "Notes", *notes]
    if listed := audit["published"]:
        lines += ["", _compared(listed)]
    return "\n".join(lines)


def _format_sources(audit):
    width = max(11, *map(len, audit["sources"])) + 1
    lines = [f"{'source':{width}}{'images':>8}" + "".join(f"{label:>11}" for label in audit["classes"])]
    for source, counts in audit["sources"].items():
        cells = "".join(f"{counts.get(label, 0):11}" for label in audit["classes"])
        lines.append(f"{source:{width}}{counts['images']:8}{cells}")
    return [*lines, f"scans in several sources: {len(audit['findings']['copies_across'])}", ""]


def _finding(audit, kind):
    found = audit["findings"][kind]
    return f"  {len(found):5} {describe_finding(audit, kind)}: {list_few(entry['file'] for entry in found)}"


def describe_finding(audit: dict, kind: str) -> str:
    """What was found, in words that follow the number of findings.

    Args:
        audit: Dict, as `audit_dataset` returns it.
        kind: One of `FINDINGS`.
    """
    if kind == "copies":
        return f"{FINDINGS[kind].title}, {sum(len(group['files']) for group in audit['groups'])} images in all"
    return FINDINGS[kind].title


def count_unjudged(audit: dict) -> int:
    """The number of readable images that are too small to detect burned-in marks.

    Args:
        audit: Dict, as `audit_dataset` returns it.
    """
    return sum(file["marked"] is None and file["width_px"] is not None for file in audit["files"])


def _compared(listed):
    return (
        f"Published groups: {listed['groups']} of {listed['images']} images, {listed['conflicts']} under two classes. "
        f"Of their {listed['pairs']} pairs, content finds {listed['shared_pairs']}, "
        f"and {listed['only_content_pairs']} others."
    )


def list_few(names: Iterable[str], few: int = 3) -> str:
    """The first few of many names, and the number of the others, as text."""
    names = [printable(name) for name in names]
    more = f" and {len(names) - few} more" if len(names) > few else ""
    return ", ".join(names[:few]) + more
