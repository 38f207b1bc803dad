"""Every mistake in an ontology's file is refused in one line that starts with the file and the line at fault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cxr_mtl.errors import ConfigError
from cxr_mtl.ontology import Ontology, load_ontology

GOOD = """\
name: small
version: "1"
normal: No Finding
normal_allows: [Device]
findings:
  - name: No Finding
    names: {nih: No Finding}
  - name: Device
  - name: Pleural
    group: true
    complete_in: [nih]
  - name: Effusion
    parents: [Pleural]
    names:
      nih: Effusion
      padchest: [pleural effusion, loculated pleural effusion]
  - name: Empyema
    parents: [Effusion]
"""

# What is written instead of what, the line at fault, words of the message.
MISTAKES = {
    "unknown parent": (
        "parents: [Pleural]",
        "parents: [Plueral]",
        13,
        "unknown parent 'Plueral'. Did you mean 'Pleural'?",
    ),
    "unknown parent, on its own line": ("[Effusion]", "\n      - Effusion\n      - Xyz", 20, "unknown parent 'Xyz'"),
    "cycle": ("parents: [Pleural]", "parents: [Empyema]", 13, "cycle: 'Effusion' > 'Empyema' > 'Effusion'"),
    "own parent": ("parents: [Pleural]", "parents: [Effusion]", 13, "cycle: 'Effusion' > 'Effusion'"),
    "finding twice": ("name: Empyema", "name: Effusion", 17, "finding 'Effusion' stands twice, first at"),
    "finding twice, other case": ("name: Empyema", "name: effusion", 17, "finding 'effusion' stands twice"),
    "word of two findings": (
        "  - name: Device",
        "  - name: Device\n    names: {nih: EFFUSION}",
        16,
        "'Effusion' of nih",
    ),
    "word twice in a finding": ("loculated pleural effusion", "Pleural Effusion", 16, "already means 'Effusion'"),
    "word twice, same case": ("loculated pleural effusion", "pleural effusion", 16, "'pleural effusion' stands twice"),
    "unknown key at the top": ("normal_allows:", "normal_allow:", 4, "'normal_allow'. Did you mean 'normal_allows'?"),
    "unknown key of a finding": ("parents: [Pleural]", "parent: [Pleural]", 13, "'parent'. Did you mean 'parents'?"),
    "unknown key, nothing near": ("parents: [Pleural]", "qqq: [Pleural]", 13, "Known here: name, parents"),
    "key twice": ("    group: true", "    group: true\n    group: true", 11, "'group' stands twice, first on line 10"),
    "dataset twice": ("      padchest: [", "      nih: [", 16, "'nih' stands twice"),
    "key that is no text": ("      padchest: [", "      no: [", 16, "a key must be text. Put it in quotes."),
    "no name": ("  - name: Device", "  - parents: []", 8, "item 2 of 'findings' has no 'name'"),
    "no version": ('version: "1"\n', "", 1, "has no 'version'"),
    "name that YAML reads as false": (
        "  - name: Device",
        "  - name: No",
        8,
        "'name' must be text, not true or false. Put it in",
    ),
    "name that YAML reads as a number": (
        'version: "1"',
        "version: 1.0",
        2,
        "'1.0' must be text, YAML reads it as 'float'",
    ),
    "name that YAML reads as a date": ('version: "1"', "version: 2020-13-45", 2, "reads it as 'timestamp'"),
    "Python object": ('version: "1"', "version: !!python/object/apply:os.getcwd []", 2, "must be text"),
    "empty name": ("  - name: Device", '  - name: ""', 8, "'name' is ''"),
    "name with a line break": ("  - name: Device", '  - name: "A\\nB"', 8, r"'name' is 'A\nB'"),
    "name with spaces around": ("  - name: Device", '  - name: " Device"', 8, "no space at either end"),
    "nothing where text should be": ("  - name: Device", "  - name:", 8, "'name' must be text, not nothing"),
    "parents not a list": ("parents: [Pleural]", "parents: Pleural", 13, "must be a list, not text. Write [Pleural]."),
    "parent that is a list": (
        "parents: [Pleural]",
        "parents: [[Pleural]]",
        13,
        "item 1 of 'parents' must be text, not a",
    ),
    "parent twice": ("parents: [Pleural]", "parents: [Pleural, Pleural]", 13, "'Pleural' stands twice in 'parents'"),
    "names not a mapping": ("names: {nih: No Finding}", "names: [nih]", 7, "'names' must be a mapping, not a list"),
    "no names in a dataset": ("nih: Effusion", "nih: []", 15, "'nih' has no name for it"),
    "finding that is text": ("  - name: Device", "  - Device", 8, "item 2 of 'findings' must be a mapping, not text"),
    "group that is text": ("group: true", 'group: "yes"', 10, "'group' must be true or false, not text"),
    "group of nothing": ("parents: [Pleural]", "parents: []", 9, "the group 'Pleural' has nothing below it"),
    "complete but no group": ("    group: true\n", "", 10, "'Pleural' is no group"),
    "complete where a label has no name": (
        "complete_in: [nih]",
        "complete_in: [nih, rsna]",
        11,
        "rsna has no name for 'Eff",
    ),
    "complete where one label has no name": (
        "name: Empyema\n    parents: [Effusion]",
        "name: Plaque\n    parents: [Pleural]",
        11,
        "nih has no name for 'Plaque', which is below 'Pleural'",
    ),
    "complete by a name outside the group": (
        "name: Empyema\n    parents: [Effusion]",
        "{name: Plaque, parents: [Pleural, Scar]}\n  - {name: Scar, names: {nih: scar}}",
        11,
        "nih has no name for 'Plaque', which is below 'Pleural'",
    ),
    "normal that is not there": (
        "normal: No Finding",
        "normal: No Findings",
        3,
        "is not a finding. Did you mean 'No Find",
    ),
    "normal as a parent": ("parents: [Effusion]", "parents: [No Finding]", 17, "ties 'No Finding' to other findings"),
    "normal with a parent": (
        "names: {nih: No Finding}",
        "parents: [Device]",
        6,
        "ties 'No Finding' to other findings",
    ),
    "allowed that is not there": ("[Device]", "[Devices]", 4, "'Devices' is not a finding. Did you mean 'Device'?"),
    "normal allows itself": ("[Device]", "[Device, No Finding]", 4, "cannot allow this: 'No Finding' is itself"),
    "allowed below what is not": ("[Device]", "[Effusion]", 4, "cannot allow this: 'Effusion' implies 'Pleural'"),
    "allowed without normal": ("normal: No Finding\n", "", 3, "'normal_allows' without 'normal'"),
    "bad YAML": ("group: true", "group: [true", 11, "not YAML: "),
    "tabs": ("    group: true", "\tgroup: true", 10, "not YAML: "),
    "two documents": ("findings:", "---\nfindings:", 5, "not YAML: "),
    "undefined alias": ("[Device]", "*nothing", 4, "not YAML: "),
    "endless alias": ("parents: [Pleural]", "parents: &a [*a]", 13, "nested too deeply"),
}


def message_of(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_ontology(path)
    return str(caught.value)


def test_the_good_file_is_good(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(GOOD)
    ontology = load_ontology(path)
    assert ontology.names == ("No Finding", "Device", "Pleural", "Effusion", "Empyema")
    assert ontology["Effusion"].names == {
        "nih": ("Effusion",),
        "padchest": ("pleural effusion", "loculated pleural effusion"),
    }


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_at_its_line(mistake: str, tmp_path: Path) -> None:
    old, new, line, words = MISTAKES[mistake]
    assert GOOD.count(old) == 1, "the mistake must be made in one place"
    path = tmp_path / "small.yaml"
    path.write_text(GOOD.replace(old, new, 1))
    message = message_of(path)
    assert message.startswith(f"{path}:{line}: ")
    assert words in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ":1: the file is empty."),
        (b"# nothing but this\n", ":1: the file is empty."),
        (b"name: \xff\xfe", ": not UTF-8 text."),
        (b"name: a\x00b", ":1: not YAML: "),
        (b"[" * 2000, ":1: not YAML: "),
        (b"just text", ":1: the ontology must be a mapping, not text."),
        (b"- a\n- b", ":1: the ontology must be a mapping, not a list."),
        (b'name: a\nversion: "1"', ":1: the ontology has no 'findings'."),
        (b'name: a\nversion: "1"\nfindings: []', ":3: there are no findings."),
    ],
)
def test_files_that_are_no_ontology(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    message = message_of(path)
    assert message.startswith(f"{path}{words}")
    assert "\n" not in message


def test_files_that_are_not_there(tmp_path: Path) -> None:
    assert message_of(tmp_path / "none.yaml").startswith(f"{tmp_path / 'none.yaml'}: No such file or directory.")
    assert message_of(tmp_path).startswith(f"{tmp_path}: Is a directory.")
    with pytest.raises(ConfigError, match=r"^there is no ontology 'thorx'\. Did you mean 'thorax'\?$"):
        load_ontology("thorx")
    with pytest.raises(ConfigError, match=r"Known: kermany, lung10, nih14, six_classes, thorax; or give the path"):
        load_ontology("zzzz")
    with pytest.raises(ConfigError, match="no ontology ''"):
        load_ontology("")


def test_many_joined_diamonds_are_checked_at_once(tmp_path: Path) -> None:
    """2^60 ways up: a walk over ways instead of findings would not end."""
    rungs = [
        f"  - {{name: A{i}, parents: [A{i - 1}, B{i - 1}]}}\n  - {{name: B{i}, parents: [A{i - 1}, B{i - 1}]}}\n"
        for i in range(1, 60)
    ]
    path = tmp_path / "ladder.yaml"
    path.write_text('name: ladder\nversion: "1"\nfindings:\n  - name: A0\n  - name: B0\n' + "".join(rungs))
    ontology = load_ontology(path)
    assert len(ontology.ancestors("A59")) == 118
    assert max(ontology.depth) == 59


def bundle() -> dict[str, Any]:
    findings = [{"name": "Pleural"}, {"name": "Effusion", "parents": ["Pleural"], "names": {"nih": ["Effusion"]}}]
    return {"name": "small", "version": "1", "findings": findings}


def test_a_bundle_says_which_value_is_wrong() -> None:
    assert Ontology.from_dict(bundle()).names == ("Pleural", "Effusion")
    for change, words in [
        ({"name": 3}, r"ontology\.name: 'name' must be text, not int"),
        ({"extra": 1}, r"ontology\.extra: unknown key 'extra'"),
        ({"findings": {}}, r"ontology\.findings: 'findings' must be a list, not a mapping"),
        (
            {"findings": [{"name": "A", "parents": ["B"]}]},
            r"ontology\.findings\.0\.parents\.0: 'A' has the unknown parent",
        ),
        ({"findings": [{"name": "A", 3: "B"}]}, r"ontology\.findings\.0: item 1 of 'findings' has the key 3"),
    ]:
        with pytest.raises(ConfigError, match=words):
            Ontology.from_dict({**bundle(), **change})


def test_findings_may_be_written_in_any_order() -> None:
    body = bundle()
    body["findings"] = list(reversed(body["findings"]))
    assert Ontology.from_dict(body).names == ("Pleural", "Effusion")
