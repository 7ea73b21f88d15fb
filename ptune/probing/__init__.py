"""Knowledge probing (LAMA): what a backbone knows of facts, with a prompt for each relation.

    facts     P19: (Dante, Florence), (Goethe, Frankfurt), ...      facts.py
    template  {soft:3} {subject}{soft:3}{mask}{soft:3}              templates.py
    ranks     of "Florence" among the words of a list               words.py, ranking.py
    prompts   one for each relation, trained and scored             plan.py, prompts.py
    record    P@1, P@10, MRR of each relation, and their mean       relations.py, record.py

After the knowledge probing of Liu et al. 2021 (P-tuning, arXiv:2103.10385) and Petroni et al. 2019
(LAMA, arXiv:1909.01066). `probe` in `relations.py` goes through the relations, with one backbone
for all.
"""

from ptune.probing.facts import Columns as Columns
from ptune.probing.facts import FactSet as FactSet
from ptune.probing.facts import Shares as Shares
from ptune.probing.facts import find_facts as find_facts
from ptune.probing.plan import METHODS as METHODS
from ptune.probing.plan import Plan as Plan
from ptune.probing.plan import check_methods as check_methods
from ptune.probing.record import PROTOCOL as PROTOCOL
from ptune.probing.record import means_of as means_of
from ptune.probing.relations import probe as probe
from ptune.probing.templates import Wish as Wish
from ptune.probing.words import read_words as read_words
from ptune.probing.words import shared_words as shared_words
