"""The table that people fill in."""

from __future__ import annotations

import textwrap

from cxr_mtl.ontology import Ontology

_SHOWN = 4

_TEXT = """\
Table of films for: cxr-mtl data import csv THIS_FILE --out films.parquet
One row a film. Separated by commas, semicolons or tabs. Lines that start with # are left out, as are empty rows.

image_path  NEEDED. The film: PNG, JPEG or DICOM. Relative to the folder of this table, with / or \\.
patient_id  NEEDED. Films of one patient are never split. Any text; it need not be, and should not be, a real name.
study_id    Films taken together. Empty: each film by itself.
split       train, val or test. Empty everywhere: patients are dealt 70, 10 and 20 percent.
view        PA, AP or LATERAL. Empty: unknown.
age         Years; 058Y, 018M and 010D do as well. Empty: unknown.
sex         M or F. Empty: unknown.

After these, one column a finding, as many as you know of: 1 present, 0 absent, -1 uncertain, empty unknown.
Empty is not 0: what nobody looked for teaches nothing, while 0 teaches that it is not there.
A column that you do not have is unknown on every film. yes, no, true and false do as well.
"""

_BOXES = """\
Boxes go into a second table, boxes.csv, beside this one:
image_path,finding,x1,y1,x2,y2,width,height,reader
Pixels from the top left corner, x to the right, y down. width and height are the size that the boxes were drawn on;
empty: the size of the file. reader may be empty. A row with an image_path alone: searched, and nothing there.
"""


def template(ontology: Ontology) -> str:
    """A table that explains itself, with three films to overwrite.

    Its findings are the ontology's first few; all are named in its comments.
    """
    names = [finding.name for finding in ontology.findings if not finding.group and finding.name != ontology.normal]
    shown = ([ontology.normal] if ontology.normal else []) + names[:_SHOWN]
    listed = textwrap.wrap(f"Findings of ontology {ontology.name}: {', '.join(ontology.names)}.", 118)
    about = [*_TEXT.splitlines(), *listed, "", *_BOXES.splitlines()]
    comments = [f"# {line}".rstrip() for line in about]
    header = ["image_path", "patient_id", "study_id", "split", "view", "age", "sex", *shown]
    films = [
        ["films/a1.png", "A", "A-1", "train", "PA", "63", "F"],
        ["films/b1.png", "B", "B-1", "val", "AP", "58", "M"],
        ["films/c1.dcm", "C", "", "test", "", "", ""],
    ]
    normal, sick = len(shown) - len(names[:_SHOWN]), len(names[:_SHOWN])
    labels = [["1"] * normal + ["0"] * sick, ["0"] * normal + _marks(sick), [""] * normal + _marks(sick)[::-1]]
    rows = [",".join(film + marks) for film, marks in zip(films, labels, strict=True)]
    return "\n".join([*comments, ",".join(header), *rows]) + "\n"


def _marks(num: int) -> list[str]:
    """One present, one absent, one uncertain and one unknown, as far as there are columns."""
    return ["1", "0", "-1", ""][:num]
