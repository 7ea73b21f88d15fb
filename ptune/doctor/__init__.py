"""`ptune doctor`: what ptune promises, tried on a model of the user's own.

    report = examine(Backbone.load("my-model"))
    report.sites          # where deep prompts go
    report.findings       # one a truth: holds, broken, refused or not examined, and by how much
    report.broken         # the names of the truths that do not hold

finding    what an examination says
patient    the model on the table: rows, prompts, tolerance
oracles    the same numbers by other means: the untouched model, its own cache, a naive attention
truths     one function a truth
small      a small random model of the same family, from a config alone

The oracles share no code with ptune's packs: what is compared was computed in two ways.
"""

from ptune.doctor.examination import examine as examine
from ptune.doctor.examination import refused as refused
from ptune.doctor.finding import Finding as Finding
from ptune.doctor.finding import Report as Report
from ptune.doctor.small import small_backbone as small_backbone
