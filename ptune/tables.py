"""Where the command line's tables go: text is shown as it is.

Knows no prompt and no score. What is shown in which table: `display.py`.
"""

from rich.console import Console

# A user's text may hold [brackets] and :words:, which rich would take for markup.
console = Console(markup=False, emoji=False)
