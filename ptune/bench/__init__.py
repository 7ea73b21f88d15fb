"""`ptune bench`: what a step of a recipe costs on this machine, beside the floor and beside PEFT.

    measured = measure(recipe, steps=10)
    measured.ptune.seconds, measured.times_floor

floor      the least that a step can take: its matrix products at the machine's own peak
process    measured processes, which take one step each in turn
sides      ptune's side of a recipe: its rows, its prompt, one step
peer       the same in PEFT, where PEFT can say it
worker     one side in a process of its own
measure    asks the processes in turn, and sums up

Imports nothing, so that the process which asks stays small. The scripts in bench/ use the same
parts.
"""

NO_PEFT = "PEFT is not installed, so there is nothing to measure beside. pip install peft"
