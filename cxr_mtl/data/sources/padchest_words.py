"""PadChest's words: all that its column ``Labels`` can say, and how a cell of it is read."""

from __future__ import annotations

import ast
from dataclasses import dataclass

# In lower case; to tell a finding that an ontology leaves out from a slip of the pen. A test reads it off the table.
_VOCABULARY = """
abnormal foreign body; abscess; adenopathy; air bronchogram; air fluid level; air trapping; alveolar pattern;
aortic aneurysm; aortic atheromatosis; aortic button enlargement; aortic elongation; aortic endoprosthesis;
apical pleural thickening; artificial aortic heart valve; artificial heart valve; artificial mitral heart valve;
asbestosis signs; ascendent aortic elongation; atelectasis; atelectasis basal; atypical pneumonia; axial hyperostosis;
azygoesophageal recess shift; azygos lobe; blastic bone lesion; bone cement; bone metastasis; breast mass;
bronchiectasis; bronchovascular markings; bullas; calcified adenopathy; calcified densities; calcified fibroadenoma;
calcified granuloma; calcified mediastinal adenopathy; calcified pleural plaques; calcified pleural thickening;
callus rib fracture; cardiomegaly; catheter; cavitation; central vascular redistribution; central venous catheter;
central venous catheter via jugular vein; central venous catheter via subclavian vein;
central venous catheter via umbilical vein; cervical rib; chest drain tube; chilaiditi sign; chronic changes;
clavicle fracture; consolidation; copd signs; costochondral junction hypertrophy; costophrenic angle blunting; cyst;
dai; descendent aortic elongation; dextrocardia; diaphragmatic eventration; double j stent; dual chamber device;
electrical device; emphysema; empyema; end on vessel; endoprosthesis; endotracheal tube; esophagic dilatation;
exclude; external foreign body; fibrotic band; fissure thickening; flattened diaphragm; fracture; gastrostomy tube;
goiter; granuloma; ground glass pattern; gynecomastia; heart insufficiency; heart valve calcified;
hemidiaphragm elevation; hiatal hernia; hilar congestion; hilar enlargement; humeral fracture; humeral prosthesis;
hydropneumothorax; hyperinflated lung; hypoexpansion; hypoexpansion basal; increased density; infiltrates;
interstitial pattern; kerley lines; kyphosis; laminar atelectasis; lepidic adenocarcinoma; lipomatosis;
lobar atelectasis; loculated fissural effusion; loculated pleural effusion; lung metastasis; lung vascular paucity;
lymphangitis carcinomatosa; lytic bone lesion; major fissure thickening; mammary prosthesis; mass; mastectomy;
mediastinal enlargement; mediastinal mass; mediastinal shift; mediastinic lipomatosis; metal; miliary opacities;
minor fissure thickening; multiple nodules; nephrostomy tube; nipple shadow; nodule;
non axial articular degenerative changes; normal; nsg tube; obesity; osteopenia; osteoporosis; osteosynthesis material;
pacemaker; pectum carinatum; pectum excavatum; pericardial effusion; pleural effusion; pleural mass; pleural plaques;
pleural thickening; pneumomediastinum; pneumonia; pneumoperitoneo; pneumothorax; post radiotherapy changes; prosthesis;
pseudonodule; pulmonary artery enlargement; pulmonary artery hypertension; pulmonary edema; pulmonary fibrosis;
pulmonary hypertension; pulmonary mass; pulmonary venous hypertension; reservoir central venous catheter;
respiratory distress; reticular interstitial pattern; reticulonodular interstitial pattern; rib fracture;
right sided aortic arch; round atelectasis; sclerotic bone lesion; scoliosis; segmental atelectasis;
single chamber device; soft tissue mass; sternoclavicular junction hypertrophy; sternotomy; subacromial space narrowing;
subcutaneous emphysema; suboptimal study; superior mediastinal enlargement; supra aortic elongation; surgery;
surgery breast; surgery heart; surgery humeral; surgery lung; surgery neck; suture material; thoracic cage deformation;
total atelectasis; tracheal shift; tracheostomy tube; tuberculosis; tuberculosis sequelae; unchanged;
vascular hilar enlargement; vascular redistribution; ventriculoperitoneal drain tube; vertebral anterior compression;
vertebral compression; vertebral degenerative changes; vertebral fracture; volume loss
"""
WORDS = frozenset(" ".join(_VOCABULARY.split()).split("; "))

NORMAL = "normal"
OPEN = frozenset({"", "unchanged"})
"""Words that leave open what is not listed: an earlier report knows, or nobody could label a sentence."""
REMARKS = OPEN | {"suboptimal study", "exclude"}
"""Words about the report or the film, not about what the film shows."""
BLANK = ("", "nan")
"""How the table writes that it has nothing to say."""


@dataclass(frozen=True)
class Listed:
    """What one cell comes to.

    Attributes:
        words: what the film shows, remarks left out; in lower case, sorted.
        open: whether what is not listed is unknown.
        unusable: why a film with this cell is left out; empty where it is not.
    """

    words: tuple[str, ...] = ()
    open: bool = False
    unusable: str = ""


def read_listed(text: str) -> Listed:
    """Read a cell, such as ``['cardiomegaly', ' unchanged', '']``: a Python list with stray spaces and empty words."""
    if text in BLANK:
        return Listed(unusable="row has no labels")
    try:
        given = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        given = None
    if not isinstance(given, list) or not all(isinstance(word, str) for word in given):
        return Listed(unusable="Labels is no list of words")
    words = {word.strip().casefold() for word in given} or {""}
    shown = words - REMARKS
    if not shown and "exclude" in words:
        return Listed(unusable="report says nothing of the film ('exclude' alone)")
    if NORMAL in shown and len(shown) > 1:
        return Listed(unusable="row says normal and lists findings")
    return Listed(tuple(sorted(shown)), open=not words.isdisjoint(OPEN))
