"""How well predictions fit: functions from plain values to finite numbers by name, one file for each kind of answer.

A number that the rows do not define (a correlation with a constant, the area under the curve of a class without
rows) is left out, never NaN or a stand-in. Scores are fractions of one unless the docstring says otherwise. Libraries
are imported when a function is called, so importing a module costs nothing.
"""

from __future__ import annotations
